"""The broken samplers behind the reported numbers, each bug by its name; every one is run, none is typed in.

The broken notebooks take what their sampler returns as an image in [0, 1] and score it with peak 1. So this is the
only module where an output may have any range: `score` alone maps the target from [-1, 1] to [0, 1], never the output.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from skimage.metrics import structural_similarity
from torch import Tensor

from .networks import DenoisingUNet, build
from .types import Image, require

T = 1000  # steps of the diffusion, as in the writeup's §4.2
T_START = 25  # whole steps that the hybrid's 0.77 s of 30.00 s pay for (`time_arithmetic`: 25.7)


# ---- what was reported ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reported:
    """A row of the writeup's §3.3: a quotation, not a result. psnr in dB, ssim in [-1, 1], seconds as printed there."""

    method: str
    psnr: float
    ssim: float
    seconds: float


REPORTED = (
    Reported("DIP", 24.46, 0.93, 16.64),
    Reported("DDPM", -1.22, 0.00, 30.00),
    Reported("DIP+DDPM", -1.20, 0.00, 0.77),
)


@dataclass(frozen=True)
class TimeArithmetic:
    """What the reported seconds say.

    steps:          of the T that the hybrid's time pays for, if a step costs what DDPM's cost
    total_seconds:  the hybrid's with the DIP fit that it starts from
    speed_up:       DDPM's time over that total; `claimed_speed_up` leaves the fit out
    relative_to_dip: that total over DIP's own time; above 1 the hybrid is the slower one
    """

    steps: float
    total_seconds: float
    speed_up: float
    claimed_speed_up: float
    relative_to_dip: float


def time_arithmetic() -> TimeArithmetic:
    """The reported seconds, added up and divided."""
    dip, ddpm, hybrid = (row.seconds for row in REPORTED)
    total = dip + hybrid
    return TimeArithmetic(hybrid / ddpm * T, total, ddpm / total, ddpm / hybrid, total / dip)


# ---- the score, and what noise gets -----------------------------------------------------------------------------


def _to_unit(image: Image) -> Image:
    return (image.detach().double().cpu() + 1) / 2


def score(output: Tensor, target: Image) -> tuple[float, float]:
    """(PSNR in dB at peak 1, SSIM at data_range 1) of an output, taken as it is, to the target mapped to [0, 1].

    target: (b, 3, h, w) in [-1, 1]; output: the same shape, any range. SSIM is scikit-image's default (7 × 7 windows,
    mean over channels and images). PSNR is infinite where the two are equal. Raises InputError for unequal shapes.
    """
    require(
        output.shape == target.shape,
        f"score: expected an output shaped like its target {tuple(target.shape)}, got {tuple(output.shape)}",
    )
    x, y = output.detach().double().cpu(), _to_unit(target)
    mse = (x - y).square().mean().item()
    ssim = [
        structural_similarity(b.numpy(), a.numpy(), data_range=1.0, channel_axis=0) for a, b in zip(x, y, strict=True)
    ]
    return (-10 * math.log10(mse) if mse > 0 else math.inf), float(sum(ssim) / len(ssim))


def second_moment(target: Image) -> float:
    """E[x²] over the target's pixels, x in [0, 1]."""
    return _to_unit(target).square().mean().item()


def implied_second_moment(psnr: float) -> float:
    """The E[x²] of the target against which N(0, 1) noise scores `psnr` dB: 10^(−psnr/10) − 1."""
    return 10 ** (-psnr / 10) - 1


@dataclass(frozen=True)
class Law:
    """Mean and variance of an output's pixels, where the output is symmetric about its mean and ignores the target."""

    mean: float
    variance: float


NOISE = Law(0.0, 1.0)


def expected_psnr(law: Law, target: Image) -> float:
    """−10 log₁₀ E[MSE] in dB, with E[MSE] = variance + E[(x − mean)²], x the target in [0, 1]."""
    return -10 * math.log10(law.variance + (_to_unit(target) - law.mean).square().mean().item())


def psnr_of_noise(target: Image) -> float:
    """−10 log₁₀(1 + E[x²]): what N(0, 1) noise scores, in dB."""
    return expected_psnr(NOISE, target)


