"""DDPM from pure noise at its best: PSNR by steps, fresh noise and trust in y; and what a hand-off adds to its result.

python benchmarks/from_noise.py    # writes from_noise.json, which Appendix C shows
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from handoff import SCHEDULE, measured
from records import SIZE, arguments, fill

from dipddpm_lib import compute, ddpm, hybrid, images, metrics, play, priors
from dipddpm_lib.ddpm import SampleConfig
from dipddpm_lib.hybrid import HybridConfig
from dipddpm_lib.types import Image

STEPS = (8, 24, 100)
ZETAS = (0.3, 1.0)
LAMBDAS = (0.3, 1.0, 3.0, 7.0)  # where y is noisy; elsewhere it is trusted to its rounding, whatever λ
SIGMAS = (0.1, 0.2, 0.4, 0.8)  # at which the result is handed over, as DIP's would be


def row(image: str, degradation: str, seed: int) -> dict[str, Any]:
    """The PSNR that each setting ends at, and that of 100 steps after a further hand-off by its noise level."""
    x_true = images.load(image, SIZE)
    m = measured(x_true, degradation, seed)
    denoiser = priors.load(x_true)
    x_T = torch.randn(x_true.shape, generator=compute.generator(seed, "x_T"))

    def run(x_t: Image, t: int, config: SampleConfig) -> Image:
        *_, last = ddpm.sample(denoiser, SCHEDULE, x_t, t, config, compute.generator(seed, "sample"), m)
        return last.x0_hat

    def psnr(x: Image) -> float:
        return round(metrics.psnr(x, x_true), 3)

    settings = [
        replace(play.FROM_NOISE, steps=steps, zeta=zeta, lam=lam)
        for steps in STEPS
        for zeta in ZETAS
        for lam in (LAMBDAS if m.sigma_y > 0 else (play.FROM_NOISE.lam,))
    ]
    ends = [run(x_T, SCHEDULE.T, config) for config in settings]
    usual = ends[settings.index(play.FROM_NOISE)]
    ts = [SCHEDULE.t_at_sigma(sigma) for sigma in SIGMAS]
    again = [psnr(run(hybrid.hand_off(usual, SCHEDULE, t), t, HybridConfig().sample)) for t in ts]
    return {
        "image": image,
        "degradation": degradation,
        "seed": seed,
        "after": [
            {"steps": c.steps, "zeta": c.zeta, "lam": c.lam, "psnr": psnr(end)}
            for c, end in zip(settings, ends, strict=True)
        ],
        "usual": psnr(usual),
        "handed over": again,
    }


def main() -> None:
    options = arguments(__doc__, "from_noise").parse_args()
    fill(row, Path(__file__), options, {"sigmas": SIGMAS, "chain": asdict(play.FROM_NOISE)})


if __name__ == "__main__":
    main()
