"""Denoising diffusion: training the denoiser, and the reverse process from any t."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from . import compute
from .networks import DenoisingUNet, build
from .optimise import Adam
from .schedules import NoiseSchedule, SpacingKind, spacing
from .types import (
    Denoiser,
    Image,
    Measurement,
    Step,
    check_fields,
    check_generator,
    check_image,
    check_tensor,
    require,
)


@dataclass(frozen=True)
class TrainConfig:
    """How a denoiser is trained.

    channels: widths of the U-Net, finest scale first
    crop:     side of the training crops in pixels; None trains on whole images (all of one size)
    flips:    mirror and turn the crops; colours: permute their channels, half of the time
    gamma:    of min-SNR weighting (Hang et al. 2023)
    ema:      decay of the averaged weights, reached from 1/10 upwards by (1 + n)/(10 + n)
    """

    channels: tuple[int, ...] = (32, 64, 64)
    crop: int | None = None
    batch: int = 4
    steps: int = 600
    lr: float = 1e-3
    warmup: int = 50
    gamma: float = 5.0
    ema: float = 0.99
    flips: bool = False
    colours: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        require(self.steps >= 1, f"steps of training: expected 1 or more, got {self.steps}")
        require(self.batch >= 1, f"batch: expected 1 or more, got {self.batch}")
        require(self.crop is None or self.crop >= 1, f"crop: expected 1 or more pixels, or None, got {self.crop}")
        require(self.lr > 0, f"lr: expected a rate above 0, got {self.lr}")
        require(self.warmup >= 1, f"warmup: expected 1 step or more, got {self.warmup}")
        require(self.gamma > 0, f"gamma: expected a signal-to-noise ratio above 0, got {self.gamma}")
        require(0 <= self.ema < 1, f"ema: expected a decay in [0, 1), got {self.ema}")
        require(
            len(self.channels) > 0 and all(c % 8 == 0 and c > 0 for c in self.channels),
            f"channels: expected multiples of 8 (for GroupNorm), got {self.channels}",
        )

    @classmethod
    def single(cls, size: int, steps: int = 800) -> TrainConfig:
        """The prior of one image of size², learned by heart: narrow where pixels are many, halved to about 8 pixels.

        Its coarsest scale sees the whole, which at high noise alone tells where in the image a pixel lies.
        """
        require(size >= 1, f"size: expected 1 pixel or more, got {size}")
        scales = max(2, 1 + round(math.log2(size / 8)))
        return cls(channels=(16, 32, *[64] * (scales - 2)), steps=steps)

    @classmethod
    def crops(cls, size: int, steps: int = 1200) -> TrainConfig:
        """The prior of one image's parts: it sees crops of half the side, and puts them together anew."""
        side = max(1, size // 2)
        return replace(cls.single(side, steps), crop=side)

    @classmethod
    def bundled(cls, steps: int = 6000) -> TrainConfig:
        """The shipped priors: crops of many photographs."""
        return cls(
            channels=(48, 96, 128, 128),
            crop=64,
            batch=16,
            steps=steps,
            lr=8e-4,
            warmup=200,
            ema=0.998,
            flips=True,
            colours=True,
        )


@dataclass(frozen=True)
class TrainStep:
    """One step of training; `denoiser` holds the averaged weights and changes with the next step."""

    index: int
    loss: float
    denoiser: DenoisingUNet


def _crops(images: Sequence[Image], config: TrainConfig, generator: torch.Generator) -> Tensor:
    """A batch of random crops; every image of the sequence is equally likely."""
    out = []
    for _ in range(config.batch):
        image = images[int(torch.randint(len(images), (), generator=generator))][0]
        if config.crop is not None:
            rows, columns = (int(torch.randint(n - config.crop + 1, (), generator=generator)) for n in image.shape[-2:])
            image = image[:, rows : rows + config.crop, columns : columns + config.crop]
        if config.flips:
            flip, turn = torch.rand(2, generator=generator).tolist()
            image = image.flip(-1) if flip < 0.5 else image
            # photographs have an up and a down: turn only a quarter of them
            image = torch.rot90(image, 1 + int(turn * 12) % 3, (-2, -1)) if turn < 0.25 else image
        if config.colours and torch.rand((), generator=generator) < 0.5:
            image = image[torch.randperm(3, generator=generator)]
        out.append(image)
    return torch.stack(out)


def train(
    images: Sequence[Image], config: TrainConfig, generator: torch.Generator, start: DenoisingUNet | None = None
) -> Training:
    """Fit v_θ to `images`, from random weights or from those of `start`; the last step's `denoiser` is the result.

    v-prediction (Salimans and Ho 2022), noise levels of the continuous cosine schedule, stratified over the batch,
    min-SNR weighting min(SNR, γ)/(SNR + 1) (Hang et al. 2023), Adam with a cosine decay, averaged weights.
    """
    require(not isinstance(images, Tensor), "train: expected a list of images (1, 3, h, w), got one tensor")
    require(len(images) > 0, "train: expected at least one image, got none")
    for n, image in enumerate(images):
        check_image(f"train: images[{n}]", image)
    check_generator(generator)
    sides = [min(image.shape[-2:]) for image in images]
    require(
        config.crop is None or min(sides) >= config.crop,
        f"crop: expected at most {min(sides)}, the smallest side of the images, got {config.crop}",
    )
    require(
        config.crop is not None or len({image.shape for image in images}) == 1,
        "train: images of different sizes need a crop; set TrainConfig.crop",
    )
    require(
        not config.flips or config.crop is not None or images[0].shape[-2] == images[0].shape[-1],
        f"flips: expected square images, since some are turned by 90°, got {tuple(images[0].shape[-2:])}; set a crop, "
        "or flips = False",
    )
    require(
        start is None or start.channels == config.channels,
        f"channels: expected {start and start.channels}, those of the weights to start from, got {config.channels}",
    )
    network = build(DenoisingUNet, generator, channels=config.channels)
    if start is not None:
        network.load_state_dict({name: value.float() for name, value in start.state_dict().items()})
    return Training(network, images, config, generator)


class Training(Iterator[TrainStep]):
    """A training under way, one `TrainStep` at a time; see `train`."""

    def __init__(
        self, network: DenoisingUNet, images: Sequence[Image], config: TrainConfig, generator: torch.Generator
    ):
        self.network, self.config, self.generator = network, config, generator
        self.images = [image.cpu() for image in images]  # whose crops are drawn there
        self.where = compute.default()
        self.averaged = copy.deepcopy(network).to(self.where.device).requires_grad_(False)
        self.optimiser = Adam(network, self.where, config.lr, betas=(0.9, 0.99))
        self.average = self.optimiser.weights.detach().clone()
        for p, view in zip(self.averaged.parameters(), self.optimiser.views(self.average), strict=True):
            p.data = view
        self.index = 0

    @property
    def ended(self) -> bool:
        return self.index == self.config.steps

    def __next__(self) -> TrainStep:
        config, where, index = self.config, self.where, self.index
        if self.ended:
            raise StopIteration
        x0 = _crops(self.images, config, self.generator)
        u = (torch.arange(config.batch) + torch.rand((), generator=self.generator)) / config.batch % 1
        # σ = tan(πu/2) is the cosine schedule's in the limit of many steps
        sigma = torch.tan(u.clamp(0.002, 0.998) * math.pi / 2)
        noise = torch.randn(x0.shape, generator=self.generator)
        alpha = (1 + sigma**2).rsqrt()[:, None, None, None]
        x_t = alpha * x0 + (1 - alpha**2).sqrt() * noise
        v = alpha * noise - (1 - alpha**2).sqrt() * x0
        weight = (config.gamma * sigma**2).clamp(max=1) / (1 + sigma**2)

        rate = min(1.0, (index + 1) / config.warmup)
        rate *= 0.02 + 0.98 * (1 + math.cos(math.pi * index / config.steps)) / 2
        x_t = x_t.to(where.device, memory_format=where.memory_format)
        v_hat = self.network.v(x_t, sigma.to(where.device))
        error = F.mse_loss(v_hat, v.to(where.device), reduction="none").mean((1, 2, 3))
        loss = (weight.to(where.device) * error).mean()
        self.optimiser.step(loss, config.lr * rate, clip=1.0)
        decay = min(config.ema, (1 + index) / (10 + index))
        self.average.lerp_(self.optimiser.weights.detach(), 1 - decay)
        self.index += 1
        return TrainStep(index, loss.item(), self.averaged)

    def state(self) -> dict[str, Tensor]:
        """A copy of all that the next steps depend on, after at least one step."""
        return {
            **self.optimiser.state(),
            "average": self.average.clone(),
            "index": torch.tensor(self.index),
            "generator": self.generator.get_state(),
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on where `state` was taken, bit by bit as if there had been no interruption."""
        index = int(state["index"])
        require(index <= self.config.steps, f"state: expected at most {self.config.steps} steps taken, got {index}")
        self.optimiser.restore(state)
        self.average.copy_(state["average"])
        self.index = index
        self.generator.set_state(state["generator"])


def denoise_once(denoiser: Denoiser, noisy: Image, sigma: float) -> Image:
    """E[x_0 | x_0 + σε] in one call: the image is scaled to the diffusion's x_t first, and clipped after."""
    where = compute.default()
    x_t = (noisy / math.sqrt(1 + sigma**2)).to(where.device).contiguous(memory_format=where.memory_format)
    with torch.no_grad():
        return denoiser(x_t, sigma).float().clamp(-1, 1).to(noisy.device)


SYMMETRIES = 8  # of the square


@dataclass(frozen=True)
class SampleConfig:
    """How the reverse process runs.

    solver:  "ddim": x_s = √ᾱ_s x̂_0 + √(1 − ᾱ_s − σ²) ε̂ + σ z with σ from eta (Song et al. 2021, eq. 12 and 16):
             without a measurement eta = 1 over all T steps is DDPM's ancestral sampler; eta = 0 is DDIM;
             "dpmpp_2m": DPM-Solver++(2M) (Lu et al. 2022, algorithm 2), deterministic
    zeta:    σ² = zeta (1 − ᾱ_s) in place of eta's: at 1 all noise is drawn anew at every step (DiffPIR, eq. 14)
    turn:    each call sees x_t in the next of the square's eight symmetries (the self-ensemble of Timofte et al. 2016,
             spread over the steps); not for a prior of a single image, which knows its directions by heart
    views:   each step's estimate is the mean of as many calls, which see x_t in as many symmetries; above 1 needs turn
    clip:    keep x̂_0 in [−1, 1]
    lam:     weight λ of the prior in data consistency: ρ = λσ_y²/σ_t² (DiffPIR, Zhu et al. 2023, eq. 13)
    """

    steps: int = 20
    spacing: SpacingKind = "uniform"
    solver: Literal["ddim", "dpmpp_2m"] = "ddim"
    eta: float = 0.0
    zeta: float | None = None
    turn: bool = False
    views: int = 1
    clip: bool = True
    lam: float = 7.0

    def __post_init__(self) -> None:
        check_fields(self)
        require(self.steps >= 1, f"steps: expected 1 or more, got {self.steps}")
        require(1 <= self.views <= SYMMETRIES, f"views: expected 1 to {SYMMETRIES}, got {self.views}")
        require(
            self.turn or self.views == 1, f"without turn all views are the same: expected views = 1, got {self.views}"
        )
        require(0 <= self.eta <= 1, f"eta: expected a number in [0, 1], got {self.eta}")
        require(self.zeta is None or 0 <= self.zeta <= 1, f"zeta: expected a share in [0, 1] or None, got {self.zeta}")
        require(self.zeta is None or self.eta == 0, "eta and zeta both set the fresh noise: give one of them")
        require(self.lam > 0, f"lam weighs the prior against the measurement: expected more than 0, got {self.lam}")
        require(self.solver == "ddim" or self.eta == 0, f"dpmpp_2m is deterministic: expected eta = 0, got {self.eta}")
        require(self.solver == "ddim" or not self.zeta, f"dpmpp_2m is deterministic: expected no zeta, got {self.zeta}")

    @classmethod
    def ancestral(cls, T: int) -> SampleConfig:
        """Ho et al. 2020, algorithm 2, with the smaller of the two variances (β̃)."""
        return cls(steps=T, spacing="uniform", eta=1.0)


# a measurement said to be free of noise is still trusted no further than its 8-bit rounding
SIGMA_FLOOR = 2 / 255 / math.sqrt(12)


def symmetry(x: Image, place: int, back: bool = False) -> Float[Tensor, "b 3 _ _"]:
    """x after one of the eight symmetries of the square, 0 … 7 (0: as it is), or with that symmetry undone."""
    quarters, mirrored = place % 4, place >= 4
    if back:
        x = torch.rot90(x, -quarters, (-2, -1))
        return x.flip(-1) if mirrored else x
    return torch.rot90(x.flip(-1) if mirrored else x, quarters, (-2, -1))


def sample(
    denoiser: Denoiser,
    schedule: NoiseSchedule,
    x_t: Image,
    t_start: int,
    config: SampleConfig,
    generator: torch.Generator,
    measurement: Measurement | None = None,
) -> Iterator[Step]:
    """The reverse process from x_t at t_start down to 0.

    With a measurement, every x̂_0 is moved to agree with it: x̂_0 ← prox(x̂_0, y, ρ) (DiffPIR, algorithm 1). "ddim" goes
    on with the denoiser's own noise ε̂, as DDNM's DDIM form does (Wang et al. 2023): taken from the moved x̂_0 it would
    carry the correction back into x_s with the opposite sign. "dpmpp_2m" knows x̂_0 alone, and does take it from there.
    Yields a step per call of the denoiser: x_t is the state it ends in, x0_hat the estimate that led there; of a step's
    several views all but the last stay at its t, with the mean of the estimates so far.
    The last step's x_t and x0_hat are the result, on the device that x_t came from. t_start = 0 yields x_t as it is.
    """
    check_tensor("x_t", x_t)
    shape = tuple(x_t.shape)
    require(len(shape) == 4 and shape[1] == 3, f"x_t: expected images (b, 3, h, w), got shape {shape}")
    ts = spacing(schedule, t_start, config.steps, config.spacing)
    if t_start == 0:
        yield Step(0, 0, x_t, x_t)
        return
    where = compute.default()
    previous: tuple[float, Image] | None = None  # DPM-Solver++'s memory: log SNR/2 and x̂_0 one step before
    home = x_t.device
    x_t = x_t.float().to(where.device)
    index = -1
    for t, s in pairwise(ts):
        a_t, a_s = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
        sigma_t = schedule.sigma(t)
        x0_hat = torch.zeros_like(x_t)
        for view in range(config.views):
            index += 1
            place = index % SYMMETRIES if config.turn else 0
            with torch.no_grad():
                seen = symmetry(x_t, place).contiguous(memory_format=where.memory_format)
                estimate = symmetry(denoiser(seen, sigma_t).to(x_t), place, back=True)
            x0_hat = x0_hat + (estimate - x0_hat) / (view + 1)
            if view + 1 < config.views:
                shown = x0_hat.clamp(-1, 1) if config.clip else x0_hat
                yield Step(index, t, x_t.to(home), shown.to(home))
        if config.clip:
            x0_hat = x0_hat.clamp(-1, 1)
        eps = (x_t - math.sqrt(a_t) * x0_hat) / math.sqrt(1 - a_t)
        if measurement is not None:
            rho = config.lam * max(measurement.sigma_y, SIGMA_FLOOR) ** 2 / sigma_t**2
            x0_hat = measurement.operator.prox(x0_hat, measurement.y.to(x0_hat.device), rho)
            if config.clip:
                x0_hat = x0_hat.clamp(-1, 1)
        if config.solver == "ddim":
            variance = config.eta**2 * (1 - a_s) / (1 - a_t) * (1 - a_t / a_s)
            if config.zeta is not None:
                variance = config.zeta * (1 - a_s)
            x_t = math.sqrt(a_s) * x0_hat + math.sqrt(max(0.0, 1 - a_s - variance)) * eps
            if variance > 0:
                x_t = x_t + math.sqrt(variance) * torch.randn(x_t.shape, generator=generator).to(x_t.device)
        else:
            x_t, previous = _dpmpp_2m(x_t, x0_hat, a_t, a_s, previous)
        yield Step(index, s, x_t.to(home), x0_hat.to(home))


def _dpmpp_2m(
    x_t: Image, x0_hat: Image, a_t: float, a_s: float, previous: tuple[float, Image] | None
) -> tuple[Image, tuple[float, Image]]:
    lambda_t = 0.5 * math.log(a_t / (1 - a_t))
    if a_s == 1:  # the last step lands on x̂_0
        return x0_hat, (lambda_t, x0_hat)
    h = 0.5 * math.log(a_s / (1 - a_s)) - lambda_t
    D = x0_hat
    if previous is not None:
        r = (lambda_t - previous[0]) / h
        D = (1 + 1 / (2 * r)) * x0_hat - previous[1] / (2 * r)
    x_s = math.sqrt((1 - a_s) / (1 - a_t)) * x_t - math.sqrt(a_s) * math.expm1(-h) * D
    return x_s, (lambda_t, x0_hat)