def psnr_spread(law: Law, second_moment: float, pixels: int) -> float:
    """Standard deviation over draws, in dB, of the PSNR of white Gaussian noise against an image.

    pixels: values of the image, 3·h·w. For z ~ N(0, v) and a mean of 0, Var (z − x)² = 2v² + 4v·x², so the MSE has
    variance (2v² + 4v·E[x²])/pixels; one MSE is 10/ln 10 dB a unit of log MSE (first order, exact as pixels grow).
    """
    require(law.mean == 0, f"psnr_spread: expected noise of mean 0, got {law.mean}")
    v = law.variance
    return 10 / math.log(10) * math.sqrt((2 * v**2 + 4 * v * second_moment) / pixels) / (v + second_moment)


def noise_band(target: Image, deviations: float = 3.0) -> tuple[float, float]:
    """The PSNRs, in dB, within so many standard deviations of what N(0, 1) noise scores against this target."""
    centre = psnr_of_noise(target)
    half = deviations * psnr_spread(NOISE, second_moment(target), target.numel())
    return centre - half, centre + half


def draws_apart(side: int) -> float:
    """How far apart the reported DDPM and DIP+DDPM lie, in standard deviations of the difference of two noise draws.

    side: of the square colour image, in pixels; the writeup does not say it. Both rows are rounded to 0.01 dB, so
    the difference of 0.02 dB is itself good to ±0.01 only.
    """
    _, ddpm, hybrid = REPORTED
    moment = implied_second_moment((ddpm.psnr + hybrid.psnr) / 2)
    return abs(hybrid.psnr - ddpm.psnr) / (math.sqrt(2) * psnr_spread(NOISE, moment, 3 * side**2))


# ---- the textbook's parts ---------------------------------------------------------------------------------------

# ε_θ(x_t, ᾱ_t)
EpsNetwork = Callable[[Tensor, float], Tensor]


def knows_nothing(x_t: Tensor, alpha_bar: float) -> Tensor:
    """ε = 0: what a zero-initialised network answers (`untrained`), without the cost of calling it."""
    return torch.zeros_like(x_t)


def repeats_input(x_t: Tensor, alpha_bar: float) -> Tensor:
    """ε = x_t: 'whatever comes in is noise'."""
    return x_t


def weighs_input(x_t: Tensor, alpha_bar: float) -> Tensor:
    """ε = √(1 − ᾱ) x_t: the best guess at ε for data that are white noise; all that it knows is the noise's share.

    A v-network that answers 0 gives the same: ε = √(1 − ᾱ) x_t + √ᾱ v (Salimans and Ho 2022, appendix D).
    """
    return math.sqrt(1 - alpha_bar) * x_t


def untrained(generator: torch.Generator) -> EpsNetwork:
    """A U-Net that was built and never trained; its last layer starts at zero (Ho et al. 2020), so ε = 0 exactly."""
    network = build(DenoisingUNet, generator, channels=(8,))
    assert isinstance(network, DenoisingUNet)

    def eps(x_t: Tensor, alpha_bar: float) -> Tensor:
        with torch.no_grad():
            # the bare output: an untrained network says 0 whatever it was going to predict
            return network.v(x_t, math.sqrt((1 - alpha_bar) / alpha_bar))

    return eps


def linear_betas(steps: int) -> Tensor:
    """β_1 … β_T from 1e-4 to 0.02, float64, *not* rescaled for T ≠ 1000: as the broken notebooks have it.

    With T = 100 the chain then ends at ᾱ_T = 0.36, far from noise; `NoiseSchedule.linear` mends this.
    """
    return torch.linspace(1e-4, 0.02, steps, dtype=torch.float64)


def _noise(like: Image, generator: torch.Generator) -> Image:
    return torch.randn(like.shape, generator=generator)


def _as_it_is(x_t: Tensor) -> Tensor:
    return x_t


def _clamped(x_t: Tensor) -> Tensor:
    return x_t.clamp_(-1, 1)


