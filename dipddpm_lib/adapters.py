"""Denoisers trained elsewhere, behind the same protocol."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .schedules import NoiseSchedule
from .types import Image, require

PREDICTIONS = ("epsilon", "v_prediction", "sample")


class DiffusersDenoiser:
    """A `diffusers` UNet2DModel with the scheduler that it was trained with, as a `Denoiser`; three colour channels.

    model:     called as model(x_t, timestep).sample
    scheduler: read for `alphas_cumprod` and `config.prediction_type`; its own sampler is not used

    `schedule` holds the scheduler's ᾱ, position t here being timestep t − 1 there; at its σ_t the model is asked at
    exactly that timestep, between two of them at the timestep interpolated in log σ. Noise outside the schedule's
    range is refused: a network knows nothing of noise that it was not trained on.
    """

    def __init__(self, model: Any, scheduler: Any):
        require(
            hasattr(scheduler, "alphas_cumprod") and hasattr(scheduler.config, "prediction_type"),
            f"scheduler: expected one with alphas_cumprod and config.prediction_type, such as DDPMScheduler, got "
            f"{type(scheduler).__name__}",
        )
        self.model = model.eval()
        self.prediction = scheduler.config.prediction_type
        require(
            self.prediction in PREDICTIONS,
            f"prediction_type: expected one of {', '.join(PREDICTIONS)}, got {self.prediction!r}",
        )
        channels = (model.config.in_channels, model.config.out_channels)
        require(
            channels == (3, 3),
            f"model: expected 3 channels in and out, got {channels[0]} and {channels[1]}; a model of latents, of grey "
            "images, or one that predicts variances too does not fit",
        )
        alpha_bar = scheduler.alphas_cumprod.double().cpu()
        require(
            bool((alpha_bar[-1] > 0) and (alpha_bar.diff() < 0).all() and alpha_bar[0] < 1),
            "scheduler: expected alphas_cumprod to fall from below 1 and to stay above 0; a schedule rescaled to zero "
            "terminal SNR does not fit",
        )
        self.schedule = NoiseSchedule("diffusers", torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar]))
        self._log_sigmas = self.schedule.sigmas[1:].log()

    def timestep(self, sigma: float) -> float:
        """Where on the model's ruler the noise level lies; a whole number at the schedule's own."""
        logs, wanted = self._log_sigmas, math.log(sigma) if sigma > 0 else -math.inf
        slack = 1e-6  # σ may come as float32
        require(
            logs[0].item() - slack <= wanted <= logs[-1].item() + slack,
            f"sigma: expected {math.exp(logs[0]):.3g} … {math.exp(logs[-1]):.3g}, the noise that this model knows, "
            f"got {sigma:.3g}",
        )
        high = int(torch.searchsorted(logs, wanted - slack).clamp(0, len(logs) - 1))
        if high == 0 or abs(logs[high].item() - wanted) <= slack:
            return float(high)
        low = logs[high - 1].item()
        return high - 1 + (wanted - low) / (logs[high].item() - low)

    def __call__(self, x_t: Image, sigma: float | Tensor) -> Image:
        """E[x_0 | x_t] from what the model predicts (Salimans and Ho 2022, appendix D, for v); one σ for all images."""
        levels = torch.as_tensor(sigma).unique()
        require(len(levels) == 1, f"sigma: expected one noise level for all images, got {len(levels)}")
        sigma = levels.item() if isinstance(sigma, Tensor) else sigma
        parameter = next(self.model.parameters())
        t = torch.tensor(self.timestep(sigma), dtype=torch.float32, device=parameter.device)
        with torch.no_grad():
            predicted = self.model(x_t.to(parameter), t).sample.to(x_t)
        if self.prediction == "sample":
            return predicted
        alpha = 1 / math.sqrt(1 + sigma**2)
        if self.prediction == "epsilon":
            return (x_t - sigma * alpha * predicted) / alpha
        return alpha * x_t - sigma * alpha * predicted
