"""What dead leaves add to photographs in training a denoiser: small networks on mixtures of both, by held-out PSNR.

The trainings are equal but for what they see: all photographs that the dependencies carry and that the fold may see, or
a few of them; a share of crops from dead leaves in their colours; or leaves alone, at last in colours of no photograph.

python benchmarks/leaves.py    # writes leaves.json, which 02_ddpm shows
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from records import keep
from torch import Tensor

from dipddpm_lib import compute, ddpm, images, metrics, priors, store
from dipddpm_lib.ddpm import TrainConfig
from dipddpm_lib.networks import DenoisingUNet
from dipddpm_lib.types import Image

HERE = Path(__file__).resolve().parent
SIZE = 128
LEVELS = (15, 25, 50, 100)
TRAINING = TrainConfig(
    channels=(16, 32, 64), crop=48, batch=8, steps=2000, warmup=100, ema=0.995, flips=True, colours=True
)
LEAVES = 150  # pictures of 128 × 128
FEW = ("grace_hopper", "motorcycle_left", "gravel", "ihc")
MIXTURES: dict[str, tuple[str, float]] = {  # photographs, share of crops from leaves
    "all photographs": ("all", 0.0),
    "all photographs, 5 % leaves": ("all", 0.05),  # as the shipped priors began
    "all photographs, half leaves": ("all", 0.5),
    "four photographs": ("few", 0.0),
    "four photographs, half leaves": ("few", 0.5),
    "leaves in the photographs' colours": ("all", 1.0),
    "leaves in any colours": ("none", 1.0),
}


def training_images(fold: priors.Fold, mixture: str, generator: torch.Generator) -> list[Image]:
    """Photographs at the priors' scales, and leaves, listed so often that crops are drawn in these shares."""
    which, share = MIXTURES[mixture]
    names = {"all": priors.training_names(fold), "few": FEW, "none": ()}[which]
    photographs = [x for name in names for x in priors.at_scales(name)]
    colours: Sequence[Tensor] = photographs or [torch.rand(1, 3, 64, 64, generator=generator) * 2 - 1]
    if share == 0:
        return photographs
    leaves = [priors.dead_leaves(128, colours, generator) for _ in range(LEAVES)]
    if share == 1:
        return leaves
    return photographs + [leaves[i % LEAVES] for i in range(round(share / (1 - share) * len(photographs)))]


def row(fold: priors.Fold, mixture: str, seed: int) -> dict[str, Any]:
    """PSNR of one call at each level, by photograph that the fold holds out."""
    draw = compute.generator(seed, f"leaves, fold {fold}")
    *_, last = ddpm.train(training_images(fold, mixture, draw), TRAINING, draw)
    psnr = {}
    for name in priors.HELD_OUT[fold]:
        x_true = images.load(name, SIZE)
        noise = torch.randn(x_true.shape, generator=compute.generator(0, f"noise {name}"))
        psnr[name] = {
            str(level): metrics.psnr(
                ddpm.denoise_once(last.denoiser, x_true + 2 * level / 255 * noise, 2 * level / 255), x_true
            )
            for level in LEVELS
        }
    return {"fold": fold, "mixture": mixture, "seed": seed, "psnr": psnr}


def _kept(where: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    return row(**where), {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folds", type=int, choices=(1, 2), nargs="+", default=(1, 2))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--output", type=Path, default=HERE / "leaves.json")
    options = parser.parse_args()
    source = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()  # the store knows the library's source alone
    rows = []
    for seed in range(options.seeds):
        for mixture in MIXTURES:
            for fold in options.folds:
                where = {"fold": fold, "mixture": mixture, "seed": seed}
                rows.append(store.remember("leaves.row", {**where, "script": source}, partial(_kept, where))[0])
                print(fold, mixture, seed, file=sys.stderr, flush=True)
    record = {
        "size": SIZE,
        "training": asdict(TRAINING),
        "parameters": sum(map(torch.numel, DenoisingUNet(channels=TRAINING.channels).parameters())),
        "photographs": {str(fold): len(priors.training_names(fold)) for fold in (1, 2)},
        "few": FEW,
        "rows": rows,
        "machine": compute.machine(),
    }
    keep(options.output, json.dumps(record))


if __name__ == "__main__":
    main()
