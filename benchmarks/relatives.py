"""Self-diffusion (Luo et al. 2025), the hybrid's relative that needs no training: PSNR beside DIP's by image and task.

One untrained network is led down a ladder of noise levels. At each the estimate is noised once, and the network is
fitted to the measurement with that as its input; its output is the next estimate. The ladder and the number of levels
are the authors'; the network is one of DIP's `fast`, and all levels together take as many iterations as its four.

python benchmarks/relatives.py    # writes relatives.json, which Appendix C shows
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from handoff import measured
from records import SIZE, arguments, fill

from dipddpm_lib import compute, experiment, images, metrics
from dipddpm_lib.cells import Cell
from dipddpm_lib.dip import DIPConfig
from dipddpm_lib.networks import SkipNetwork, build
from dipddpm_lib.optimise import Adam
from dipddpm_lib.types import Image, Measurement

LEVELS, BETAS = 40, (1e-4, 1e-2)
DIP = DIPConfig.fast(450)  # the limit that longer.py begins with
FIT = DIP.iterations * DIP.runs // LEVELS  # iterations at each level
LR = 0.003  # of 0.001, 0.003, 0.01 and 0.03 the best on photographs that are not scored here (--tune)


def self_diffusion(measurement: Measurement, generator: torch.Generator, lr: float = LR) -> Image:
    """The estimate after the last level."""
    where = compute.default()
    network = build(
        SkipNetwork,
        generator,
        device=where.device,
        filters=DIP.filters,
        skip=DIP.skips,
        in_channels=3,  # the noisy estimate
        upsampling=DIP.upsampling,
        lean=DIP.lean,
        refine=DIP.refine,
        activation=DIP.activation,
    )
    optimiser = Adam(network, where, lr)
    alpha_bar = (1 - torch.linspace(*BETAS, LEVELS, dtype=torch.float64)).cumprod(0)
    x_hat = torch.randn(1, 3, *measurement.image_size, generator=generator)
    for sigma in (1 - alpha_bar).sqrt().flip(0).tolist():
        x_t = x_hat + sigma * torch.randn(x_hat.shape, generator=generator)
        output = x_hat
        for _ in range(FIT):
            output = network(x_t)
            optimiser.step((measurement.operator.A(output) - measurement.y).square().mean())
        x_hat = output.detach()
    return x_hat


def row(image: str, degradation: str, seed: int) -> dict[str, Any]:
    """Both methods' PSNR."""
    x_true = images.load(image, SIZE)
    m = measured(x_true, degradation, seed)
    theirs = self_diffusion(m, compute.generator(seed, "self-diffusion"))
    ours = experiment.run(Cell(image, SIZE, seed, DIP, degradation))  # stored, where 07_restoration ran on one thread
    psnr = {"DIP": ours.psnr, "self-diffusion": metrics.psnr(theirs, x_true)}
    return {"image": image, "degradation": degradation, "seed": seed, "psnr": psnr}


def tune() -> None:
    """Print the mean PSNR by rate over a few tasks of photographs that are not scored."""
    for lr in (0.001, 0.003, 0.01, 0.03):
        found = []
        for image in ("motorcycle_left", "grace_hopper"):
            x_true = images.load(image, SIZE)
            for task in ("inpaint_50", "compressive_10"):
                end = self_diffusion(measured(x_true, task, 0), compute.generator(0, "tune"), lr)
                found.append(metrics.psnr(end, x_true))
        print(lr, f"{math.fsum(found) / len(found):.2f}", [round(psnr, 2) for psnr in found], flush=True)


def main() -> None:
    parser = arguments(__doc__, "relatives")
    parser.add_argument("--tune", action="store_true", help="look for the rate, and write nothing")
    options = parser.parse_args()
    if options.tune:
        tune()
        return
    fill(row, Path(__file__), options, {"levels": LEVELS, "fit": FIT})


if __name__ == "__main__":
    main()