def ancestral(
    eps: EpsNetwork,
    x_t: Image,
    betas: Tensor,
    generator: torch.Generator,
    after_step: Callable[[Tensor], Tensor] = _as_it_is,
) -> Image:
    """Ho et al. 2020, algorithm 2: x_{t−1} = (x_t − β_t/√(1−ᾱ_t) ε)/√α_t + √β_t z from t = len(betas) to 1; z = 0 at 1.

    σ_t² = β_t is the larger of the paper's two variances (§3.2); the smaller moves no output below by 1 % of its std.
    after_step: what the notebook does to x_{t−1} before it goes on; it may change its argument in place.
    """
    alpha_bars = (1 - betas).cumprod(0).tolist()
    for i, beta in reversed(list(enumerate(betas.tolist()))):
        x_t = torch.add(x_t, eps(x_t, alpha_bars[i]), alpha=-beta / math.sqrt(1 - alpha_bars[i]))
        x_t.mul_(1 / math.sqrt(1 - beta))
        if i > 0:
            x_t.add_(_noise(x_t, generator), alpha=math.sqrt(beta))
        x_t = after_step(x_t)
    return x_t


def ancestral_variance(eps: EpsNetwork, betas: Tensor, variance: float = 1.0) -> float:
    """The variance in which `ancestral` ends when x_t starts with `variance` and ε is linear, ε(x) = c_t·x.

    v_{t−1} = v_t (1 − c_t β_t/√(1−ᾱ_t))²/α_t + β_t, without β_t at t = 1; for c = 0: v_t/α_t + β_t.
    """
    alpha_bars = (1 - betas).cumprod(0).tolist()
    one = torch.ones(1, dtype=torch.float64)
    for i, beta in reversed(list(enumerate(betas.tolist()))):
        slope = eps(one, alpha_bars[i]).item()
        variance *= (1 - slope * beta / math.sqrt(1 - alpha_bars[i])) ** 2 / (1 - beta)
        variance += beta if i > 0 else 0.0
    return variance


def clipped_posterior(eps: EpsNetwork, x_t: Image, betas: Tensor, generator: torch.Generator) -> Image:
    """The same chain through x̂_0 = (x_t − √(1−ᾱ_t) ε)/√ᾱ_t (eq. 15), cut to [−1, 1], and q(x_{t−1} | x_t, x̂_0) (eq. 7).

    The variance is β_t; the last step returns x̂_0.
    """
    alpha_bars = [1.0, *(1 - betas).cumprod(0).tolist()]
    for t in range(len(betas), 0, -1):
        a, before, beta = alpha_bars[t], alpha_bars[t - 1], betas[t - 1].item()
        x0 = torch.add(x_t, eps(x_t, a), alpha=-math.sqrt(1 - a)).mul_(1 / math.sqrt(a)).clamp_(-1, 1)
        x_t = x0.mul_(math.sqrt(before) * beta / (1 - a)).add_(x_t, alpha=math.sqrt(1 - beta) * (1 - before) / (1 - a))
        if t > 1:
            x_t.add_(_noise(x_t, generator), alpha=math.sqrt(beta))
    return x_t


def clipped_normal_variance(variance: float) -> float:
    """Var min(max(z, −1), 1) for z ~ N(0, variance)."""
    s = math.sqrt(variance)
    outside = math.erfc(1 / (s * math.sqrt(2)))
    density = math.exp(-1 / (2 * variance)) / (s * math.sqrt(2 * math.pi))
    return variance * (1 - outside - 2 * density) + outside


# ---- the bugs ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bug:
    """One way to lose the image.

    run: (target, generator) → output; only the target's shape is looked at, which is the point
    law: the output's mean and variance in closed form, where there is one
    """

    name: str
    explanation: str
    run: Callable[[Image, torch.Generator], Image]
    law: Callable[[], Law] | None = None


def _raw_noise(target: Image, generator: torch.Generator) -> Image:
    return _noise(target, generator)


def _idle_loop(target: Image, generator: torch.Generator) -> Image:
    x_t, betas = _noise(target, generator), linear_betas(T)
    for t in range(T, 0):  # the bug: the step −1 is missing, so the range is empty
        x_t = ancestral(knows_nothing, x_t, betas[t - 1 : t], generator)
    return x_t


def _only_noise(target: Image, generator: torch.Generator) -> Image:
    return ancestral(weighs_input, _noise(target, generator), linear_betas(T), generator)


def _eps_returned(target: Image, generator: torch.Generator) -> Image:
    return repeats_input(_noise(target, generator), (1 - linear_betas(T)).prod().item())


