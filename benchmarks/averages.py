"""One sample of DDPM from noise, or the mean of several: closeness to the target, and to its patches and spectrum.

The expected squared error of a sample of the posterior is twice the posterior mean's (Blau and Michaeli 2018), and the
mean of n samples has (1 + 1/n) times it. The hybrid's few deterministic steps come near a mean, so that part of its
lead over DDPM may be that of a mean over a sample.

python benchmarks/averages.py    # writes averages.json, which Appendix C shows
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from handoff import SCHEDULE, measured
from records import SIZE, arguments, fill

from dipddpm_lib import compute, ddpm, distribution, experiment, images, metrics, play, priors
from dipddpm_lib.cells import Cell
from dipddpm_lib.dip import DIPConfig
from dipddpm_lib.hybrid import HybridConfig
from dipddpm_lib.types import Image

SAMPLES = {24: 8, 100: 4}  # steps of a chain → how many are drawn
LIMIT = 1500  # iterations that DIP alone may take, as in `make paper`
OTHERS: dict[str, DIPConfig | HybridConfig] = {
    "DIP": DIPConfig.fast(LIMIT),
    "DIP+DDPM": replace(HybridConfig(), start="dip"),
    "start chosen": HybridConfig(),
}


def row(image: str, degradation: str, seed: int) -> dict[str, Any]:
    """Scores of the means of 1, 2, 4 … samples by the steps of a chain, of DIP and the hybrid, and of both together.

    both: the mean of that mean and the hybrid's image; what it gains tells whether the two err alike
    """
    x_true = images.load(image, SIZE)
    m = measured(x_true, degradation, seed)
    denoiser = priors.load(x_true)

    def sample(steps: int, draw: int) -> Image:
        x_T = torch.randn(x_true.shape, generator=compute.generator(seed, f"x_T {draw}"))
        config, generator = replace(play.FROM_NOISE, steps=steps), compute.generator(seed, f"sample {draw}")
        *_, last = ddpm.sample(denoiser, SCHEDULE, x_T, SCHEDULE.T, config, generator, m)
        return last.x0_hat

    def scored(x: Image) -> dict[str, Any]:
        return {
            "psnr": round(metrics.psnr(x, x_true), 3),
            "ssim": round(metrics.ssim(x, x_true), 4),
            "swd": round(distribution.patch_swd(x, x_true, compute.generator(0, "swd")), 4),
            "spectrum": round(distribution.spectral_distance(x, x_true), 2),
        }

    others = {
        name: experiment.run(Cell(image, SIZE, seed, config, degradation)).x0_hat for name, config in OTHERS.items()
    }
    means = []
    for steps, most in SAMPLES.items():
        drawn = [sample(steps, n) for n in range(most)]
        for count in (2**k for k in range(most.bit_length())):
            of_all = torch.cat(drawn[:count]).mean(0, keepdim=True)
            both = (of_all + others["DIP+DDPM"]) / 2
            means.append({"steps": steps, "samples": count, **scored(of_all), "both": scored(both)})
    return {
        "image": image,
        "degradation": degradation,
        "seed": seed,
        "means": means,
        **{name: scored(x) for name, x in others.items()},
    }


def main() -> None:
    options = arguments(__doc__, "averages").parse_args()
    settings = {"limit": LIMIT, "samples": list(SAMPLES.items()), "chain": asdict(play.FROM_NOISE)}
    fill(row, Path(__file__), options, settings)


if __name__ == "__main__":
    main()
