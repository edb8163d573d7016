"""Noise schedules: ᾱ and its closed-form algebra, in float64; and which steps a sampler takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float64
from torch import Tensor

from .types import Image, require

ScheduleName = Literal["linear", "cosine", "sigmoid"]
SpacingKind = Literal["uniform", "quadratic", "karras", "adaptive"]

LARGEST_T = 1_000_000  # a schedule is held whole
DATA_STD = 0.5  # standard deviation of photographs in [-1, 1] (Karras et al. 2022, table 1)


def _check_T(T: int) -> None:
    require(
        type(T) is int and 2 <= T <= LARGEST_T,
        f"T counts the steps of the diffusion: expected a whole number from 2 to {LARGEST_T:,}, got {T!r}",
    )


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """q(x_t | x_0) = N(√ᾱ_t x_0, (1 − ᾱ_t) I) for t = 0 … T (Ho et al. 2020, eq. 4), with ᾱ_0 = 1.

    alpha_bar: float64, T + 1 long, strictly falling.
    """

    name: str
    alpha_bar: Float64[Tensor, " n"]

    def __post_init__(self) -> None:
        ab = self.alpha_bar
        right = ab.ndim == 1 and len(ab) >= 3 and ab.dtype == torch.float64 and float(ab[0]) == 1.0
        require(
            right and bool((ab.diff() < 0).all()) and float(ab[-1]) > 0,
            "alpha_bar: expected float64 numbers that fall from 1 at t = 0 and stay above 0 (put 1 before a cumulative "
            f"product), got {tuple(ab.shape)} of {ab.dtype} from {ab.flatten()[:1].tolist()} to "
            f"{ab.flatten()[-1:].tolist()}",
        )

    @property
    def T(self) -> int:
        return len(self.alpha_bar) - 1

    @classmethod
    def linear(cls, T: int) -> NoiseSchedule:
        """β from 1e-4 to 0.02 over 1000 steps (Ho et al. 2020, §4).

        Another T walks through the same process in T strides (log ᾱ interpolated), so it starts and ends alike.
        """
        _check_T(T)
        betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
        log_alpha_bar = torch.cat([torch.zeros(1, dtype=torch.float64), torch.log1p(-betas).cumsum(0)])
        position = torch.arange(T + 1, dtype=torch.float64) * (1000 / T)
        low = position.floor().long().clamp(max=999)
        weight = position - low
        log_alpha_bar = torch.lerp(log_alpha_bar[low], log_alpha_bar[low + 1], weight)
        return cls("linear", log_alpha_bar.exp())

    @classmethod
    def cosine(cls, T: int) -> NoiseSchedule:
        """ᾱ = f(t)/f(0), f = cos²((t/T + s)/(1 + s)·π/2), s = 0.008, β ≤ 0.999 (Nichol and Dhariwal 2021, eq. 17)."""
        _check_T(T)
        s = 0.008
        t = torch.arange(T + 1, dtype=torch.float64) / T
        f = torch.cos((t + s) / (1 + s) * math.pi / 2) ** 2
        betas = (1 - f[1:] / f[:-1]).clamp(max=0.999)
        return cls("cosine", torch.cat([torch.ones(1, dtype=torch.float64), (1 - betas).cumprod(0)]))

    @classmethod
    def sigmoid(cls, T: int) -> NoiseSchedule:
        """Sigmoid from −3 to 3, τ = 1, ᾱ ≥ 1e-9 (Jabri et al. 2022, figure 8; in this form Chen 2023, algorithm 1)."""
        _check_T(T)
        t = torch.arange(T + 1, dtype=torch.float64) / T
        low, high = torch.sigmoid(torch.tensor([-3.0, 3.0], dtype=torch.float64))
        alpha_bar = (high - torch.sigmoid(6 * t - 3)) / (high - low)
        alpha_bar[0] = 1.0
        return cls("sigmoid", alpha_bar.clamp(min=1e-9))

    @classmethod
    def named(cls, name: str, T: int) -> NoiseSchedule:
        """The schedule called `name`."""
        makers = {"linear": cls.linear, "cosine": cls.cosine, "sigmoid": cls.sigmoid}
        require(name in makers, f"schedule: expected one of {', '.join(makers)}, got {name!r}")
        return makers[name](T)

    def check_t(self, t: int, name: str = "t") -> None:
        require(
            isinstance(t, int) and not isinstance(t, bool) and 0 <= t <= self.T,
            f"{name} is a position on the schedule: expected a whole number from 0 to T = {self.T}, got {t!r}",
        )

    def sigma(self, t: int) -> float:
        """σ_t = √((1 − ᾱ_t)/ᾱ_t), the noise's standard deviation when the image's scale is 1."""
        self.check_t(t)
        return math.sqrt((1 - self.alpha_bar[t].item()) / self.alpha_bar[t].item())

    @property
    def sigmas(self) -> Float64[Tensor, " n"]:
        return ((1 - self.alpha_bar) / self.alpha_bar).sqrt()

    def t_at_sigma(self, sigma: float) -> int:
        """The t whose σ_t is nearest to `sigma` in log σ; 0 only for what lies below σ_1/2."""
        require(sigma >= 0, f"sigma: expected 0 or more, got {sigma}")
        sigmas = self.sigmas
        if sigma < sigmas[1] / 2:
            return 0
        return 1 + int((sigmas[1:].log() - math.log(min(sigma, sigmas[-1].item()))).abs().argmin())

    def q_sample(self, x0: Image, t: int, noise: Image) -> Image:
        """x_t = √ᾱ_t x_0 + √(1 − ᾱ_t) ε (Ho et al. 2020, eq. 4)."""
        self.check_t(t)
        a = self.alpha_bar[t].item()
        return math.sqrt(a) * x0 + math.sqrt(1 - a) * noise

    def predict_x0(self, x_t: Image, t: int, eps: Image) -> Image:
        """x_0 = (x_t − √(1 − ᾱ_t) ε)/√ᾱ_t: the inverse of `q_sample`."""
        self.check_t(t)
        a = self.alpha_bar[t].item()
        return (x_t - math.sqrt(1 - a) * eps) / math.sqrt(a)


def spacing(schedule: NoiseSchedule, t_start: int, steps: int, kind: SpacingKind) -> tuple[int, ...]:
    """The positions t_start = t_0 > t_1 > … > 0 that a sampler visits, `steps` intervals of them.

    uniform:   equal in t
    quadratic: t ∝ k² (Song et al. 2021, appendix D.2)
    karras:    σ^(1/7) equal (Karras et al. 2022, eq. 5)
    adaptive:  large steps first: each takes an equal share of the fall of the expected error
               σσ_d/√(σ² + σ_d²) that remains in the best estimate at σ, for data of spread σ_d = 0.5

    Where t_start has fewer positions below it than `steps`, every one is visited.
    """
    schedule.check_t(t_start, "t_start")
    require(type(steps) is int and steps >= 1, f"steps: expected a whole number of 1 or more, got {steps!r}")
    require(steps <= schedule.T, f"steps: expected at most T = {schedule.T}, got {steps}")
    kinds = ("uniform", "quadratic", "karras", "adaptive")
    require(kind in kinds, f"spacing: expected {', '.join(kinds[:-1])} or {kinds[-1]}, got {kind!r}")
    if t_start == 0:
        return (0,)
    steps = min(steps, t_start)
    k = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
    sigmas = schedule.sigmas
    if kind == "uniform":
        ts = t_start * k
    elif kind == "quadratic":
        ts = t_start * k**2
    elif kind == "karras":
        low, high = sigmas[1] ** (1 / 7), sigmas[t_start] ** (1 / 7)
        ladder = (high + torch.linspace(0, 1, steps, dtype=torch.float64) * (low - high)) ** 7
        ts = torch.cat([_t_of(sigmas, ladder), torch.zeros(1, dtype=torch.float64)])
    else:
        error = sigmas * DATA_STD / (sigmas**2 + DATA_STD**2).sqrt()
        ts = _t_of(error, error[t_start] * k)
    out = [t_start]
    for i, t in enumerate(ts.round().long().tolist()[1:], start=1):
        # whole numbers, strictly falling, with room left for the steps to come
        out.append(max(min(t, out[-1] - 1), steps - i))
    return tuple(out)


def _t_of(rising: Tensor, values: Tensor) -> Tensor:
    """Where a rising curve over t = 0 … T takes `values`: linear interpolation of its inverse."""
    high = torch.searchsorted(rising, values.clamp(rising[0], rising[-1])).clamp(1, len(rising) - 1)
    low = high - 1
    return low + (values - rising[low]) / (rising[high] - rising[low])
