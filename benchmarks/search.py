"""The search behind `DIPConfig.fast`: random settings, short fits to training photographs, one JSON record.

    python benchmarks/search.py

A search that was stopped goes on after the last setting on record. The photographs are ones that the bundled
priors train on, the seeds start at 100: nothing that the report scores takes part.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from dipddpm_lib import cells, compute, experiment
from dipddpm_lib.dip import DIPConfig
from dipddpm_lib.types import require

from records import keep  # isort: skip

HERE = Path(__file__).resolve().parent
PHOTOGRAPHS = ("grace_hopper", "motorcycle_left", "ihc")
SIZE = 96
CHOSEN = 300  # the seed of the fits of `fast` itself, which no draw gave
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

# and what several light networks give for the price of one heavy one
LIGHT: dict[str, tuple[object, ...]] = {
    "filters": (
        (16, 32, 64, 96),
        (16, 32, 64, 64),
        (16, 16, 32, 64),
        (16, 16, 32, 32),
        (8, 16, 32, 64),
        (16, 16, 32, 64, 64),
        (16, 16, 64),
    ),
    "skip": (4, 8),
    "in_channels": (8, 16, 32),
    "refine": (1, 1, 1, 3),
    "activation": ("silu", "silu", "leaky_relu"),
    "lr": (0.005, 0.007, 0.01),
    "lr_end": (1.0,),
    "jitter": (0.01, 0.02, 0.02, 1 / 30),
    "ema": (0.98, 0.99),
    "growing": (False,),
    "lift": (0, 1, 1, 2),
    "runs": (1, 2, 4, 4),
}

# with that network, how the rate rises, and whether half the size comes first
SCHEDULE: dict[str, tuple[object, ...]] = {
    "lr": (0.007, 0.014, 0.02, 0.03, 0.04, 0.06),
    "warmup": (0, 30, 60, 100, 150),
    "ema": (0.97, 0.98, 0.985, 0.99),
    "coarse": (0, 0, 40, 80),
    "jitter": (0.01, 0.02, 0.02),
}
UNTIL_THEN = {"warmup": 0, "coarse": 0}
# up to which setting each stage goes, and what it did not vary yet
STAGES: tuple[tuple[int, dict[str, int], dict[str, tuple[object, ...]]], ...] = (
    (12, {"lift": 0, "runs": 1, **UNTIL_THEN}, BROAD),
    (43, {"lift": 0, "runs": 1, **UNTIL_THEN}, NARROW),
    (71, UNTIL_THEN, LIGHT),
    (101, {}, SCHEDULE),
)


def settings(count: int, iterations: int) -> list[DIPConfig]:
    """`count` random settings, stage by stage; a longer list begins with the shorter one."""
    draw = compute.generator(100, "search")
    plain = DIPConfig(iterations=iterations, stop="none", held_out=0.0)
    out: list[DIPConfig] = []
    for end, fixed, choices in STAGES:
        for _ in range(len(out), min(end, count)):
            picks = {name: v[int(torch.randint(len(v), (), generator=draw))] for name, v in choices.items()}
            out.append(replace(plain, **fixed, **picks))  # type: ignore[arg-type]
    require(len(out) == count, f"--fits: expected at most {STAGES[-1][0] * len(PHOTOGRAPHS)}, got more")
    return out


def _searched(config: DIPConfig) -> dict[str, Any]:
    return {name: asdict(config)[name] for name in LIGHT | SCHEDULE}


def _has_settings(fit: dict[str, Any], config: DIPConfig) -> bool:
    """Whether a fit of the record is one of this configuration."""
    own = json.loads(json.dumps(_searched(config)))
    return {name: fit.get(name) for name in own} == own


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fits", type=int, default=STAGES[-1][0] * len(PHOTOGRAPHS))
    parser.add_argument(
        "--iterations", type=int, default=450, help="of each fit; a record goes on with its own number alone"
    )
    parser.add_argument("--output", type=Path, default=HERE / "search.json")
    arguments = parser.parse_args()
    record: dict[str, Any] = {"size": SIZE, "iterations": arguments.iterations, "fits": []}
    if arguments.output.exists():
        record = json.loads(arguments.output.read_text())
        if record["iterations"] != arguments.iterations:
            has = f"{arguments.output} has fits of {record['iterations']} iterations"
            parser.error(f"{has}; ask for these, or give --output")
    done = {(fit["image"], fit["seed"]) for fit in record["fits"]}
    drawn = settings(-(-arguments.fits // len(PHOTOGRAPHS)), record["iterations"])
    record["chosen"] = CHOSEN
    fast = replace(DIPConfig.fast(), iterations=record["iterations"], stop="none", held_out=0.0)
    asked = {CHOSEN: fast, **dict(enumerate(drawn, start=100))}
    others = [
        fit["seed"] for fit in record["fits"] if fit["seed"] in asked and not _has_settings(fit, asked[fit["seed"]])
    ]
    if others:
        parser.error(
            f"{arguments.output} has fits of other settings (seed {others[0]}); fill it anew, or give --output"
        )
    for seed, config in asked.items():
        for photograph in PHOTOGRAPHS:
            if (photograph, seed) in done:
                continue
            result = experiment.run(cells.Cell(photograph, SIZE, seed, config, "denoise_25"))
            record["fits"].append(
                {
                    "image": photograph,
                    "seed": seed,
                    **_searched(config),
                    "parameters": result.extra["parameters"],
                    "ms": 1e3 * result.seconds["fit"] / record["iterations"],
                    "trace": [[i, round(psnr, 3)] for i, _, psnr, _ in result.trace],
                }
            )
        record["machine"] = compute.machine()
        keep(arguments.output, json.dumps(record))
        print(f"{len(record['fits'])} fits", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
