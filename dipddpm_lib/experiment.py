"""A grid of cells → results: each cell is run once, timed whole, scored, and kept in the store."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cache, lru_cache, partial, singledispatch
from pathlib import Path
from typing import Any, Literal, Protocol, SupportsFloat, TypeVar

import pandas as pd
import torch
from torch import Tensor

from . import classical, compute, ddpm, dip, hybrid, images, metrics, operators, priors, store
from .classical import ClassicalConfig
from .ddpm import SampleConfig, TrainConfig
from .dip import DIPConfig
from .hybrid import HybridConfig
from .networks import DenoisingUNet, build
from .schedules import NoiseSchedule, ScheduleName, spacing
from .types import Image, InputError, Interval, Measurement, Result, Step, check_fields, require
from .workers import Client, Failure, LostScheduler, connected, count, far, on_a_worker, outcomes, wanted

Config = DIPConfig | SampleConfig | HybridConfig | ClassicalConfig

Yielded = TypeVar("Yielded", covariant=True)

BUNDLED_CHANNELS = TrainConfig.bundled().channels
STORED_AS = "experiment.run"
CHECKPOINT_SECONDS = 60
TELL_SECONDS = 20  # between two lines of progress
PROGRESS = re.compile(r"[^:]+: \d+ of \d+ cells, about \d+ s left")  # such a line, for who runs notebooks in batch
TRACE_POINTS = 40
FRAMES = 12
REPORT = "DIPDDPM_REPORT"  # set where a notebook runs for the report


@dataclass(frozen=True)
class Cell:
    """One run: which image, what is seen of it, which method, which seed.

    task:  one of `operators.TASKS`, or another that `operators.task` knows, as "inpaint_70" (protocol B); None is the
           clean target itself (protocol A)
    prior: "single" trains on the target (`training`), "bundled" never saw it
    label: what tables call it; the method's name where it is left empty
    first: DDPM from noise, whose result is handed over in place of the hybrid's own start; `config` gives t_start
    """

    image: str
    size: int
    seed: int
    config: Config
    task: str | None = None
    prior: Literal["single", "bundled"] = "bundled"
    training: TrainConfig | None = None
    schedule: ScheduleName = "cosine"
    T: int = 1000
    label: str = ""
    first: SampleConfig | None = None

    @property
    def method(self) -> str:
        return METHOD[type(self.config)] if self.first is None else f"{METHOD[type(self.first)]}+DDPM"

    def check(self, among: int = 1) -> None:
        """Everything that can be refused before computing is refused here, as `InputError`.

        among: how many such cells share this machine's memory; 0 where it is computed on others, which check it too
        """
        check_fields(self)
        if among:
            check_memory(self.config, self.size, self.training if self.prior == "single" else None, among)
        x_true = self.x_true()
        measured = self.measurement(x_true)
        schedule = NoiseSchedule.named(self.schedule, self.T)
        sample = self.config.sample if isinstance(self.config, HybridConfig) else self.config
        if isinstance(sample, SampleConfig):
            spacing(schedule, self.T, sample.steps, sample.spacing)
            require(self.prior in ("single", "bundled"), f"prior: expected single or bundled, got {self.prior!r}")
            if self.prior == "bundled":
                fold_for(x_true)
            elif self.training is None:
                raise InputError("prior: single needs a TrainConfig in `training`")
            else:
                crop, side = self.training.crop, min(x_true.shape[-2:])
                require(crop is None or crop <= side, f"crop: expected at most {side}, the image's side, got {crop}")
        if self.first is not None:
            require(
                isinstance(self.config, HybridConfig) and self.config.t_start is not None,
                "first: its result has no error estimate; give a HybridConfig with t_start",
            )
            replace(self, config=self.first, first=None).check(among)
        if isinstance(self.config, HybridConfig):
            if self.config.t_start is not None:
                schedule.check_t(self.config.t_start, "t_start")
            hybrid.check_start(measured, hybrid.settle(measured, self.config))

    def x_true(self) -> Image:
        return images.load(self.image, self.size)

    def measurement(self, x_true: Image) -> Measurement:
        """y of this image, task and seed: the same for every method, so that comparisons are paired."""
        if self.task is None:
            return Measurement(x_true, operators.Identity(), 0.0)
        draw = compute.generator(self.seed, f"measure/{self.task}")
        operator, sigma_y = operators.task(self.task, x_true.shape[-2], x_true.shape[-1], draw)
        return operators.measure(operator, x_true, sigma_y, draw)


METHOD: dict[type, str] = {
    DIPConfig: "DIP",
    SampleConfig: "DDPM",
    HybridConfig: "DIP+DDPM",
    ClassicalConfig: "classical",
}


# What a run keeps in memory: numbers a pixel for each channel of its network, a channel of scale i counting 4^-i, and
# bytes a pixel whatever the network. Fitted from below to peaks that compute.peak_memory measured on one thread, at
# 512² but for the U-Net's call (1024²) and its training (128², a batch of 4). Bytes a pixel: `fast` 1041,
# `shaped(5, 64)` 2056, the U-Net's call 868, its training 13518, all in bf16; `published` 10262, `snail` 1969,
# `deep_decoder` 3901 in float32. A test holds that the estimate lies between two fifths of a peak and the whole.
LEAN_FIT, FULL_FIT, DECODER_FIT, CALL, TRAINING = 6.5, 11, 3.8, 3.5, 25
PIXEL_BYTES = 300
STATES = 4  # float32 copies of each weight: itself, its gradient and Adam's two moments


def bytes_needed(config: Config | TrainConfig, size: int, training: TrainConfig | None = None) -> float:
    """Peak memory of computing at size², estimated from below: what this says does not fit does not fit."""
    needs = [0.0]
    number = 2 if compute.default().dtype == "bfloat16" else 4
    fit = config
    if isinstance(config, HybridConfig):  # a start that is not settled yet may be DIP's
        fit = config.dip if config.start in ("auto", "dip") else config.sample
    if isinstance(fit, DIPConfig):
        each = DECODER_FIT if fit.network == "deep_decoder" else LEAN_FIT if fit.lean else FULL_FIT
        at_once = min(fit.runs, compute.default().threads) * (4 if fit.float32 else number)
        padded = 2**fit.depth * -(-size // 2**fit.depth)  # every scale halves the side
        # z and the skips are kept once or more, at the sizes of their scales
        extra = fit.in_channels / 4**fit.lift + _channels(fit.skips)
        needs.append(
            at_once * (each * _channels(fit.filters) + extra) * padded**2 + fit.runs * _weight_bytes(fit.filters)
        )
    if isinstance(config, SampleConfig | HybridConfig):
        needs.append(CALL * number * _channels(training.channels if training else BUNDLED_CHANNELS) * size**2)
    if training := config if isinstance(config, TrainConfig) else training:
        area = training.batch * (training.crop or size) ** 2
        needs.append(TRAINING * number * _channels(training.channels) * area + _weight_bytes(training.channels))
    return max(needs) + PIXEL_BYTES * size**2


def check_memory(config: Config | TrainConfig, size: int, training: TrainConfig | None = None, among: int = 1) -> None:
    """Refuse, before it begins, what one of `among` runs on this machine has no memory for."""
    need, have = bytes_needed(config, size, training), compute.memory() / among
    method = METHOD.get(type(config), "a training")
    workers = "" if among == 1 else f" for each of {among} workers"
    require(
        need <= have,
        f"size: {method} at {size} × {size} needs at least {need / 2**30:,.1f} GiB of memory, this "
        f"machine has {have / 2**30:,.1f}{workers}; lower the size, or the widths and the batch of the networks",
    )


def _channels(widths: Sequence[int]) -> float:
    """Channels a pixel of the image, all scales together."""
    return sum(width / 4**scale for scale, width in enumerate(widths))


def _weight_bytes(widths: Sequence[int]) -> float:
    """Of the 3×3 convolutions within each scale, with what training keeps beside them; at least one a scale."""
    return float(4 * STATES * sum(9 * width**2 for width in widths))


@dataclass
class _Run:
    """What a consumer of steps notes: the clock stands still while it scores."""

    x_true: Image
    every: int
    keep: int
    seconds: float = 0.0
    count: int = -1
    trace: list[tuple[int, float, float, float]] = field(default_factory=list)
    frames: list[Tensor] = field(default_factory=list)

    def consume(self, steps: Iterator[Step]) -> Step:
        start = compute.clock()
        step: Step | None = None
        for step in steps:
            self.seconds += compute.clock() - start
            self.count += 1
            if self.count % self.every == 0:
                self._note(step)
            if self.count % self.keep == 0:
                self.frames.append(images.to_uint8(step.x0_hat))
            start = compute.clock()
        self.seconds += compute.clock() - start
        assert step is not None  # every method yields at least once
        if self.trace[-1][0] != step.index or self.count % self.every != 0:
            self._note(step)
        if self.count % self.keep != 0:
            self.frames.append(images.to_uint8(step.x0_hat))
        return step

    def state(self) -> dict[str, Tensor]:
        return {
            "noted.seconds": torch.tensor(self.seconds, dtype=torch.float64),
            "noted.count": torch.tensor(self.count),
            "noted.trace": torch.tensor(self.trace, dtype=torch.float64),
            "noted.frames": torch.cat(self.frames),
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.seconds, self.count = float(state["noted.seconds"]), int(state["noted.count"])
        self.trace = [(int(i), s, p, q) for i, s, p, q in state["noted.trace"].tolist()]
        frames = state["noted.frames"]
        if frames.dtype != torch.uint8 or frames.shape[1:] != self.x_true.shape[1:]:
            raise ValueError(f"a film of {frames.dtype}, {tuple(frames.shape)}")
        self.frames = list(frames.split(1))

    def _note(self, step: Step) -> None:
        x0_hat = step.x0_hat.to(self.x_true.device)
        scores = metrics.psnr(x0_hat, self.x_true), metrics.ssim(x0_hat, self.x_true)
        self.trace.append((step.index, self.seconds, *scores))


@dataclass
class _Series:
    """A number a step, and the seconds that the steps took, in whichever process."""

    seconds: float = 0.0
    values: list[float] = field(default_factory=list)

    def consume(self, steps: Iterator[Yielded], value: Callable[[Yielded], float]) -> Yielded:
        start = compute.clock()
        step: Yielded | None = None
        for step in steps:
            self.seconds += compute.clock() - start
            self.values.append(value(step))
            start = compute.clock()
        self.seconds += compute.clock() - start
        assert step is not None  # no work is without a step
        return step

    def state(self) -> dict[str, Tensor]:
        return {
            "noted.seconds": torch.tensor(self.seconds, dtype=torch.float64),
            "noted.values": torch.tensor(self.values, dtype=torch.float64),
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.seconds, self.values = float(state["noted.seconds"]), state["noted.values"].tolist()


class _Resumable(Protocol[Yielded]):
    """`dip.Fitting` and `ddpm.Training`."""

    @property
    def ended(self) -> bool: ...
    def __iter__(self) -> Iterator[Yielded]: ...
    def state(self) -> dict[str, Tensor]: ...
    def restore(self, state: Mapping[str, Tensor], /) -> None: ...


def _resumed(
    begin: Callable[[], _Resumable[Yielded]], checkpoint: store.Checkpoint, notes: _Run | _Series
) -> Iterator[Yielded]:
    """The steps of `begin()`, from where an earlier process left them; saved with the consumer's notes.

    Every CHECKPOINT_SECONDS, so what takes less never pays for it; the consumer's clock does not count the saving.
    """
    work = begin()
    if (state := checkpoint.load()) is not None:
        try:
            work.restore(state)
            notes.restore(state)
        except Exception as error:  # whoever wrote it is not trusted
            checkpoint.set_aside(error)
            raise InputError("store: an unfinished work could not be taken up; run it again, it begins anew") from error
    saved = time.perf_counter()
    for step in work:
        yield step
        if time.perf_counter() - saved >= CHECKPOINT_SECONDS and not work.ended:
            start = compute.clock()
            checkpoint.save({**work.state(), **notes.state()})
            notes.seconds -= compute.clock() - start
            saved = time.perf_counter()


@dataclass
class _Outcome:
    """What a method's run gives; `Result` adds the circumstances."""

    x0_hat: Image
    trace: list[tuple[int, float, float, float]]
    frames: Tensor
    seconds: dict[str, float]
    evaluations: int = 0
    memory: int = 0
    extra: dict[str, float] = field(default_factory=dict)