def _repeated(target: Image, generator: torch.Generator) -> Image:
    return ancestral(repeats_input, _noise(target, generator), linear_betas(T), generator)


def _saturated(target: Image, generator: torch.Generator) -> Image:
    return _untrained_chain(T)(target, generator).clamp(-1, 1)


def _mid_chain(target: Image, generator: torch.Generator) -> Image:
    return ancestral(knows_nothing, _noise(target, generator), linear_betas(T)[:T_START], generator)


def _untrained_chain(steps: int) -> Callable[[Image, torch.Generator], Image]:
    def run(target: Image, generator: torch.Generator) -> Image:
        return ancestral(knows_nothing, _noise(target, generator), linear_betas(steps), generator)

    return run


def _clamped_steps(target: Image, generator: torch.Generator) -> Image:
    return ancestral(knows_nothing, _noise(target, generator), linear_betas(T), generator, _clamped)


def _clipped_x0(target: Image, generator: torch.Generator) -> Image:
    return clipped_posterior(knows_nothing, _noise(target, generator), linear_betas(T), generator)


def _mapped(run: Callable[[Image, torch.Generator], Image]) -> Callable[[Image, torch.Generator], Image]:
    def mapped(target: Image, generator: torch.Generator) -> Image:
        return ((run(target, generator) + 1) / 2).clamp(0, 1)

    return mapped


def _grey(target: Image, generator: torch.Generator) -> Image:
    eps = untrained(generator)
    return (eps(_noise(target, generator), 0.5) + 1) / 2


def _chain_law(eps: EpsNetwork, steps: int = T, taken: int | None = None) -> Callable[[], Law]:
    return lambda: Law(0.0, ancestral_variance(eps, linear_betas(steps)[:taken]))


def _noise_law() -> Law:
    return NOISE


BUGS = (
    Bug(
        "raw noise returned",
        "The sampler's result is dropped and x_T, the noise that it started from, is returned.",
        _raw_noise,
        _noise_law,
    ),
    Bug(
        "a loop that does nothing",
        "range(T, 0) counts upwards and is empty: the reverse process never takes a step.",
        _idle_loop,
        _noise_law,
    ),
    Bug(
        "a network that learned only 'the input is noise'",
        "ε = √(1−ᾱ) x_t is the best answer when nothing is known of the image; every x_t of the chain, to the last, "
        "is then N(0, 1). A v-network that was never trained answers the same.",
        _only_noise,
        _chain_law(weighs_input),
    ),
    Bug(
        "ε returned in place of the image",
        "The network's answer is returned as if it were x_0, but noise of variance 1 is what it was trained to say.",
        _eps_returned,
        _noise_law,
    ),
    Bug(
        "a network that repeats its input",
        "ε = x_t through the whole chain: more noise is taken away than was put in. The score is not the reported one.",
        _repeated,
        _chain_law(repeats_input),
    ),
    Bug(
        "saturated at ±1, never mapped to [0, 1]",
        "An untrained chain of 1000 steps blows up; clamped at its end it is −1 or 1 nearly everywhere, "
        "and is scored against [0, 1].",
        _saturated,
        lambda: Law(0.0, clipped_normal_variance(ancestral_variance(knows_nothing, linear_betas(T)))),
    ),
    Bug(
        f"noise started at t₀ = {T_START} of {T}, ε = 0",
        "The hybrid's short chain, begun from noise and not from DIP's image: an untrained network leaves it as it is.",
        _mid_chain,
        _chain_law(knows_nothing, taken=T_START),
    ),
    *(
        Bug(
            f"ancestral sampler, ε = 0, T = {steps}",
            "Nothing is subtracted, every step divides by √α_t < 1 and adds noise: the variance ends near 2/ᾱ_T − 1.",
            _untrained_chain(steps),
            _chain_law(knows_nothing, steps),
        )
        for steps in (100, 300, 1000)
    ),
    Bug(
        "clamped to [−1, 1] at every step",
        "The clamp that belongs to x̂_0 is applied to x_t: the noise is cut, not removed.",
        _clamped_steps,
    ),
    Bug(
        "posterior with x̂_0 clipped, ε = 0",
        "A correct sampler around an untrained network: it ends on the noise's signs, never mapped to [0, 1].",
        _clipped_x0,
    ),
    Bug(
        "raw noise, mapped to [0, 1] and clipped",
        "x_T again, after the mapping that the rows above leave out: a few dB for a change of units.",
        _mapped(_raw_noise),
        lambda: Law(0.5, clipped_normal_variance(1.0) / 4),
    ),
    Bug(
        "clamped at every step, mapped to [0, 1]",
        "x_t is still cut at every step, and the mapping turns what is left into grey with noise on it.",
        _mapped(_clamped_steps),
    ),
    Bug(
        "posterior with x̂_0 clipped, mapped to [0, 1]",
        "With sampler and mapping right, an untrained network's noise still scores above 0 dB: no such program ran.",
        _mapped(_clipped_x0),
    ),
    Bug(
        "mid-grey image",
        "An untrained network's zero, taken as the image itself and mapped to [0, 1]: nothing at all beats all noise.",
        _grey,
        lambda: Law(0.5, 0.0),
    ),
)


