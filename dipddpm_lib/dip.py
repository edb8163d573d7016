"""Deep Image Prior: a network fitted to one measurement, with a running average and a stop of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from . import compute
from .compute import Compute
from .networks import DeepDecoder, SkipNetwork, Upsampling, build, parameter_count
from .optimise import Adam
from .types import Image, Measurement, Step, check_fields, check_generator, check_type, require


@dataclass(frozen=True)
class DIPConfig:
    """How a network is fitted; `DIPConfig()` is `fast()`. A shorter fit is `fast(n)`, whose warm-up is shorter too.

    filters:    one width a scale, finest first; their number is the depth
    skip:       channels of every skip connection, or one number a scale, finest first; 0 for none
    lean:       one convolution a scale on the way down, zero padding (see `networks.SkipNetwork`)
    refine:     kernel of the second convolution of each scale on the way up
    lift:       scales at the fine end without a way down or a skip: z comes in at 2^-lift of the image's size
    warmup:     iterations over which the rate rises to lr; a rate that would be too high at the start is then not
    lr_end:     what the rate has fallen to at the last iteration, along a cosine, as a share of lr; 1 keeps it
    coarse:     iterations at the start without the finest scale: an image at half the size is fitted, scaled up
    jitter:     standard deviation of the noise added to the input z ~ U(0, 0.1) at every iteration
    ema:        decay of the running average of outputs; its bias is corrected as Adam's is
    growing:    reach that decay from below, as (1 + n)/(10 + n): early outputs are far off and soon forgotten
    stop:       "none": after all iterations;
                "emv": at the least exponential moving variance of the outputs (Wang et al. 2023, §3.2);
                "held_out": soon after the least error on measurements kept from the fit: what is fitted goes on
                improving for about as long as `patience`
    held_out:   share of the measured entries kept from the fit; 0 keeps none
    patience:   iterations without a new least before the fit stops; three times as many where there is no noise
    runs:       networks fitted side by side, each from its own start; the estimate is the mean of theirs, which takes
                off much of what each fitted of the noise (two: 0.6 dB in Ulyanov et al. 2018, §3.1)
    float32:    the plain precision, whatever `compute` chose
    """

    network: Literal["skip", "deep_decoder"] = "skip"
    filters: tuple[int, ...] = (16, 16, 32, 64)
    skip: int | tuple[int, ...] = 8
    in_channels: int = 16
    upsampling: Upsampling = "nearest"
    lean: bool = True
    refine: Literal[1, 3] = 1
    activation: Literal["silu", "leaky_relu"] = "silu"
    lift: int = 1
    lr: float = 0.03
    warmup: int = 100
    lr_end: float = 1.0
    coarse: int = 0
    iterations: int = 600
    jitter: float = 0.02
    ema: float = 0.98
    growing: bool = False
    stop: Literal["none", "emv", "held_out"] = "held_out"
    held_out: float = 0.02
    patience: int = 20
    runs: int = 4
    float32: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        require(
            len(self.filters) >= 1 and min(self.filters) >= 1,
            f"filters: expected one whole number of 1 or more a scale, got {self.filters!r}",
        )
        require(all(c >= 0 for c in self.skips), f"skip: expected 0 or more channels, got {self.skip!r}")
        require(self.in_channels >= 1, f"in_channels: expected 1 or more, got {self.in_channels}")
        require(0 <= self.lift < self.depth, f"lift: expected 0 … {self.depth - 1}, fewer than scales, got {self.lift}")
        require(self.iterations >= 1, f"iterations: expected 1 or more, got {self.iterations}")
        require(
            not isinstance(self.skip, tuple) or len(self.skip) == self.depth,
            f"skip: expected {self.depth} numbers, one a scale, got {self.skip!r}",
        )
        require(self.runs >= 1, f"runs: expected 1 or more, got {self.runs}")
        require(self.lr > 0, f"lr: expected a rate above 0, got {self.lr}")
        require(0 <= self.lr_end <= 1, f"lr_end: expected a share of lr in [0, 1], got {self.lr_end}")
        require(self.warmup >= 0, f"warmup: expected 0 or more iterations, got {self.warmup}")
        require(
            self.coarse == 0 or (self.coarse > 0 and self.network == "skip" and self.depth > 1),
            f"coarse: expected 0 or more iterations, of a skip network of two scales or more, got {self.coarse}",
        )
        require(
            self.coarse < self.iterations,
            f"coarse: expected fewer than the {self.iterations} iterations of the fit, got {self.coarse}",
        )
        require(self.jitter >= 0, f"jitter: expected a standard deviation of 0 or more, got {self.jitter}")
        require(0 <= self.ema < 1, f"ema: expected a decay in [0, 1), got {self.ema}")
        require(0 <= self.held_out < 1, f"held_out: expected a share in [0, 1), got {self.held_out}")
        require(self.patience >= 1, f"patience: expected 1 or more iterations, got {self.patience}")
        require(
            self.stop != "held_out" or self.held_out > 0,
            "stop = held_out needs measurements to hold out: set held_out above 0, or stop = none",
        )

    @property
    def depth(self) -> int:
        return len(self.filters)

    @property
    def skips(self) -> tuple[int, ...]:
        """One number a scale."""
        return self.skip if isinstance(self.skip, tuple) else (self.skip,) * self.depth

    @classmethod
    def fast(cls, iterations: int = 600) -> DIPConfig:
        """Ours: four light networks side by side, nearest upsampling, the machine's best precision, a stop of its own.

        A short fit warms up over half of its iterations and averages over a shorter tail.
        """
        check_type("iterations", iterations, int)
        warmup, ema = min(100, iterations // 2), min(0.98, 1 - 8 / max(iterations, 9))
        return cls(iterations=iterations, warmup=warmup, ema=ema)

    @classmethod
    def published(cls, iterations: int = 1800) -> DIPConfig:
        """The default network and optimiser of Ulyanov et al. 2018 (denoising), in float32: the yardstick."""
        return cls(
            filters=(128,) * 5,
            in_channels=32,
            skip=4,
            upsampling="bilinear",
            lean=False,
            activation="leaky_relu",
            lift=0,
            lr=0.01,
            warmup=0,
            iterations=iterations,
            jitter=1 / 30,
            ema=0.99,
            stop="none",
            held_out=0.0,
            runs=1,
            float32=True,
        )

    @classmethod
    def snail(cls, iterations: int = 2400) -> DIPConfig:
        """The light network that Ulyanov et al. 2018 use for their picture of a snail, in float32."""
        return replace(cls.published(iterations), filters=(8, 16, 32, 64, 128), skip=(0, 0, 0, 4, 4), in_channels=3)

    @classmethod
    def deep_decoder(cls, iterations: int = 1900) -> DIPConfig:
        """Heckel and Hand 2019: 1×1 convolutions, 128 channels, five bilinear steps up, no jitter; in float32."""
        return cls(
            network="deep_decoder",
            filters=(128,) * 5,
            in_channels=128,
            lr=0.01,
            warmup=0,
            iterations=iterations,
            jitter=0.0,
            ema=0.99,
            stop="none",
            held_out=0.0,
            runs=1,
            float32=True,
        )

    @classmethod
    def shaped(cls, depth: int, filters: int, iterations: int = 400) -> DIPConfig:
        """One network with `depth` scales of `filters` channels, run to its end: the writeup's ablation 4.1."""
        check_type("depth", depth, int)
        require(depth >= 1, f"depth: expected 1 or more, got {depth}")
        fast = cls.fast(iterations)
        return replace(fast, filters=(filters,) * depth, lift=0, stop="none", held_out=0.0, runs=1)


