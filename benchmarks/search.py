"""The search behind `DIPConfig.fast`: random settings, short fits to training photographs, one JSON record.

    python benchmarks/search.py --fits 300

Every fit is a stored result: a search that was stopped goes on where it was. The photographs are ones that the bundled
priors train on, the seeds start at 100: nothing that the report scores takes part.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch

from dipddpm_lib import compute, experiment
from dipddpm_lib.dip import DIPConfig

HERE = Path(__file__).resolve().parent
PHOTOGRAPHS = ("grace_hopper", "motorcycle_left", "ihc")
SIZE = 96
BROAD: dict[str, tuple[object, ...]] = {
    "filters": (
        (32, 64, 96, 128),
        (24, 48, 96, 128),
        (16, 32, 64, 128),
        (16, 64, 96, 128),
        (48, 64, 96, 128),
        (32, 64, 64, 64),
        (32, 64, 128),
        (16, 32, 64, 128, 128),
    ),
    "skip": (4, 8, 16),
    "in_channels": (8, 16, 32),
    "refine": (1, 3),
    "activation": ("silu", "leaky_relu"),
    "lr": (0.005, 0.01, 0.02),
    "lr_end": (1.0, 0.1),
    "jitter": (0.01, 0.02, 1 / 30, 0.05),
    "ema": (0.97, 0.98, 0.99),
    "growing": (False, True),
}

# what the broad stage left standing: a rate that stays, a long average, light convolutions
NARROW: dict[str, tuple[object, ...]] = {
    "filters": (
        (32, 64, 96, 128),
        (24, 48, 96, 128),
        (16, 32, 64, 128),
        (32, 64, 128),
        (24, 48, 96),
        (16, 32, 64),
        (64, 64, 64, 64),
        (32, 64, 64, 64),
    ),
    "skip": (4, 8),
    "in_channels": (8, 16, 32),
    "refine": (1, 1, 3),
    "activation": ("silu", "leaky_relu"),
    "lr": (0.007, 0.01, 0.015),
    "lr_end": (1.0,),
    "jitter": (0.01, 0.015, 0.02, 1 / 30),
    "ema": (0.98, 0.985, 0.99),
    "growing": (False,),
}
BROAD_COUNT = 12


def settings(count: int, iterations: int) -> list[DIPConfig]:
    """`count` random settings, the first ones broad; a longer list begins with the shorter one."""
    draw = compute.generator(100, "search")
    plain = DIPConfig(iterations=iterations, stop="none", held_out=0.0)
    out = []
    for index in range(count):
        choices = BROAD if index < BROAD_COUNT else NARROW
        picks = {name: v[int(torch.randint(len(v), (), generator=draw))] for name, v in choices.items()}
        out.append(replace(plain, **picks))  # type: ignore[arg-type]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fits", type=int, default=300)
    parser.add_argument("--iterations", type=int, default=450)
    parser.add_argument("--output", type=Path, default=HERE / "search.json")
    arguments = parser.parse_args()
    rows = []
    for index, config in enumerate(settings(-(-arguments.fits // len(PHOTOGRAPHS)), arguments.iterations)):
        for photograph in PHOTOGRAPHS:
            result = experiment.run(experiment.Cell(photograph, SIZE, 100 + index, config, "denoise_25"))
            rows.append(
                {
                    "image": photograph,
                    "seed": 100 + index,
                    **{name: asdict(config)[name] for name in BROAD},
                    "parameters": result.extra["parameters"],
                    "ms": 1e3 * result.seconds["fit"] / arguments.iterations,
                    "trace": [[i, round(psnr, 3)] for i, _, psnr, _ in result.trace],
                }
            )
        record = {"size": SIZE, "iterations": arguments.iterations, "machine": compute.machine(), "fits": rows}
        arguments.output.write_text(json.dumps(record))
        print(f"{len(rows)} fits", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
