"""How well a fit's error can be known without the target, by four kinds of estimate, and what each is worth.

An estimate is worth what the hand-off makes of it: σ at the hand-off is a factor times it, so with each fit's estimates
stands its PSNR after one hand-off by σ, calibrated and renoised.

python benchmarks/estimates.py    # writes estimates.json, which Appendix C shows
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from handoff import SCHEDULE, SIGMAS, STEPS, measured
from records import SIZE, arguments, fill
from torch import Tensor

from dipddpm_lib import compute, ddpm, dip, hybrid, images, metrics, operators, priors
from dipddpm_lib.ddpm import SampleConfig
from dipddpm_lib.dip import Fit, Fitting
from dipddpm_lib.hybrid import HandOff, HybridConfig
from dipddpm_lib.types import Denoiser, Image, Measurement

FIT = HybridConfig().dip
SAMPLE = SampleConfig(steps=STEPS)
CALLS = 12  # of the denoiser, to find the noise level that its own residual has
KINDS = ("held out, and how far two fits differ", "held out", "how far two fits differ", "denoiser's residual", "SURE")


def _rms(x: Tensor) -> float:
    return math.sqrt(float(x.square().mean()))


def of_held_out(fitting: Fitting, fit: Fit) -> float:
    """The error on the held-out measurements alone, their noise taken off."""
    squares = fitting.held * (fitting.operator.A(fit.x0_hat) - fitting.y) ** 2
    return fitting.measurement.rmse(float(squares.sum()) / fitting.count, fitting.count)


def of_disagreement(fitting: Fitting) -> float:
    """The error of the fits' mean, were their errors independent."""
    apart = fitting.averages / (1 - fitting.unseen)
    return _rms(apart - apart.mean(0, keepdim=True)) / math.sqrt(len(apart) - 1)


def of_residual(x0_hat: Image, denoiser: Denoiser) -> float:
    """The σ at which the denoiser takes off as much as it is told there is (Kadkhodaie and Simoncelli 2021).

    Theirs is told nothing; ours is asked again with what it took off, from σ = 1 down.
    """
    sigma = 1.0
    for _ in range(CALLS):
        sigma = max(1e-3, _rms(x0_hat - ddpm.denoise_once(denoiser, x0_hat, sigma)))
    return sigma


def of_sure(m: Measurement, fit: Fit, seed: int) -> float | None:
    """Stein's unbiased risk estimate under white noise, its divergence by one more fit (Ramani et al. 2008)."""
    if not isinstance(m.operator, operators.Identity):
        return None
    same = replace(FIT, stop="none", iterations=fit.index + 1)
    b = torch.randn(m.y.shape, generator=compute.generator(seed, "sure"))
    epsilon = 0.1 * m.sigma_y
    *_, moved = dip.reconstruct(replace(m, y=m.y + epsilon * b), same, compute.generator(seed, "dip"))
    divergence = float((b * (moved.x0_hat - fit.x0_hat)).mean()) / epsilon
    risk = _rms(fit.x0_hat - m.y) ** 2 - m.sigma_y**2 + 2 * m.sigma_y**2 * divergence
    return math.sqrt(max(risk, 1e-6))


def row(image: str, degradation: str, seed: int) -> dict[str, Any]:
    """A fit's true error, its estimates by `KINDS`, and the PSNR after one hand-off, of either kind, by σ."""
    x_true = images.load(image, SIZE)
    m = measured(x_true, degradation, seed)
    denoiser = priors.load(x_true)
    fitting = dip.reconstruct(m, FIT, compute.generator(seed, "dip"))
    *_, fit = fitting
    estimates = (
        fit.rmse_hat,
        of_held_out(fitting, fit),
        of_disagreement(fitting),
        of_residual(fit.x0_hat, denoiser),
        of_sure(m, fit, seed),
    )

    def after(kind: HandOff) -> list[float]:
        scores = []
        for t in (SCHEDULE.t_at_sigma(sigma) for sigma in SIGMAS):
            draw = compute.generator(seed, "sample")
            x_t = hybrid.hand_off(fit.x0_hat, SCHEDULE, t, kind, draw)
            *_, last = ddpm.sample(denoiser, SCHEDULE, x_t, t, SAMPLE, draw, m)
            scores.append(round(metrics.psnr(last.x0_hat, x_true), 3))
        return scores

    where = {"image": image, "degradation": degradation, "seed": seed}
    truth = {"psnr": round(metrics.psnr(fit.x0_hat, x_true), 3), "rmse": _rms(fit.x0_hat - x_true)}
    curves = {"after": after("calibrated"), "renoised": after("renoise")}
    return {**where, **truth, "estimates": dict(zip(KINDS, estimates, strict=True)), **curves}


def main() -> None:
    options = arguments(__doc__, "estimates").parse_args()
    fill(row, Path(__file__), options, {"sigmas": SIGMAS, "steps": STEPS, "calls": CALLS})


if __name__ == "__main__":
    main()