@dataclass(frozen=True)
class Fit(Step):
    """A step of a DIP fit: x_t is the network's output, x0_hat its running average, both the mean over runs.

    rmse_hat: the average's error in units of [-1, 1], estimated on held-out measurements, noise taken off; None
              without any. They see only what A shows. How much it hides the runs tell, by how far they disagree: the
              estimate is the held-out error times ‖x̂_i − x̄‖/‖A(x̂_i − x̄)‖, root mean squares over pixels and over
              held-out entries, and never below 1. One run alone leaves that factor at 1.
    """

    rmse_hat: float | None = None


def together(runs: int, pixels: int, lanes: int) -> int:
    """How many of a fit's networks are computed as one; lanes: groups that run side by side.

    Every layer of a group is one layer with a group of channels for each network: the same arithmetic in fewer calls,
    which so small layers take longer to make than to compute. No lane is left idle, and no more than two networks
    share a large image, where more of them were slower.
    """
    return min(-(-runs // lanes), max(2, 2**17 // pixels))


def _networks(config: DIPConfig, size: tuple[int, int], *generators: torch.Generator) -> tuple[nn.Module, Tensor]:
    """An untrained network for each generator, as one, and their fixed inputs z, one after the other."""
    height, width = size
    device = compute.default().device
    net: nn.Module
    if config.network == "deep_decoder":
        factor = 2**config.depth
        net = build(
            DeepDecoder,
            *generators,
            device=device,
            filters=config.filters,
            in_channels=config.in_channels,
            copies=len(generators),
        )
    else:
        net = build(
            SkipNetwork,
            *generators,
            device=device,
            filters=config.filters,
            skip=config.skips,
            in_channels=config.in_channels,
            upsampling=config.upsampling,
            lean=config.lean,
            refine=config.refine,
            activation=config.activation,
            lift=config.lift,
            coarse=config.coarse > 0,
            copies=len(generators),
        )
        factor = 2**config.lift
    shape = (1, config.in_channels, -(-height // factor), -(-width // factor))
    return net, torch.cat([torch.rand(shape, generator=generator) / 10 for generator in generators], 1).to(device)


def parameters(config: DIPConfig) -> int:
    """How many weights the networks of `config` have, all runs together."""
    return config.runs * parameter_count(_networks(config, (32, 32), torch.Generator())[0])


def reconstruct(measurement: Measurement, config: DIPConfig, generator: torch.Generator) -> Fitting:
    """min_θ ‖m ⊙ (A f_θ(z) − y)‖², m = 1 where y is fitted (Ulyanov et al. 2018, eq. 2); one `Fit` an iteration.

    The last `Fit` holds the result, a running average: with EMV that of the stop's best moment, with held-out
    measurements the last one, unless the fit has collapsed by then. Its images are where y is, wherever they were
    computed.
    """
    return Fitting(measurement, config, generator)


class Fitting(Iterator[Fit]):
    """A fit under way, one `Fit` at a time; see `reconstruct`."""

    def __init__(self, measurement: Measurement, config: DIPConfig, generator: torch.Generator):
        measurement.check_single("dip")
        check_generator(generator)
        where = compute.default().float32() if config.float32 else compute.default()
        operator, y = measurement.operator, measurement.y.to(where.device)
        self.config, self.measurement, self.operator, self.y = config, measurement, operator, y
        # the first run goes on drawing from the caller's generator, each other has one of its own
        seeds = torch.randint(2**48, (config.runs - 1,), generator=generator).tolist()
        draws = [generator, *(torch.Generator().manual_seed(seed) for seed in seeds)]
        lanes = where.threads if where.device == "cpu" else 1
        height, width = measurement.image_size
        count = together(config.runs, height * width, lanes)
        groups = [draws[start : start + count] for start in range(0, config.runs, count)]
        self.groups = [_Group(config, measurement.image_size, where, *group) for group in groups]

        support = operator.support.to(y).expand(y.shape)
        held = torch.zeros((), dtype=torch.bool, device=y.device)
        if config.held_out > 0:
            held = operator.held_out(y, config.held_out, generator)
        fitted = support * ~held
        require(bool(fitted.any()), f"held_out: {config.held_out} leaves no measurement to fit; lower it")

        self.weight = fitted / fitted.sum()
        self.held = held.expand(y.shape).to(y) * (support > 0)
        self.count = int(self.held.sum())
        self.watch = _Watch(config, noisy=measurement.sigma_y > 0)
        self.averages = torch.zeros(config.runs, 3, *measurement.image_size, device=where.device)
        self.unseen = 1.0  # the share of the averages that is still their zero start
        self.index = 0
        self.ended = False
        self._threads = ExitStack()  # they end with the fit, or with this object where nobody asks for more
        self._at_once = self._threads.enter_context(compute.side_by_side(len(self.groups)))

    def __next__(self) -> Fit:
        config, index = self.config, self.index
        if self.ended:
            raise StopIteration
        outputs = torch.cat(self._at_once([partial(group.iterate, index, self._loss) for group in self.groups]))
        decay = min(config.ema, (1 + index) / (10 + index)) if config.growing else config.ema
        self.averages = torch.lerp(outputs, self.averages, decay)
        self.unseen *= decay
        estimates = self.averages / (1 - self.unseen)  # their bias corrected (Kingma and Ba 2015, §3)
        x_t, x0_hat = (each.mean(0, keepdim=True) for each in (outputs, estimates))
        residual: float | None = None
        rmse_hat: float | None = None
        if self.count:
            seen = self.operator.A(estimates)
            mean = seen.mean(0, keepdim=True)
            residual = float((self.held * (mean - self.y) ** 2).sum()) / self.count
            rmse_hat = self.measurement.rmse(residual, self.count)
            if config.runs > 1:
                # sums of squares: Tensor.var over so few took as long as a network's whole iteration
                shown = self.operator.parts * float((self.held * (seen - mean) ** 2).sum()) / self.count
                apart = float(((estimates - x0_hat) ** 2).sum()) / x0_hat.numel()
                # below 1 it would say that fitted entries are right: there the runs agree on the noise they fitted
                rmse_hat *= max(1.0, math.sqrt(apart / max(shown, 1e-12)))
        home = self.measurement.y.device
        fit = Fit(index, 0, x_t.to(home), x0_hat.to(home), rmse_hat)
        # what half the size reaches says nothing of when the whole is done, and at the start of a warm-up the
        # held-out error may rise for longer than any patience
        watched = index >= max(config.coarse, config.warmup // 2)
        self.ended = (watched and self.watch.over(fit, residual)) or index + 1 == config.iterations
        self.index += 1
        if not self.ended:
            return fit
        self.close()
        result = self.watch.result(fit, residual)
        return Fit(index, 0, fit.x_t, result.x0_hat, result.rmse_hat)

    def close(self) -> None:
        """End the fit here."""
        self.ended = True
        self._threads.close()

    def _loss(self, output: Image) -> Tensor:
        """Summed over networks, of which each sees the gradient of its own."""
        return (self.weight * (self.operator.A(output) - self.y) ** 2).sum()

    def state(self) -> dict[str, Tensor]:
        """A copy of all that the next steps depend on, after at least one step."""
        parts = {f"group {n}": group.state() for n, group in enumerate(self.groups)} | {"watch": self.watch.state()}
        return {
            **{f"{part}, {name}": value for part, values in parts.items() for name, value in values.items()},
            "averages": self.averages.clone(),
            "unseen": torch.tensor(self.unseen, dtype=torch.float64),
            "index": torch.tensor(self.index),
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on where `state` was taken, bit by bit as if there had been no interruption.

        This fit must come from the same measurement, configuration and seed.
        """
        index = int(state["index"])
        most = self.config.iterations - 1
        require(index <= most, f"state: expected at most {most} steps taken, got {index}")

        def part(name: str) -> dict[str, Tensor]:
            return {key.removeprefix(f"{name}, "): value for key, value in state.items() if key.startswith(f"{name}, ")}

        for n, group in enumerate(self.groups):
            group.restore(part(f"group {n}"))
        self.watch.restore(part("watch"), self.measurement.y.device)
        self.averages.copy_(state["averages"])
        self.unseen, self.index = float(state["unseen"]), index


class _Group:
    """Networks of a fit that are computed as one, their inputs z and their optimiser."""

    def __init__(self, config: DIPConfig, size: tuple[int, int], where: Compute, *generators: torch.Generator):
        self.config, self.size, self.generators = config, size, generators
        self.network, z = _networks(config, size, *generators)
        self.optimiser = Adam(self.network, where, config.lr)
        self.z = z.contiguous(memory_format=where.memory_format)

    def iterate(self, index: int, loss: Callable[[Image], Tensor]) -> Image:
        """One step of each network down its gradient; the outputs that they were taken at, (networks, 3, h, w)."""
        config, z = self.config, self.z
        if config.jitter > 0:
            shape = (1, config.in_channels, *z.shape[-2:])
            noise = torch.cat([torch.randn(shape, generator=generator) for generator in self.generators], 1)
            z = z + config.jitter * noise.to(z)
        whole = {} if index >= config.coarse else {"half": True}
        output = self.network(z, **whole)[..., : self.size[0], : self.size[1]]
        share = index / config.iterations
        rate = config.lr_end + (1 - config.lr_end) * (1 + math.cos(math.pi * share)) / 2
        rate *= min(1.0, (index + 1) / (config.warmup + 1))
        self.optimiser.step(loss(output), config.lr * rate)
        return output.detach().contiguous()

    def state(self) -> dict[str, Tensor]:
        draws = {f"generator {n}": generator.get_state() for n, generator in enumerate(self.generators)}
        return {**self.optimiser.state(), **draws}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.optimiser.restore(state)
        for n, generator in enumerate(self.generators):
            generator.set_state(state[f"generator {n}"])


class _Watch:
    """Remembers the best fit by the stop's own measure, and says when to stop."""

    def __init__(self, config: DIPConfig, noisy: bool):
        self.config = config
        self.patience = config.patience if noisy else 3 * config.patience
        self.best: Fit | None = None
        self.least = float("inf")
        self.mean: Image | None = None
        self.variance = 0.0
        self.first = 0  # the iteration at which the variance began

    def over(self, fit: Fit, residual: float | None) -> bool:
        """True once the least measure is `patience` iterations old."""
        measure = -float(fit.index)  # without a stop the last fit is the best
        if self.config.stop == "held_out" and residual is not None:
            measure = residual
        elif self.config.stop == "emv":
            measure = self._moving_variance(fit)
        if self.best is None or measure <= self.least:
            self.least, self.best = measure, fit
        return fit.index - self.best.index >= self.patience

    def result(self, last: Fit, residual: float | None) -> Fit:
        """The best by the measure; with held-out measurements the last, unless the fit has collapsed since."""
        # entries that were fitted are right for longer than entries that were not: on three training photographs the
        # last fit, 20 iterations on, was within 0.04 dB of the best of the whole run, at σ = 25 and at 50 (measured
        # before the rate warmed up)
        if self.config.stop == "held_out" and residual is not None and residual <= 1.1 * self.least:
            return last
        return self.best or last

    def state(self) -> dict[str, Tensor]:
        """A copy of what was seen so far; the least measure, the variance, and where it began."""
        out = {"measures": torch.tensor([self.least, self.variance, self.first], dtype=torch.float64)}
        if self.mean is not None:
            out["mean"] = self.mean.clone()
        if self.best is not None:
            rmse_hat = math.nan if self.best.rmse_hat is None else self.best.rmse_hat
            out["best"] = torch.tensor([self.best.index, rmse_hat], dtype=torch.float64)
            out |= {"best x_t": self.best.x_t.clone(), "best x0_hat": self.best.x0_hat.clone()}
        return out

    def restore(self, state: Mapping[str, Tensor], device: torch.device) -> None:
        self.least, self.variance, first = state["measures"].tolist()
        self.first = int(first)
        self.mean = state["mean"].to(device) if "mean" in state else None
        self.best = None
        if "best" in state:
            index, rmse_hat = state["best"].tolist()
            x_t, x0_hat = state["best x_t"].to(device), state["best x0_hat"].to(device)
            self.best = Fit(int(index), 0, x_t, x0_hat, None if math.isnan(rmse_hat) else rmse_hat)

    def _moving_variance(self, fit: Fit) -> float:
        """EMV with α = 0.1: O(1) a step in place of a window (Wang et al. 2023, eq. 6 and 7)."""
        alpha = 0.1
        if self.mean is None:
            self.mean, self.first = fit.x_t, fit.index
        step = fit.x_t - self.mean
        self.mean = self.mean + alpha * step
        self.variance = (1 - alpha) * (self.variance + alpha * float((step**2).mean()))
        # the variance starts at 0 and must first see a few windows' worth of outputs
        return self.variance if fit.index - self.first >= 5 / alpha else float("inf")
