"""How well a fit's error can be known without the target, by five kinds of estimate, and what each is worth.

An estimate is worth what the hand-off makes of it, since σ at the hand-off is a factor times it. So with the estimates
of a fit stands its PSNR after one hand-off by σ, calibrated and renoised, from levels well below those of the other
searches: what is renoised may need no more noise than the start's own error. Both go on by deterministic steps.

python benchmarks/estimates.py    # writes estimates.json, which Appendix C shows
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from handoff import SCHEDULE, STEPS, measured
from records import SIZE, arguments, fill
from torch import Tensor

from dipddpm_lib import compute, ddpm, dip, hybrid, images, metrics, operators, priors
from dipddpm_lib.ddpm import SampleConfig
from dipddpm_lib.dip import Fit, Fitting
from dipddpm_lib.hybrid import HandOff, HybridConfig
from dipddpm_lib.types import Denoiser, Image, Measurement

FIT = HybridConfig().dip
SAMPLE = SampleConfig(steps=STEPS)
SIGMAS = (0.03, 0.06, 0.1, 0.2, 0.4, 0.65, 0.9, 1.3, 2.0, 3.0)
CALLS = 12  # of the denoiser, to find the noise level that its own residual has
PROBES = 2  # of SURE's divergence, each one more fit
KINDS = ("in use", "held-out error", "disagreement of the networks", "denoiser's residual", "SURE")


def _rms(x: Tensor) -> float:
    return math.sqrt(float(x.square().mean()))


def of_held_out(fitting: Fitting, fit: Fit) -> float:
    """The error on the held-out measurements alone, their noise taken off."""
    squares = fitting.held * (fitting.operator.A(fit.x0_hat) - fitting.y) ** 2
    return fitting.measurement.rmse(float(squares.sum()) / fitting.count, fitting.count)


def of_disagreement(estimates: Image) -> float:
    """The error of the mean of several estimates (n, 3, h, w), were their errors independent."""
    return _rms(estimates - estimates.mean(0, keepdim=True)) / math.sqrt(len(estimates) - 1)


def of_residual(x0_hat: Image, denoiser: Denoiser) -> tuple[float, float]:
    """The σ at which the denoiser takes off as much as it is told there is (Kadkhodaie and Simoncelli 2021).

    Theirs is told nothing; ours is asked again with what it took off, from σ = 1 down. With it how much the last time
    changed it, as a share.
    """
    sigma = before = 1.0
    for _ in range(CALLS):
        before, sigma = sigma, max(1e-3, _rms(x0_hat - ddpm.denoise_once(denoiser, x0_hat, sigma)))
    return sigma, abs(sigma / before - 1)


def of_sure(m: Measurement, fit: Fit, seed: int) -> list[float]:
    """Stein's unbiased risk estimate of a fit under white noise, by each probe (Ramani et al. 2008).

    The divergence is how far the fit moves with y, so each probe is a fit of as many iterations: where the stop would
    come then is left out of it. Empty where there is no white noise on an image, and for a fit that collapsed, whose
    result is an earlier one.
    """
    if not isinstance(m.operator, operators.Identity):
        return []
    epsilon, risks = 0.1 * m.sigma_y, []
    again = _moved(m, fit, seed, torch.zeros_like(m.y))
    if not torch.equal(again, fit.x0_hat):
        return []
    for probe in range(PROBES):
        b = torch.randn(m.y.shape, generator=compute.generator(seed, f"sure {probe}"))
        moved = _moved(m, fit, seed, epsilon * b)
        divergence = float((b * (moved - fit.x0_hat)).mean()) / epsilon
        risks.append(_rms(fit.x0_hat - m.y) ** 2 - m.sigma_y**2 + 2 * m.sigma_y**2 * divergence)
    return [math.sqrt(max(risk, 1e-6)) for risk in risks]


def _moved(m: Measurement, fit: Fit, seed: int, by: Tensor) -> Image:
    """The same fit to a y that is a little off."""
    same = replace(FIT, stop="none", iterations=fit.index + 1)
    *_, last = dip.reconstruct(replace(m, y=m.y + by), same, compute.generator(seed, "dip"))
    return last.x0_hat


def row(image: str, degradation: str, seed: int) -> dict[str, Any]:
    """A fit's true error, its estimates by `KINDS`, and the PSNR after one hand-off, of either kind, by σ."""
    x_true = images.load(image, SIZE)
    m = measured(x_true, degradation, seed)
    denoiser = priors.load(x_true)
    fitting = dip.reconstruct(m, FIT, compute.generator(seed, "dip"))
    *_, fit = fitting
    of_each = fitting.averages / (1 - fitting.unseen)
    residual, last_change = of_residual(fit.x0_hat, denoiser)
    risks = of_sure(m, fit, seed)
    sure = math.sqrt(sum(risk**2 for risk in risks) / len(risks)) if risks else None
    found = (fit.rmse_hat, of_held_out(fitting, fit), of_disagreement(of_each), residual, sure)

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
    checks = {"estimates": dict(zip(KINDS, found, strict=True)), "last_change": last_change, "probes": risks}
    return {**where, **truth, **checks, "calibrated": after("calibrated"), "renoised": after("renoise")}


def main() -> None:
    options = arguments(__doc__, "estimates").parse_args()
    fill(row, Path(__file__), options, {"sigmas": SIGMAS, "steps": STEPS, "calls": CALLS, "probes": PROBES})


if __name__ == "__main__":
    main()
