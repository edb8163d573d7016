"""PSNR by iteration of the yardsticks' fits, for `bench.py`: hours of computing, so it is kept in published.json.

    python benchmarks/reference.py            # goes on where it was stopped

A fit ends when its running average has not been better for 350 iterations.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from dipddpm_lib import compute, dip, images, metrics
from dipddpm_lib.cells import Cell

from bench import TASK, YARDSTICKS  # isort: skip
from records import keep  # isort: skip

RECORD = Path(__file__).resolve().parent / "published.json"
PICTURES = ("astronaut", "chelsea", "coffee")
SEEDS = (0, 1, 2)
PATIENCE = 350


def main() -> None:
    record: dict[str, Any] = {"task": TASK, "size": 128, "fits": []}
    if RECORD.exists():
        record = json.loads(RECORD.read_text())
    done = {(fit["name"], fit["image"], fit["seed"]) for fit in record["fits"]}
    for seed in SEEDS:
        for name in YARDSTICKS:
            for picture in PICTURES:
                if (name, picture, seed) in done:
                    continue
                record["fits"].append(
                    {"name": name, "image": picture, "seed": seed, "threads": compute.default().threads}
                    | {"psnr": curve(name, picture, seed)}
                )
                keep(RECORD, json.dumps(record))
                print(f"{name}, {picture}, seed {seed}", file=sys.stderr, flush=True)


def curve(name: str, picture: str, seed: int) -> list[float]:
    """PSNR of the running average after every iteration."""
    config, x_true = YARDSTICKS[name], images.load(picture, 128)
    y = Cell(picture, 128, seed, config, TASK).measurement(x_true)
    out: list[float] = []
    for fit in dip.reconstruct(y, config, compute.generator(seed, "dip")):
        out.append(round(metrics.psnr(fit.x0_hat, x_true), 3))
        if len(out) - out.index(max(out)) > PATIENCE:
            break
    return out


if __name__ == "__main__":
    main()
