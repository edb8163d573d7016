"""What the error of a start looks like, at equal size: DIP's own, white, a blur's, and one with DIP's spectrum alone.

All four have the RMSE of DIP's fit to the same measurement, and go through the same single hand-off. So what differs in
what comes out is the error's colour, or, between DIP's own and its spectrum with phases at random, its structure. The
three that are not DIP's are made from the target: they are controls, and no methods.

python benchmarks/controls.py    # writes controls.json, which Appendix C shows
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from handoff import SCHEDULE, SIGMAS, STEPS, coarse_share, measured
from records import SIZE, arguments, fill
from scipy import ndimage, optimize

from dipddpm_lib import compute, ddpm, dip, distribution, hybrid, images, metrics, priors
from dipddpm_lib.ddpm import SampleConfig
from dipddpm_lib.hybrid import HybridConfig
from dipddpm_lib.types import Image, require

FIT = HybridConfig().dip
SAMPLE = SampleConfig(steps=STEPS)
KINDS = ("DIP's own", "its spectrum, phases at random", "a blur's", "white")


def errors(own: Image, x_true: Image, generator: torch.Generator) -> dict[str, Image]:
    """By `KINDS`: DIP's error and three of its RMSE; without the blur's where no blur is as far from the target."""
    rmse = own.square().mean().sqrt()
    noise = torch.randn(own.shape, generator=generator)
    found = {"DIP's own": own, "its spectrum, phases at random": distribution.phases_at_random(own, noise)}
    if (sigma := blur_of(float(rmse), x_true)) is not None:
        found["a blur's"] = blurred(x_true, sigma) - x_true
    return found | {"white": noise * (rmse / noise.square().mean().sqrt())}


def blurred(x: Image, sigma: float) -> Image:
    """Under a Gaussian of sigma pixels, circular; `operators.Blur` ends where its kernel is as large as the image."""
    spectrum = ndimage.fourier_gaussian(np.fft.fft2(x.double().numpy()), (0, 0, sigma, sigma))
    return torch.from_numpy(np.fft.ifft2(spectrum).real).to(x.dtype)


def blur_of(rmse: float, x_true: Image) -> float | None:
    """The Gaussian whose blur is as far from the target; None where the image's mean is not as far."""
    require(rmse > 0, f"rmse: expected above 0, got {rmse}")
    low, high = 1e-3, float(max(x_true.shape[-2:]))

    def beyond(sigma: float) -> float:
        return float((blurred(x_true, sigma) - x_true).square().mean().sqrt()) - rmse

    return float(optimize.brentq(beyond, low, high)) if beyond(high) >= 0 else None


def row(image: str, degradation: str, seed: int) -> dict[str, Any]:
    """Each error's coarse share, and the PSNR that it leads to by σ at the hand-off."""
    x_true = images.load(image, SIZE)
    m = measured(x_true, degradation, seed)
    denoiser = priors.load(x_true)
    *_, fit = dip.reconstruct(m, FIT, compute.generator(seed, "dip"))
    own = fit.x0_hat - x_true
    kinds = {}
    for kind, error in errors(own, x_true, compute.generator(seed, "errors")).items():
        after = []
        for t in (SCHEDULE.t_at_sigma(sigma) for sigma in SIGMAS):
            x_t = hybrid.hand_off(x_true + error, SCHEDULE, t)
            *_, last = ddpm.sample(denoiser, SCHEDULE, x_t, t, SAMPLE, compute.generator(seed, "sample"), m)
            after.append(round(metrics.psnr(last.x0_hat, x_true), 3))
        kinds[kind] = {"coarse": coarse_share(error), "after": after}
    where = {"image": image, "degradation": degradation, "seed": seed}
    return {**where, "psnr": round(metrics.psnr(fit.x0_hat, x_true), 3), "errors": kinds}


def main() -> None:
    options = arguments(__doc__, "controls").parse_args()
    fill(row, Path(__file__), options, {"sigmas": SIGMAS, "steps": STEPS})


if __name__ == "__main__":
    main()
