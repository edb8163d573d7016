"""The training behind the shipped priors: photographs that the dependencies carry, and those of Debian's wallpapers.

`make priors` fetches the packages (apt-get) and trains both folds from where the shipped weights stand.
"""

from __future__ import annotations

import argparse
import subprocess
from dataclasses import replace
from pathlib import Path

from dipddpm_lib import experiment, store
from dipddpm_lib.ddpm import TrainConfig

PACKAGES = {
    "lomiri-wallpapers-16.04": """
        Bridge_by_Sander_Klootwijk Dragonfly_by_Bolly Picture_0B_by_freespace Picture_1A_by_freespace
        Wine_by_Jakkub_Mede aitzgorri_by_Aitzol_Berasategi friends_by_Aitzol_Berasategi greentock_by_Peter_Nerlich
        life_by_Aitzol_Berasategi picosdeeuropa_by_Aitzol_Berasategi seeding_by_Clements_Engelhardt
        sunset_by_Aitzol_Berasategi""",
    "lomiri-wallpapers-20.04": "Kleiber_by_Lukas_Baubkus",
    "mate-backgrounds": """
        Aqua Blinds Dune FreshFlower Garden GreenMeadow LadyBird RainDrops Storm TwoWings YellowFlower""",
    "plasma-workspace-wallpapers": """
        BytheWater ColdRipple ColorfulCups EveningGlow FallenLeaf Grey Kite OneStandsOut Path""",
}
"""Debian's package → its photographs (drawings left out); each package's copyright file holds their licences."""


def fetch(folder: Path) -> list[Path]:
    """The photographs as files named after them, downloaded and unpacked where they are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for package, names in PACKAGES.items():
        for name in names.split():
            path = folder / f"{name}.jpg"
            if not path.exists():
                if not (folder / package).exists():
                    subprocess.run(["apt-get", "download", "-q", package], cwd=folder, check=True)
                    (archive,) = folder.glob(f"{package}_*.deb")
                    subprocess.run(["dpkg", "-x", archive, folder / package], check=True)
                files = [*(folder / package).rglob(f"{name}.jpg"), *(folder / package).rglob(f"{name}/**/[0-9]*.jpg")]
                path.symlink_to(max(files, key=lambda file: file.stat().st_size).resolve())
            found.append(path)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fold", type=int, choices=(1, 2), action="append", help="one of them alone")
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--lr", type=float, default=6e-4)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    more = fetch(store.folder() / "photographs")
    config = replace(TrainConfig.bundled(options.steps), lr=options.lr)
    for fold in options.fold or (1, 2):
        print(experiment.train_bundled(fold, config, options.seed, go_on=True, more=more))


if __name__ == "__main__":
    main()
