"""The training behind the shipped priors: photographs that the dependencies carry, and those of Debian's wallpapers.

`make priors` fetches the packages (apt-get) and trains both folds from where the shipped weights stand. The defaults
those of an earlier stage, on processors; the last ran on a GPU with --steps 6000 --batch 128 --lr 1e-3 --ema 0.999
--seed 2. The record in each weights file holds the settings of every stage. They were set by hand, not searched.
"""

from __future__ import annotations

import argparse
import io
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import PIL.Image
import PIL.ImageOps

from dipddpm_lib import experiment, priors, store
from dipddpm_lib.ddpm import TrainConfig

PACKAGES = {
    "lomiri-wallpapers-16.04": """
        Bridge_by_Sander_Klootwijk Dragonfly_by_Bolly Picture_0B_by_freespace Picture_1A_by_freespace
        Wine_by_Jakkub_Mede aitzgorri_by_Aitzol_Berasategi friends_by_Aitzol_Berasategi greentock_by_Peter_Nerlich
        life_by_Aitzol_Berasategi picosdeeuropa_by_Aitzol_Berasategi seeding_by_Clements_Engelhardt
        sunset_by_Aitzol_Berasategi free_by_Peter_Nerlich""",
    "lomiri-wallpapers-20.04": "Kleiber_by_Lukas_Baubkus",
    "mate-backgrounds": """
        Aqua Blinds Dune FreshFlower Garden GreenMeadow LadyBird RainDrops Storm TwoWings YellowFlower""",
    "plasma-workspace-wallpapers": """
        BytheWater ColdRipple ColorfulCups DarkestHour EveningGlow FallenLeaf Grey Kite OneStandsOut Path
        summer_1am""",
    "palapeli-data": """
        castle-maintenon cincinnati-bridge citrus-fruits european-honey-bee panther-chameleon-female""",
}
"""Debian's package → its photographs (drawings left out); each package's copyright file holds their licences."""

GCOMPRIS = """
    categorization clickgame details erase explore_farm_animals explore_monuments explore_world_animals
    explore_world_music"""
"""Of Debian's gcompris-qt-data: the activities whose resource files hold photographs, as WebP."""
LEAST_BYTES = 15_000  # of a WebP there: the smaller ones show tools on white paper
LEAST_SIDE = 200


def unpacked(package: str, folder: Path) -> Path:
    """Where the files of Debian's `package` lie, downloaded and unpacked where they do not yet."""
    if not (folder / package).exists():
        subprocess.run(["apt-get", "download", "-q", package], cwd=folder, check=True)
        (archive,) = folder.glob(f"{package}_*.deb")
        part = folder / f"{package}.part"  # what was interrupted is no package
        subprocess.run(["dpkg", "-x", archive, part], check=True)
        part.rename(folder / package)
        archive.unlink()
    return folder / package


def webps(resource: bytes) -> Iterator[bytes]:
    """The WebP files inside a file of Qt resources, which holds them whole: each tells its own length (RIFF)."""
    for found in re.finditer(rb"RIFF(....)WEBP", resource, re.DOTALL):
        yield resource[found.start() : found.start() + 8 + int.from_bytes(found[1], "little")]


def fetch(folder: Path) -> list[Path]:
    """All further photographs as files of `folder`, no larger than the training uses; made where they are not there."""
    done = folder / "done"
    if not done.exists():
        parts = folder / "packages"
        parts.mkdir(parents=True, exist_ok=True)
        for package, names in PACKAGES.items():
            for name in names.split():
                root = unpacked(package, parts)
                files = [*root.rglob(f"{name}.jpg"), *root.rglob(f"{name}/**/[0-9]*.jpg")]
                keep(max(files, key=lambda file: file.stat().st_size).read_bytes(), folder / f"{name}.webp")
        for activity in GCOMPRIS.split():
            (resource,) = unpacked("gcompris-qt-data", parts).rglob(f"{activity}.rcc")
            for index, webp in enumerate(webps(resource.read_bytes())):
                picture = PIL.Image.open(io.BytesIO(webp))
                if len(webp) >= LEAST_BYTES and picture.mode == "RGB" and min(picture.size) >= LEAST_SIDE:
                    keep(webp, folder / f"gcompris_{activity}_{index:03d}.webp")
        shutil.rmtree(parts)
        done.touch()
    return sorted(folder.glob("*.webp"))


def keep(source: bytes, path: Path) -> None:
    """Write a photograph with a shorter side of at most LARGEST_SIDE, without loss."""
    picture = PIL.ImageOps.exif_transpose(PIL.Image.open(io.BytesIO(source))).convert("RGB")
    scale = min(1, priors.LARGEST_SIDE / min(picture.size))
    size = (round(picture.width * scale), round(picture.height * scale))
    picture.resize(size, PIL.Image.Resampling.LANCZOS).save(path, lossless=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fold", type=int, choices=(1, 2), action="append", help="one of them alone")
    parser.add_argument("--photographs", type=Path, help="where the further photographs lie, or are to be fetched to")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--lr", type=float, default=6e-4)
    parser.add_argument("--ema", type=float, default=0.998)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    more = fetch(options.photographs or store.folder() / "photographs")
    config = replace(TrainConfig.bundled(options.steps), batch=options.batch, lr=options.lr, ema=options.ema)
    for fold in options.fold or (1, 2):
        print(experiment.train_bundled(fold, config, options.seed, go_on=True, more=more))


if __name__ == "__main__":
    main()
