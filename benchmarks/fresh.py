"""The released library on photographs that chose nothing: no training, no search and no figure has them.

ρ, the number of hand-offs and the rule of thumb about starts were chosen on the four photographs that the report
scores. These are all photographs of two Debian packages that nothing else here uses; the methods are those of
`07_restoration` as `make paper` runs them, with one seed, and every task counts.

WORKERS=all python benchmarks/fresh.py    # writes fresh.json, which 07 shows; fetches the packages (apt-get)
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from records import HERE, SIZE, keep
from train_priors import unpacked

from dipddpm_lib import compute, experiment, hybrid, operators, play, store
from dipddpm_lib.cells import Cell, Config
from dipddpm_lib.classical import ClassicalConfig
from dipddpm_lib.ddpm import SampleConfig
from dipddpm_lib.dip import DIPConfig
from dipddpm_lib.hybrid import HybridConfig
from dipddpm_lib.schedules import NoiseSchedule
from dipddpm_lib.types import require

PACKAGES = {
    "lxqt-themes": """
        Butterfly-Kenneth-Wimer.jpg Valendas.png after-the-rain.jpg appleflower.png beam.png butterfly.png cloud.png
        drop.png flowers.png fog.jpg this-is-not-windows.jpg""",
    "python3-sklearn": "china.jpg flower.jpg",
}
"""Debian's package → its photographs, all of them (drawings left out)."""

HYBRID, FIT = HybridConfig(), DIPConfig.fast(1500)
FROM_DIP = replace(HYBRID, start="dip")
DDPM_STEPS = (8, HYBRID.calls, 100, 300)
LEVELS = (0.2, 0.4, 0.8, 1.6)  # σ at which DDPM's own result is handed over; the best by the target counts
METHODS: dict[str, Config] = {
    "classical": ClassicalConfig(),
    "DIP": FIT,
    **{f"DDPM, {n}": replace(play.FROM_NOISE, steps=n) for n in DDPM_STEPS},
    "DIP+DDPM": FROM_DIP,
    "DIP+DDPM, whole fit": replace(FROM_DIP, dip=FIT),
    "start chosen": HYBRID,
}


def fetch(folder: Path) -> list[Path]:
    """The photographs as files somewhere in `folder`; the packages downloaded where they are not there."""
    folder.mkdir(parents=True, exist_ok=True)
    roots = {package: unpacked(package, folder) for package in PACKAGES}
    named = [(roots[package], name) for package, names in PACKAGES.items() for name in names.split()]
    found = [[*root.rglob(name)] for root, name in named]
    gone = [name for (_, name), files in zip(named, found, strict=True) if not files]
    require(not gone, f"photographs: {', '.join(gone)} not in the packages under {folder}; expected Debian 12's")
    return [max(files, key=lambda file: file.stat().st_size) for files in found]  # an icon may have the same name


def cells(photograph: Path, task: str, seed: int) -> list[Cell]:
    """Every method, and DDPM's result handed over as often as DIP's is, once for each level."""
    own = [Cell(str(photograph), SIZE, seed, config, task, label=label) for label, config in METHODS.items()]
    x = own[0].x_true()
    cosine, again = NoiseSchedule.cosine(1000), hybrid.settle(own[0].measurement(x), FROM_DIP).again
    handed: list[tuple[str, SampleConfig, HybridConfig]] = [
        (
            f"DDPM, handed over at {sigma:g}",
            play.FROM_NOISE,
            replace(FROM_DIP, again=again, t_start=cosine.t_at_sigma(sigma)),
        )
        for sigma in LEVELS
    ]
    return own + [Cell(str(photograph), SIZE, seed, to, task, label=label, first=first) for label, first, to in handed]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", default=",".join(operators.TASKS), help="separated by commas")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--photographs", type=Path, help="where the packages lie, or are to be fetched to")
    parser.add_argument("--output", type=Path, default=HERE / "fresh.json")
    options = parser.parse_args()
    photographs = fetch(options.photographs or store.folder() / "fresh")
    asked = [
        cell
        for s in range(options.seeds)
        for photograph in photographs
        for task in options.tasks.split(",")
        for cell in cells(photograph, task, s)
    ]
    order = list(METHODS)  # fits and chains before what waits for them; a handed-over chain is none of these
    asked.sort(key=lambda cell: order.index(cell.label) if cell.label in order else len(order))
    by_place: dict[tuple[str, str | None, int], dict[str, Any]] = {}
    for cell, result in experiment.sweep(asked):
        scores = {"psnr": round(result.psnr, 3), "ssim": round(result.ssim, 4)}
        spent = {"seconds": round(result.total_seconds, 2), "evaluations": result.evaluations}
        by_place.setdefault((Path(cell.image).stem, cell.task, cell.seed), {})[cell.label] = scores | spent
    rows = [
        {"image": image, "degradation": task, "seed": seed, "methods": methods, "source": store.source_digest()}
        for (image, task, seed), methods in by_place.items()
    ]
    here = compute.machine()
    shared = {"size": SIZE, "iterations": FIT.iterations, "packages": {k: v.split() for k, v in PACKAGES.items()}}
    keep(options.output, json.dumps({**shared, "rows": rows, "machine": [f"{here['processor']}, {here['dtype']}"]}))


if __name__ == "__main__":
    main()