@cache
def _warm_up() -> None:
    """Load what the first fit of a process loads, so that the first cell is not charged for it."""
    tiny = Measurement(torch.zeros(1, 3, 32, 32), operators.Identity(), 0.0)
    for _ in dip.reconstruct(tiny, DIPConfig(iterations=2), compute.generator(0, "warm-up")):
        pass


def _noting(x_true: Image, count: int) -> _Run:
    """Notes on `count` steps or fewer."""
    return _Run(x_true, max(1, count // TRACE_POINTS), max(1, count // FRAMES))


def _watched(x_true: Image, count: int, steps: Iterator[Step]) -> tuple[_Run, Step, int]:
    return _consumed(_noting(x_true, count), steps)


def _consumed(run: _Run, steps: Iterator[Step]) -> tuple[_Run, Step, int]:
    _warm_up()
    with compute.peak_memory() as peak:
        last = run.consume(steps)
    return run, last, peak.bytes


@singledispatch
def _execute(config: Config, cell: Cell, x_true: Image, y: Measurement) -> _Outcome:
    raise InputError(f"config: expected one of {', '.join(METHOD.values())}, got {type(config).__name__}")


@_execute.register
def _(config: DIPConfig, cell: Cell, x_true: Image, y: Measurement) -> _Outcome:
    begin = partial(dip.reconstruct, y, config, compute.generator(cell.seed, "dip"))
    run = _noting(x_true, config.iterations)
    checkpoint = store.Checkpoint(store.key(STORED_AS, _parameters(cell, x_true)))
    run, last, memory = _consumed(run, _resumed(begin, checkpoint, run))
    assert isinstance(last, dip.Fit)
    extra = {"iterations": float(last.index + 1), "parameters": float(dip.parameters(config))}
    if last.rmse_hat is not None:
        extra["rmse_hat"] = last.rmse_hat
    return _Outcome(last.x0_hat, run.trace, torch.cat(run.frames), {"fit": run.seconds}, 0, memory, extra)


@_execute.register
def _(config: ClassicalConfig, cell: Cell, x_true: Image, y: Measurement) -> _Outcome:
    run, last, memory = _watched(x_true, 1, classical.reconstruct(y, config))
    return _Outcome(last.x0_hat, run.trace, torch.cat(run.frames), {"classical": run.seconds}, 0, memory)


@_execute.register
def _(config: SampleConfig, cell: Cell, x_true: Image, y: Measurement) -> _Outcome:
    denoiser, training = prior_of(cell)
    schedule = NoiseSchedule.named(cell.schedule, cell.T)
    x_T = torch.randn(x_true.shape, generator=compute.generator(cell.seed, "x_T"))
    draw = compute.generator(cell.seed, "sample")
    data = None if cell.task is None else y
    counted = _Counted(denoiser)
    steps = ddpm.sample(counted, schedule, x_T, cell.T, config, draw, data)
    run, last, memory = _watched(x_true, config.steps * config.views, steps)
    extra = {"training_seconds": training, "t_start": float(cell.T)}
    return _Outcome(
        last.x0_hat, run.trace, torch.cat(run.frames), {"sample": run.seconds}, counted.calls, memory, extra
    )


@_execute.register
def _(config: HybridConfig, cell: Cell, x_true: Image, y: Measurement) -> _Outcome:
    denoiser, training = prior_of(cell)
    schedule = NoiseSchedule.named(cell.schedule, cell.T)
    config = hybrid.settle(y, config)
    start, fit = _started(config, cell, x_true, y)
    t_start = hybrid.choose_t(fit, schedule, config)
    draw = compute.generator(cell.seed, "sample")
    counted = _Counted(denoiser)
    steps = hybrid.denoise(fit, y, counted, schedule, config, draw)
    watched, last, memory = _watched(x_true, config.calls, steps)
    before = start.seconds.get("fit", 0.0), sum(start.seconds.values())
    trace = start.trace + [(i, s + before[1], p, q) for i, s, p, q in watched.trace]
    psnr, ssim = start.trace[-1][2:]
    extra = {
        "training_seconds": training,
        "t_start": float(t_start),
        "from_dip": float(config.start == "dip" and cell.first is None),
        "fit_psnr": psnr,
        "fit_ssim": ssim,
        "rmse": metrics.rmse_of(psnr),
        **({"rmse_hat": fit.rmse_hat} if fit.rmse_hat is not None else {}),
    }
    frames = torch.cat([start.frames, *watched.frames])
    seconds = {"fit": before[0], "sample": before[1] - before[0] + watched.seconds}
    calls = start.evaluations + counted.calls
    return _Outcome(last.x0_hat, trace, frames, seconds, calls, max(memory, start.memory), extra)


def _started(config: HybridConfig, cell: Cell, x_true: Image, y: Measurement) -> tuple[_Outcome | Result, dip.Fit]:
    """How the hybrid's first half went, and the image that it hands off; `config` is settled."""
    if cell.first is not None:
        first = run(replace(cell, config=cell.first, first=None))
        return first, dip.Fit(first.evaluations - 1, 0, first.x0_hat, first.x0_hat, None)
    if config.start == "dip":
        # a cell of its own: cells that differ in the second half alone share it, its seconds included
        first = run(Cell(cell.image, cell.size, cell.seed, config.dip, cell.task))
        index = int(first.extra["iterations"]) - 1
        return first, dip.Fit(index, 0, first.x0_hat, first.x0_hat, first.extra.get("rmse_hat"))
    begun = hybrid.begin(y, config, compute.generator(cell.seed, "dip"))
    watched, fit, memory = _watched(x_true, 1, begun)
    assert isinstance(fit, dip.Fit)
    outcome = _Outcome(fit.x0_hat, watched.trace, torch.cat(watched.frames), {"fit": watched.seconds}, 0, memory)
    return outcome, fit


class _Counted:
    """A denoiser that counts its calls."""

    def __init__(self, denoiser: Callable[..., Image]):
        self.denoiser, self.calls = denoiser, 0

    def __call__(self, x_t: Image, sigma: float | Tensor) -> Image:
        self.calls += 1
        return self.denoiser(x_t, sigma)


def fold_for(x_true: Image) -> priors.Fold:
    """`priors.fold_for`, whose search among all that the priors have seen takes seconds: kept in the store.

    InputError where both have seen the image, each time anew.
    """
    both: tuple[priors.Fold, ...] = (1, 2)
    asked = (images.digest(x_true), *(priors.weights_digest(fold) for fold in both))
    if asked not in _FOLDS:
        name = store.key("priors.fold_for", {"asked": asked})
        if (kept := store.serve(name)) is None:  # not `store.remember`: a refusal comes before the store is touched
            kept = {"fold": priors.fold_for(x_true)}, {}
            store.put(name, *kept)
        _FOLDS[asked] = kept[0]["fold"]
    return _FOLDS[asked]


_FOLDS: dict[tuple[str, ...], priors.Fold] = {}  # a sweep asks for the same images again and again


def prior_of(cell: Cell) -> tuple[DenoisingUNet, float]:
    """The cell's denoiser, and the seconds that its training took."""
    x_true = cell.x_true()
    if cell.prior == "single":
        assert cell.training is not None  # Cell.check
        denoiser, _, seconds = single_prior(x_true, cell.training)
        return denoiser, seconds
    fold = fold_for(x_true)
    denoiser = _loaded(fold, priors.weights_digest(fold), compute.default())
    return denoiser, float(priors.record(fold)["seconds"])


@lru_cache(maxsize=2)
def _loaded(fold: priors.Fold, weights: str, how: compute.Compute) -> DenoisingUNet:
    """One fold's prior, read and built once for all cells of a process; no cell changes it."""
    return priors.load_fold(fold)


def single_prior(x_true: Image, config: TrainConfig, seed: int = 0) -> tuple[DenoisingUNet, list[float], float]:
    """A denoiser trained on the target itself, its losses and its seconds; from the store where it is there."""
    parameters = {"image": images.digest(x_true), "config": asdict(config), "seed": seed}

    def work() -> tuple[dict[str, Any], dict[str, Tensor]]:
        check_memory(config, max(x_true.shape[-2:]))
        begin = partial(ddpm.train, [x_true], config, compute.generator(seed, "train"))
        losses = _Series()
        steps = _resumed(begin, store.Checkpoint(store.key("ddpm.train", parameters)), losses)
        last = losses.consume(steps, lambda step: step.loss)
        return {"seconds": losses.seconds, "losses": losses.values}, last.denoiser.state_dict()

    record, state = store.remember("ddpm.train", parameters, work)
    network = build(DenoisingUNet, torch.Generator(), channels=config.channels)
    network.load_state_dict(state)
    return compute.default().place(network.requires_grad_(False)), record["losses"], record["seconds"]


def train_bundled(
    fold: priors.Fold, config: TrainConfig, seed: int = 0, *, go_on: bool = False, more: Sequence[Path] = ()
) -> Path:
    """Train a bundled prior as the shipped one was, telling how it goes; the path of its weights file.

    go_on: start from the shipped weights; the new file's record then holds theirs, as `before`
    more:  further photographs to train on, beside those that the dependencies carry
    A training that was stopped is taken up where it last saved its state, a minute of work ago at most.
    """
    before = priors.record(fold) if go_on else None
    parameters = {
        "fold": fold,
        "config": asdict(config),
        "seed": seed,
        "from": priors.weights_digest(fold) if go_on else None,
        "more": [images.digest(images.load(path)) for path in more],
    }
    checkpoint = store.Checkpoint(store.key("experiment.train_bundled", parameters))
    draw = compute.generator(seed, f"bundled prior, fold {fold}")
    training_images = priors.training_images(fold, draw, more)
    begin = partial(ddpm.train, training_images, config, draw, priors.shipped(fold) if go_on else None)
    losses = _Series()

    def loss(step: ddpm.TrainStep) -> float:
        if step.index % 250 == 0:
            print(f"step {step.index}, loss {step.loss:.4f}, {losses.seconds:.0f} s", file=sys.stderr, flush=True)
        return step.loss

    last = losses.consume(_resumed(begin, checkpoint, losses), loss)
    path = store.folder() / f"bundled_fold{fold}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    priors.save(path, last.denoiser, fold, asdict(config), seed, losses.seconds, before, more)
    checkpoint.remove()
    return path


def run(cell: Cell) -> Result:
    """The cell's result: from the store where it is there, else computed and stored."""
    return _result(_kept(cell))


@dataclass(frozen=True)
class _Kept:
    """What the store holds of a cell."""

    key: str
    record: dict[str, Any]
    arrays: dict[str, Tensor]
    costs: dict[str, Any] = field(default_factory=dict)  # where another machine's store is to keep them too


def _sent(cell: Cell) -> _Kept:
    """What a worker sends back."""
    kept = _kept(cell)
    return replace(kept, costs=store.costs(kept.key))


def _kept(cell: Cell) -> _Kept:
    x_true = cell.x_true()
    parameters = _parameters(cell, x_true)

    def work() -> tuple[dict[str, Any], dict[str, Tensor]]:
        cell.check()
        outcome = _execute(cell.config, cell, x_true, cell.measurement(x_true))
        record = {
            "config": parameters,
            "seed": cell.seed,
            "digest": parameters["digest"],
            "trace": outcome.trace,
            "seconds": outcome.seconds,
            "evaluations": outcome.evaluations,
            "memory": outcome.memory,
            "machine": compute.machine(),
            "versions": compute.versions(),
            "extra": outcome.extra,
        }
        return record, {"x0_hat": outcome.x0_hat.float(), "frames": outcome.frames}

    return _Kept(store.key(STORED_AS, parameters), *store.remember(STORED_AS, parameters, work))


def fit_curve(target: Image, config: DIPConfig, seed: int) -> list[float]:
    """PSNR of DIP's bare output, the mean of its runs, after each iteration of a fit to `target`; kept in the store."""
    parameters = {"digest": images.digest(target), "config": asdict(config), "seed": seed}

    def work() -> tuple[dict[str, Any], dict[str, Tensor]]:
        check_memory(config, max(target.shape[-2:]))
        y = Measurement(target, operators.Identity(), 0.0)
        begin = partial(dip.reconstruct, y, config, compute.generator(seed, "dip"))
        curve = _Series()
        steps = _resumed(begin, store.Checkpoint(store.key("experiment.fit_curve", parameters)), curve)
        curve.consume(steps, lambda fit: metrics.psnr(fit.x_t, target))
        return {"psnr": curve.values}, {}

    return list(store.remember("experiment.fit_curve", parameters, work)[0]["psnr"])


def _parameters(cell: Cell, x_true: Image) -> dict[str, Any]:
    """The cell as JSON values; the image by its content, labels left out. Only what the method reads counts."""
    content = asdict(replace(cell, image="", label=""))
    content |= {"digest": images.digest(x_true), "method": cell.method}
    if cell.first is None:
        del content["first"]
    if not isinstance(cell.config, SampleConfig | HybridConfig):
        for unread in ("prior", "training", "schedule", "T"):
            content.pop(unread)
    elif cell.prior == "bundled":
        fold = fold_for(x_true)
        content["training"] = priors.weights_digest(fold)
    return content


def _result(kept: _Kept) -> Result:
    record, arrays = kept.record, kept.arrays
    try:
        fields = {name: record[name] for name in record if name != "trace"}
        trace = [(int(i), float(s), float(p), float(q)) for i, s, p, q in record["trace"]]
        if not trace:
            raise ValueError("an empty trace")
        return Result(**fields, trace=trace, x0_hat=arrays["x0_hat"], frames=arrays["frames"])
    except (KeyError, TypeError, ValueError) as error:  # whole, but not written by `run`
        raise InputError(f"store: {store.folder()} holds a result of another form ({error!r}); remove it") from error


class Results(Sequence[tuple[Cell, Result]]):
    """Cells with their results, in the order of the cells."""

    def __init__(self, pairs: Iterable[tuple[Cell, Result]]):
        self._pairs = tuple(pairs)

    def __getitem__(self, index: Any) -> Any:
        return self._pairs[index]

    def __len__(self) -> int:
        return len(self._pairs)

    def only(self, **wanted: Any) -> Results:
        """Those whose cell has these values: `only(image="coffee", method="DIP")`."""
        known = {each.name for each in fields(Cell)} | {"method"}
        unknown = sorted(wanted.keys() - known)
        require(not unknown, f"only: expected some of {', '.join(sorted(known))}, got {', '.join(unknown)}")
        return Results(p for p in self if all(getattr(p[0], k) == v for k, v in wanted.items()))

    def best(self) -> Result:
        """The one with the highest PSNR to its target, which only a reader of results knows."""
        require(len(self) > 0, "best: expected one result or more, got none")
        return max((result for _, result in self), key=lambda result: result.psnr)

    def frame(self) -> pd.DataFrame:
        """One tidy row a cell: what was asked, what came."""
        rows = []
        for cell, result in self:
            config = {f"config.{k}": v for k, v in asdict(cell.config).items()}
            sample = cell.config.sample if isinstance(cell.config, HybridConfig) else cell.config
            rows.append(
                {
                    "image": cell.image,
                    "size": cell.size,
                    "seed": cell.seed,
                    "task": cell.task,
                    "method": cell.method,
                    "label": cell.label or cell.method,
                    "prior": cell.prior,
                    "schedule": cell.schedule,
                    "T": cell.T,
                    # as asked for; below a hand-off there may be fewer places, and so fewer evaluations
                    "steps": sample.steps if isinstance(sample, SampleConfig) else None,
                    "psnr": result.psnr,
                    "ssim": result.ssim,
                    "seconds": result.total_seconds,
                    "seconds_fit": result.seconds.get("fit", 0.0),
                    "seconds_sample": result.seconds.get("sample", 0.0),
                    "evaluations": result.evaluations,
                    "memory": result.memory,
                    **result.extra,
                    **config,
                }
            )
        return pd.DataFrame(rows)

    def table(self, by: str | Sequence[str], *columns: str) -> pd.DataFrame:
        """Means over all that `by` leaves open, under the names of `COLUMNS`; PSNR and SSIM with their intervals.

        by: columns of `frame`; columns: keys of `COLUMNS`
        """
        require(len(self) > 0, "table: expected one result or more, got none")
        frame, by = self.frame(), [by] if isinstance(by, str) else list(by)
        unknown = [name for name in (*by, *columns) if name not in frame]
        require(not unknown, f"table: expected columns of {', '.join(frame)}, got {', '.join(unknown)}")
        groups = frame.groupby(by, sort=False)
        spread = {"psnr", "ssim"}
        table = pd.DataFrame({c: groups[c].agg(interval if c in spread else "mean") for c in columns})
        if "memory" in columns:
            table["memory"] /= 2**20
        return table.reset_index().rename(columns=COLUMNS)

    def curves(self, value: str, over: str, by: str = "label") -> dict[str, tuple[pd.Series, ...]]:
        """For every `by`: where, mean, low and high of `value` along `over`, for a panel of curves."""
        out = {}
        for name, group in self.frame().groupby(by, sort=False):
            spread = group.groupby(over)[value].agg(interval)
            mean, low, high = (spread.map(lambda i, part=part: getattr(i, part)) for part in ("mean", "low", "high"))
            out[str(name)] = (spread.index.to_series(), mean, low, high)
        return out


COLUMNS = {
    "label": "method",
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "seconds_fit": "fit (s)",
    "seconds_sample": "sampling (s)",
    "seconds": "total (s)",
    "evaluations": "network calls",
    "iterations": "iterations",
    "parameters": "parameters",
    "memory": "peak memory (MiB)",
    "t_start": "t at the start",
    "rmse": "RMSE of the fit",
    "rmse_hat": "RMSE, estimated",
}
"""What tables call the columns of `Results.frame`, with units."""


def recorded(path: str) -> Any:
    """What a benchmark wrote: JSON, its path taken from here, or from the project's notebooks where it is not here."""
    notebooks = Path(__file__).resolve().parents[1] / "notebooks"
    found = [file for file in (Path(path), notebooks / path) if file.is_file()]
    require(len(found) > 0, f"record: {path} is no file here, nor seen from {notebooks}; give the path of a record")
    try:
        return json.loads(found[0].read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"record: expected JSON that a benchmark wrote, {found[0]} holds none ({error})") from error


def counted(number: SupportsFloat, noun: str) -> str:
    """In words: "1 seed", "3 seeds"."""
    shown = f"{float(number):.0f}"
    return f"{shown} {noun}{'s' if shown != '1' else ''}"


def beside(decibels: SupportsFloat) -> str:
    """In words: "0.52 dB above", "0.10 dB below"."""
    return f"{abs(float(decibels)):.2f} dB {'above' if float(decibels) >= 0 else 'below'}"


def check_lists(**lists: Sequence[int]) -> None:
    """Refuse, before any computing, parameters that are not lists of whole numbers of 1 or more."""
    for name, value in lists.items():
        require(
            isinstance(value, list | tuple),
            f"{name}: expected a list of whole numbers, which papermill takes as -y '{name}: [20, 10]', got {value!r}",
        )
    check_counts(**lists)


def check_counts(**counts: int | Sequence[int]) -> None:
    """Refuse, before any computing, parameters that are not whole numbers of 1 or more, or lists of them."""
    for name, value in counts.items():
        if isinstance(value, list | tuple):
            require(len(value) >= 1, f"{name}: expected one whole number or more, got none")
            check_counts(**{f"{name}[{i}]": item for i, item in enumerate(value)})
            continue
        require(
            isinstance(value, int) and not isinstance(value, bool) and value >= 1,
            f"{name}: expected a whole number of 1 or more, got {value!r}",
        )


class SweepError(RuntimeError):
    """Cells of a sweep failed, or its scheduler was lost; what is done is stored."""


def sweep(
    cells: Iterable[Cell], client: Client | None = None, name: str = "", *, workers: int | None = None
) -> Results:
    """Run every cell; all are checked before the first is computed, each is stored as it comes.

    In this process, unless there are workers:

    client:  a dask.distributed Client to run them on; else that of the scheduler that DIPDDPM_SCHEDULER names, by its
             address or its file
    workers: how many processes of one thread each to run them on here; else as many as WORKERS says
    name:    keep the list of these results as a collection, for `collected`

    The number of threads is part of a result's key, so workers store other results than this process on all cores; the
    collection holds the keys under which they were stored. A cell that fails is recorded in the store's folder
    `failed`, and named by the `SweepError` that is raised when the others are done. An `InputError` in this process, as
    of a full disk, ends the sweep at once.
    """
    cells = tuple(cells)
    if name:
        store.check_name(name)
    elsewhere = wanted(client, workers)
    among = 0 if far(client, workers) else min(count(workers), max(1, len(cells)))
    for cell in cells:
        cell.check(among)
    where = on_a_worker() if elsewhere else compute.default()
    found: dict[int, _Kept] = {}
    keys = [store.key(STORED_AS, _parameters(cell, cell.x_true()), where) for cell in cells]
    if elsewhere:  # workers are started for what is missing only
        found = {index: _Kept(key, *kept) for index, key in enumerate(keys) if (kept := store.serve(key)) is not None}
    missing = [index for index in range(len(cells)) if index not in found]
    failures: dict[int, Failure] = {}
    try:
        asked = [cells[index] for index in missing]
        with connected(client, workers if missing else 1, len(missing)) as workplace:
            for place, outcome in _announced(
                outcomes(_sent if elsewhere else _kept, asked, workplace), len(asked), name
            ):
                index = missing[place]
                if isinstance(outcome, Failure):
                    if outcome.refused and workplace is None:
                        raise InputError(outcome.error)
                    failures[index] = outcome
                    _keep_failure(keys[index], {**_plain(cells[index]), **asdict(outcome)})
                    continue
                found[index] = outcome
                if elsewhere and store.serve(outcome.key) is None:  # the worker's store is another: this keeps it too
                    store.put(outcome.key, {**outcome.record, store.COSTS: outcome.costs}, outcome.arrays)
                    store.serve(outcome.key)  # says what it cost; a worker far away could not
                _failure_path(keys[index]).unlink(missing_ok=True)
    except LostScheduler:
        raise SweepError(
            f"{name or 'sweep'}: the scheduler was lost; {len(found)} of {len(cells)} cells are stored; start it again "
            "and run this again for the rest"
        ) from None
    if failures:
        said = "; ".join(f"{_named(cells[index])}: {failure.error}" for index, failure in sorted(failures.items()))
        raise SweepError(
            f"{name or 'sweep'}: {len(failures)} of {len(cells)} cells failed, the others are stored: {said}; "
            f"tracebacks are in {store.folder() / 'failed'}; run this again to try them anew"
        )
    if name:
        _keep_collection(name, cells, [found[index].key for index in range(len(cells))])
    return Results((cell, _result(found[index])) for index, cell in enumerate(cells))


def _announced(outcomes: Iterator[tuple[int, Any]], total: int, name: str) -> Iterator[tuple[int, Any]]:
    """The outcomes, with progress where they take long: a bar in JupyterLab, a terse line now and then in batch."""
    if "JPY_SESSION_NAME" in os.environ:  # set for the kernels that Jupyter's server starts, not for papermill's
        from tqdm.notebook import tqdm  # here, since the library alone does without notebooks

        yield from tqdm(outcomes, total=total, desc=name or "sweep", unit="cell", delay=2, leave=False)
        return
    start = told = time.perf_counter()
    for done, outcome in enumerate(outcomes, 1):
        yield outcome
        now = time.perf_counter()
        if now - told > TELL_SECONDS and done < total:
            told = now
            left = (now - start) / done * (total - done)
            print(f"{name or 'sweep'}: {done} of {total} cells, about {left:.0f} s left", file=sys.stderr, flush=True)


def _named(cell: Cell) -> str:
    return f"{cell.image} {cell.size}², {cell.task or 'clean'}, {cell.label or cell.method}, seed {cell.seed}"


def _plain(cell: Cell) -> dict[str, Any]:
    """The cell as JSON values; `_cell` reads them."""
    return {"cell": asdict(cell), "config": type(cell.config).__name__}


def _failure_path(key: str) -> Path:
    return store.folder() / "failed" / f"{key}.json"


def _keep_failure(key: str, content: Any) -> None:
    """JSON that people read, whole or not at all."""
    path = _failure_path(key)
    try:
        store.place_of(path.parent.name)
        scratch = path.with_suffix(f".tmp-{os.getpid()}")
        scratch.write_text(json.dumps(content, sort_keys=True))
        scratch.replace(path)
    except OSError as error:
        raise InputError(f"store: cannot write to {path.parent} ({error.strerror or error})") from error


def _keep_collection(name: str, cells: Sequence[Cell], keys: Sequence[str]) -> None:
    entries = [{"key": key, **_plain(cell)} for key, cell in zip(keys, cells, strict=True)]
    store.write_list(_own(name), {"source": store.source_digest(), "entries": entries})


def note(name: str, **numbers: SupportsFloat) -> None:
    """Keep a notebook's derived numbers beside its results, for the ledger of claims."""
    plain = {key: float(value) for key, value in numbers.items()}  # numpy's are no JSON
    store.write_list(_own(f"{name}.numbers"), {"source": store.source_digest(), "numbers": plain})


def _own(name: str) -> str:
    """A list's name in the store: a notebook that is run by hand takes nothing from the report's verdicts."""
    return f"report.{name}" if os.environ.get(REPORT) else name


def _of_this_source(name: str) -> dict[str, Any]:
    """A collection, unless the library has changed since: then its numbers are no longer this library's.

    By hand it is what was kept by hand, or else the report's; in the report it is the report's alone.
    """
    for place in dict.fromkeys((_own(name), f"report.{name}")):
        kept = store.read_list(place)
        if isinstance(kept, dict) and kept.get("source") == store.source_digest():
            return kept
    return {}


def noted(name: str) -> dict[str, float]:
    """What `note` last kept under this name; empty where there is nothing."""
    return _of_this_source(f"{name}.numbers").get("numbers", {})


def collected(name: str) -> Results:
    """The results that `sweep(…, name=name)` last kept; empty where one is gone: a mean over the rest would mislead."""
    try:
        found = [
            (_cell(entry), entry["key"], store.get(entry["key"])) for entry in _of_this_source(name).get("entries", ())
        ]
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # whole, but not written by `sweep`
        raise InputError(f"store: {store.folder()} holds a collection {name} of another form; remove it") from error
    pairs = [(cell, _result(_Kept(key, *kept))) for cell, key, kept in found if kept is not None]
    return Results(pairs if len(pairs) == len(found) else ())


def _cell(entry: Mapping[str, Any]) -> Cell:
    """A cell from its JSON values."""
    values = dict(entry["cell"])
    kinds = {kind.__name__: kind for kind in METHOD}
    values["config"] = _restored(kinds[entry["config"]], values["config"])
    if values["training"] is not None:
        values["training"] = _restored(TrainConfig, values["training"])
    if values.get("first") is not None:
        values["first"] = _restored(SampleConfig, values["first"])
    return Cell(**values)


def _restored(kind: type, values: Mapping[str, Any]) -> Any:
    """A configuration from JSON: lists were tuples, and a hybrid's parts are configurations themselves."""
    inner = {"dip": DIPConfig, "sample": SampleConfig} if kind is HybridConfig else {}
    return kind(
        **{
            k: _restored(inner[k], v) if k in inner else tuple(v) if isinstance(v, list) else v
            for k, v in values.items()
        }
    )


def interval(values: Iterable[float], level: float = 0.95, draws: int = 2000, seed: int = 0) -> Interval:
    """Percentile bootstrap of the mean; give paired differences for a paired comparison (Efron, Tibshirani 1993, §13).

    With fewer than two values nothing can be said of the spread: low and high are NaN.
    """
    require(0 < level < 1, f"level: expected a share between 0 and 1, as 0.95, got {level}")
    v = torch.tensor(list(values), dtype=torch.float64)
    require(len(v) > 0, "interval: expected at least one value, got none")
    if len(v) < 2:
        return Interval(float(v.mean()), float("nan"), float("nan"), len(v))
    picks = torch.randint(len(v), (draws, len(v)), generator=compute.generator(seed, "bootstrap"))
    tail = (1 - level) / 2
    low, high = torch.quantile(v[picks].mean(1), torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Interval(float(v.mean()), low, high, len(v))
