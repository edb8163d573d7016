"""DIP+DDPM: DIP's image, or a better start where there is one, handed to the reverse process at 0 < t < T."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from . import classical, compute, dip
from .classical import ClassicalConfig
from .ddpm import SYMMETRIES, SampleConfig, sample
from .dip import DIPConfig, Fit
from .operators import Identity, Inpainting, pseudo_inverse
from .schedules import NoiseSchedule, spacing
from .types import Denoiser, Image, InputError, Measurement, Step, check_fields, check_generator, require

HandOff = Literal["calibrated", "renoise"]
Start = Literal["auto", "dip", "classical", "measurement"]

AGAIN = 2
"""Further hand-offs where `HybridConfig.again` leaves their number open (report, appendix C: "Other couplings")."""


@dataclass(frozen=True)
class HybridConfig:
    """The recommended setting, the same for every task, with a prior of many photographs.

    A prior of a single image knows it upright alone: give that one sample=SampleConfig(steps=8), without `turn`.

    start:       the image that the reverse process starts from: "dip"; "classical" (`classical.reconstruct`);
                 "measurement" (A⁺y); "auto" asks the measurement, see `settle`
    t_start:     where the reverse process starts; None chooses it without labels: σ_t = rho · RMSE, with the
                 start's RMSE estimated on held-out measurements
    rho:         how much wider than the start's own error the denoiser is told the noise is; where DIP's image is
                 handed over once because y is the image under noise, half of it, see `settle`
    consistency: move every x̂_0 to agree with the measurement (off for protocol A, where y is the target itself)
    again:       how many times the result is handed over once more, with ever less noise, the last time at half the
                 first σ; None: AGAIN times where t_start follows from the start's error and y is more than the image
                 under noise, else not at all
    """

    dip: DIPConfig = field(default_factory=lambda: replace(DIPConfig.fast(iterations=200), runs=2))
    sample: SampleConfig = field(default_factory=lambda: SampleConfig(steps=8, turn=True))
    kind: HandOff = "calibrated"
    start: Start = "auto"
    t_start: int | None = None
    rho: float = 5.6
    consistency: bool = True
    again: int | None = None

    @classmethod
    def quick(cls) -> HybridConfig:
        """A fit of less than a third as many iterations: for where seconds count."""
        return cls(dip=replace(DIPConfig.fast(iterations=60), runs=2))

    def __post_init__(self) -> None:
        check_fields(self)
        require(self.rho > 0, f"rho: expected a factor above 0, got {self.rho}")
        require(self.t_start is None or self.t_start >= 0, f"t_start: expected 0 … T or None, got {self.t_start}")
        require(self.again is None or self.again >= 0, f"again: expected 0 or more, or None, got {self.again}")
        require(
            self.t_start is not None or self.dip.held_out > 0,
            "t_start = None needs DIP's error: set dip.held_out above 0, or give t_start",
        )

    @property
    def calls(self) -> int:
        """Calls of the denoiser, for a settled configuration; `again` left to the measurement counts as AGAIN."""
        return self.sample.steps * self.sample.views * (1 + (AGAIN if self.again is None else self.again))


def settle(measurement: Measurement, config: HybridConfig) -> HybridConfig:
    """The configuration with its start, and how often it is handed over, chosen for this measurement.

    Where y is the image under white noise, √ᾱ y is a state of the forward process itself, at σ_t = σ_y: one step of
    the denoiser gives the posterior mean, and on average neither a fit nor a further step brings it nearer; the mean
    of eight calls does, one for each of the square's symmetries. Where pixels are missing, biharmonic inpainting is as
    good a start as DIP and much cheaper. Everywhere else it is DIP.
    A configuration that names its start keeps it; one that gives t_start, or asks for no consistency with y, and
    names none, starts from DIP. What follows from a noisy image as start stands in place of the given rho, kind and
    number of steps: y carries its noise already.

    A few steps leave some of the start's error. The result has less of it than the start, so it is handed over again
    with less noise; not under white noise, where a second pass takes detail away. There the one hand-off starts where
    the last of three would, at half of ρ: from above, what is too high an estimate of the error lets y's noise back in.
    """
    noisy = isinstance(measurement.operator, Identity) and measurement.sigma_y > 0
    if config.start == "auto":
        start: Start = "dip"
        if config.consistency and config.t_start is None:
            missing = isinstance(measurement.operator, Inpainting)
            start = "measurement" if noisy else "classical" if missing else "dip"
        config = replace(config, start=start)
    if config.again is None:
        follows = config.consistency and config.t_start is None
        once = isinstance(measurement.operator, Identity)
        config = replace(config, again=AGAIN if follows and not once else 0)
        if follows and once:
            config = replace(config, rho=config.rho / 2)
    if config.start == "measurement" and noisy and config.t_start is None:
        sample = replace(config.sample, steps=1, views=SYMMETRIES if config.sample.turn else 1)
        return replace(config, sample=sample, rho=1.0, consistency=False, kind="calibrated")
    return config


def check_start(measurement: Measurement, config: HybridConfig) -> None:
    """Refuse, before any computing, a settled configuration whose t_start would follow from an unknown error."""
    known = {"dip": True, "classical": isinstance(measurement.operator, Inpainting)}
    known["measurement"] = isinstance(measurement.operator, Identity) and measurement.sigma_y > 0
    require(
        config.t_start is not None or known[config.start],
        f"t_start: no error estimate for a {config.start} start under {type(measurement.operator).__name__}, "
        f"sigma_y = {measurement.sigma_y:g}; give t_start, or take another start",
    )


def begin(measurement: Measurement, config: HybridConfig, generator: torch.Generator) -> Iterator[Fit]:
    """What the reverse process starts from, for a settled configuration: DIP's fits, or one image with its RMSE."""
    if config.start == "dip":
        yield from dip.reconstruct(measurement, config.dip, generator)
        return
    check_start(measurement, config)
    rmse_hat: float | None = None
    if config.start == "measurement":
        image = pseudo_inverse(measurement)
        if config.t_start is None:
            rmse_hat = measurement.sigma_y
    else:
        *_, step = classical.reconstruct(measurement, ClassicalConfig())
        image = step.x0_hat
        if config.t_start is None:
            rmse_hat = classical.held_out_rmse(measurement, ClassicalConfig(), config.dip.held_out, generator)
    yield Fit(0, 0, image, image, rmse_hat)