@dataclass(frozen=True, eq=False)
class Row:
    """What a bug returned and how it scores.

    std:           of the output's pixels
    psnr, ssim:    `score` of the output
    expected_psnr: the closed form, in dB, where there is one
    like_noise:    psnr lies within 3 standard deviations of what N(0, 1) noise scores (`noise_band`)
    """

    bug: str
    explanation: str
    output: Image
    std: float
    psnr: float
    ssim: float
    expected_psnr: float | None
    like_noise: bool


def replay(target: Image, generator: torch.Generator) -> list[Row]:
    """Run every bug against the target, (b, 3, h, w) in [-1, 1]; draws come from `generator`, in the order of BUGS."""
    low, high = noise_band(target)
    rows = []
    for bug in BUGS:
        output = bug.run(target, generator)
        psnr, ssim = score(output, target)
        expected = None if bug.law is None else expected_psnr(bug.law(), target)
        std = output.double().std().item()
        rows.append(Row(bug.name, bug.explanation, output, std, psnr, ssim, expected, low <= psnr <= high))
    return rows


# ---- what a hand-off would have kept ----------------------------------------------------------------------------


@dataclass(frozen=True)
class HandOff:
    """A start handed to an untrained network, all mappings right. PSNRs in dB; expected_end is the closed form."""

    start: float
    end: float
    expected_end: float


def untrained_hand_off(
    target: Image, generator: torch.Generator, start_psnr: float = 24.46, t_start: int = T_START, renoise: bool = True
) -> HandOff:
    """What an *untrained* ε-network leaves of a `start_psnr` dB image handed to it at t_start of 1000 linear steps.

    The start is the target plus white noise; as ε = 0, any other error of that PSNR ends at the same expected score.
    renoise: x_t = √ᾱ x̂ + √(1−ᾱ) z (SDEdit, Meng et al. 2022); otherwise x_t = x̂, a common slip.
    Had any of DIP's image reached the hybrid's output, it would have scored about this, not −1.20 dB.
    """
    require(1 <= t_start <= T, f"t_start: expected a whole number from 1 to {T}, got {t_start}")
    betas = linear_betas(T)[:t_start]
    alpha_bar = (1 - betas).prod().item()
    x0 = target.detach().float().cpu()
    rmse = 2 * 10 ** (-start_psnr / 20)  # in units of [-1, 1]
    error = _noise(x0, generator)
    x0_hat = x0 + rmse * error / error.square().mean().sqrt()  # of that PSNR exactly, whatever the draw
    x_t = math.sqrt(alpha_bar) * x0_hat + math.sqrt(1 - alpha_bar) * _noise(x0, generator) if renoise else x0_hat
    out = ancestral(untrained(generator), x_t, betas, generator)

    gain = 1.0 if renoise else 1 / math.sqrt(alpha_bar)  # of the start, from x̂ to the output
    added = ancestral_variance(knows_nothing, betas, 1 - alpha_bar if renoise else 0.0)
    mse = added + (gain * rmse) ** 2 + (gain - 1) ** 2 * x0.double().square().mean().item()
    start, end = (score((image + 1) / 2, target)[0] for image in (x0_hat, out))
    return HandOff(start, end, -10 * math.log10(mse / 4))
