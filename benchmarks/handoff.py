"""When DIP is the right start, and at which noise level: every start × noise level × trust in y, by PSNR.

Each row is one image, one degradation and one seed. The nine tasks made the rule of thumb that `hybrid.settle` follows;
the other degradations are there to test it. The committed record holds all of them with one seed (--seeds 1).

Two processes may share the work (`--images`); one more run collects the rows from the store into handoff.json. With
--add the rows of the record that are not asked for stay as they are.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from records import DEGRADATIONS, SIZE, arguments, fill
from torch import Tensor

from dipddpm_lib import classical, compute, ddpm, dip, hybrid, images, metrics, operators, priors
from dipddpm_lib.classical import ClassicalConfig
from dipddpm_lib.ddpm import SampleConfig
from dipddpm_lib.dip import DIPConfig
from dipddpm_lib.schedules import NoiseSchedule
from dipddpm_lib.types import Image, Measurement

SCHEDULE = NoiseSchedule.cosine(1000)
SIGMAS = (0.15, 0.3, 0.45, 0.65, 0.9, 1.3, 2.0)
LAMBDAS = (3.0, 7.0, 20.0)  # tried where y is noisy; elsewhere it is trusted to its rounding, whatever λ
FROM_NOISE = (1.0, *LAMBDAS)  # from noise less of them is better: from_noise.py
STEPS = 8
FITS = (60, 200)


def measured(x_true: Image, name: str, seed: int) -> Measurement:
    draw = compute.generator(seed, f"measure/{name}")
    what = DEGRADATIONS[name]
    operator, sigma_y = (
        operators.task(name, SIZE, SIZE, draw) if what is None else operators.degradation(*what, SIZE, SIZE, draw)
    )
    return operators.measure(operator, x_true, sigma_y, draw)


def _starts(m: Measurement, seed: int) -> Iterator[tuple[str, Image, float | None, float]]:
    """Name, image, estimated RMSE and seconds of every start."""
    for iterations in FITS:
        config = replace(DIPConfig.fast(iterations), runs=2)
        begun = time.perf_counter()
        *_, fit = dip.reconstruct(m, config, compute.generator(seed, "dip"))
        yield f"DIP, {iterations}", fit.x0_hat, fit.rmse_hat, time.perf_counter() - begun
    begun = time.perf_counter()
    (step,) = classical.reconstruct(m, ClassicalConfig())
    seconds = time.perf_counter() - begun
    rmse_hat = None
    if isinstance(m.operator, operators.Inpainting):
        rmse_hat = classical.held_out_rmse(m, ClassicalConfig(), 0.02, compute.generator(seed, "dip"))
    yield "classical", step.x0_hat, rmse_hat, seconds
    yield "measurement", operators.pseudo_inverse(m), None, 0.0


def row(image: str, degradation: str, seed: int) -> dict[str, Any]:
    """Each start's score and error, and the PSNR it leads to by λ and σ."""
    x_true = images.load(image, SIZE)
    m = measured(x_true, degradation, seed)
    operator, sigma_y = m.operator, m.sigma_y
    denoiser = priors.load(x_true)

    def psnr(x_t: Image, t: int, config: SampleConfig, y: Measurement | None = m) -> float:
        *_, last = ddpm.sample(denoiser, SCHEDULE, x_t, t, config, compute.generator(seed, "sample"), y)
        return round(metrics.psnr(last.x0_hat, x_true), 3)

    out: dict[str, Any] = {"image": image, "degradation": degradation, "seed": seed, "sigma_y": sigma_y, "starts": {}}
    for name, start, rmse_hat, seconds in _starts(m, seed):
        error = start.clamp(-1, 1) - x_true if name == "measurement" and sigma_y == 0 else start - x_true
        by_lambda = {}
        for lam in LAMBDAS if sigma_y > 0 else (7.0,):
            ts = [SCHEDULE.t_at_sigma(sigma) for sigma in SIGMAS]
            config = SampleConfig(steps=STEPS, lam=lam)
            by_lambda[f"{lam:g}"] = [psnr(hybrid.hand_off(start, SCHEDULE, t), t, config) for t in ts]
        out["starts"][name] = {
            "psnr": round(metrics.psnr(start, x_true), 3),
            "rmse": float(error.square().mean().sqrt()),
            "rmse_hat": rmse_hat,
            "coarse": coarse_share(error),
            "seconds": seconds,
            "after": by_lambda,
        }
    x_T = torch.randn(x_true.shape, generator=compute.generator(seed, "x_T"))
    out["noise"] = {
        f"{steps}, zeta = 1, λ = {lam:g}": psnr(x_T, 1000, SampleConfig(steps, "quadratic", zeta=1.0, lam=lam))
        for steps in (STEPS, 30, 100)
        for lam in (FROM_NOISE if sigma_y > 0 and steps == 100 else (7.0,))
    }
    out["noise"] |= {f"{STEPS}, eta = 0, λ = 7": psnr(x_T, 1000, SampleConfig(STEPS))}
    if isinstance(operator, operators.Identity):
        out["one_step"] = round(metrics.psnr(ddpm.denoise_once(denoiser, m.y, sigma_y), x_true), 3)
    return out


def coarse_share(error: Tensor) -> float:
    """The share of the error's energy below an eighth of the sampling rate: π/64 for white noise, 1 if smooth."""
    power = torch.fft.fft2(error).abs().square().mean((0, 1))
    f = torch.fft.fftfreq(error.shape[-1])
    return float(power[(f[:, None] ** 2 + f[None] ** 2).sqrt() < 0.125].sum() / power.sum())


def main() -> None:
    options = arguments(__doc__, "handoff", DEGRADATIONS, seeds=2).parse_args()
    fill(row, Path(__file__), options, {"sigmas": SIGMAS, "steps": STEPS})


if __name__ == "__main__":
    main()