def hand_off(
    x0_hat: Image,
    schedule: NoiseSchedule,
    t_start: int,
    kind: HandOff = "calibrated",
    generator: torch.Generator | None = None,
) -> Image:
    """x_t for the reverse process from an estimate of the clean image.

    renoise:    √ᾱ x̂_0 + √(1 − ᾱ) z (SDEdit, Meng et al. 2022; CCDF, Chung et al. 2022); needs a generator
    calibrated: √ᾱ x̂_0: the estimate's own error plays the part of the noise

    t_start = 0 gives x̂_0 itself.
    """
    schedule.check_t(t_start, "t_start")
    if t_start == 0:
        return x0_hat
    if kind == "calibrated":
        return math.sqrt(schedule.alpha_bar[t_start].item()) * x0_hat
    require(generator is not None, "hand_off: renoise draws noise; give it a generator")
    noise = torch.randn(x0_hat.shape, generator=generator).to(x0_hat)
    return schedule.q_sample(x0_hat, t_start, noise)


def choose_t(fit: Fit, schedule: NoiseSchedule, config: HybridConfig) -> int:
    """Where to start: what the configuration says, or the t with σ_t = rho · RMSE of the start."""
    if config.t_start is not None:
        schedule.check_t(config.t_start, "t_start")
        return config.t_start
    if fit.rmse_hat is None:
        raise InputError("t_start: the start carries no error estimate; hold out measurements, or give t_start")
    return schedule.t_at_sigma(config.rho * fit.rmse_hat)


def passes(t_start: int, schedule: NoiseSchedule, config: HybridConfig) -> list[int]:
    """Where each hand-off of a settled configuration starts: σ falls by one factor each time, in the last to half."""
    sigma, again = schedule.sigma(t_start), config.again or 0
    return [t_start, *(schedule.t_at_sigma(sigma * 2 ** (-n / again)) for n in range(1, again + 1))]


def denoise(
    fit: Fit,
    measurement: Measurement,
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    config: HybridConfig,
    generator: torch.Generator,
) -> Iterator[Step]:
    """The second half: hand off `fit` and run the reverse process, after a first step that is the start itself.

    `config` is settled. Each further hand-off starts from the result before it, with less noise; see `passes`.
    """
    yield Step(fit.index, 0, fit.x0_hat, fit.x0_hat)
    t_start = choose_t(fit, schedule, config)
    if t_start == 0:
        return
    data = measurement if config.consistency else None
    x0_hat, index = fit.x0_hat, fit.index
    for t in passes(t_start, schedule, config):
        x_t = hand_off(x0_hat, schedule, t, config.kind, generator)
        for step in sample(denoiser, schedule, x_t, t, config.sample, generator, data):
            index += 1
            yield replace(step, index=index)
        x0_hat = step.x0_hat


def reconstruct(
    measurement: Measurement,
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    config: HybridConfig,
    generator: torch.Generator,
    of_sample: torch.Generator | None = None,
) -> Iterator[Step]:
    """The start's steps at t = 0 (DIP's, unless `settle` knows better), then the reverse process from t_start.

    The last step holds the result. Both halves draw from streams of their own: the start from `generator` and the
    reverse process from `of_sample`, or without one both from streams derived from `generator`.
    """
    measurement.check_single("hybrid")
    check_generator(generator)
    if of_sample is None:
        seed = int(torch.randint(2**48, (), generator=generator))
        generator, of_sample = (compute.generator(seed, stream) for stream in ("dip", "sample"))
    check_generator(of_sample)
    config = settle(measurement, config)
    if config.t_start is not None:  # what does not fit the schedule is refused before the fit, not after it
        schedule.check_t(config.t_start, "t_start")
    spacing(schedule, schedule.T, config.sample.steps, config.sample.spacing)
    fit: Fit | None = None
    for fit in begin(measurement, config, generator):
        yield fit
    assert fit is not None  # DIPConfig holds at least one iteration
    yield from denoise(fit, measurement, denoiser, schedule, config, of_sample)
