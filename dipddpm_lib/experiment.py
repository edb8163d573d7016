"""A grid of cells → results: each cell is run once, timed whole, scored, and kept in the store."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import cache, lru_cache, partial, singledispatch
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor

from . import classical, compute, ddpm, dip, distribution, hybrid, images, metrics, operators, priors, store
from .cells import METHOD, Cell, Config, check_memory, unseen_fold
from .classical import ClassicalConfig
from .ddpm import SampleConfig, TrainConfig
from .dip import DIPConfig
from .evidence import Kept, Results, keep_collection
from .hybrid import HybridConfig
from .networks import DenoisingUNet, build
from .schedules import NoiseSchedule
from .types import Image, InputError, Measurement, Result, Step
from .workers import Client, Failure, LostScheduler, connected, count, far, on_a_worker, outcomes, wanted

Yielded = TypeVar("Yielded", covariant=True)

STORED_AS = "experiment.run"  # another name where runs begin to draw, or join their halves, in another way
CHECKPOINT_SECONDS = 60
TELL_SECONDS = 20  # between two lines of progress
PROGRESS = re.compile(r"[^:]+: \d+ of \d+ cells, about \d+ s left")  # such a line, for who runs notebooks in batch
TRACE_POINTS = 40
FRAMES = 12


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
        except (MemoryError, torch.OutOfMemoryError):  # the reader's shortage, not the file's fault
            raise
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
    checkpoint = store.Checkpoint(store.key(STORED_AS, cell.parameters(x_true)))
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


def prior_of(cell: Cell) -> tuple[DenoisingUNet, float]:
    """The cell's denoiser, and the seconds that its training took."""
    x_true = cell.x_true()
    if cell.prior == "single":
        assert cell.training is not None  # Cell.check
        denoiser, _, seconds = single_prior(x_true, cell.training)
        return denoiser, seconds
    fold = unseen_fold(x_true)
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
    return _kept(cell).result()


def _sent(cell: Cell) -> Kept:
    """What a worker sends back."""
    kept = _kept(cell)
    return replace(kept, costs=store.costs(kept.key))


def _kept(cell: Cell) -> Kept:
    x_true = cell.x_true()
    parameters = cell.parameters(x_true)

    def work() -> tuple[dict[str, Any], dict[str, Tensor]]:
        cell.check()
        outcome = _execute(cell.config, cell, x_true, cell.measurement(x_true))
        if not outcome.x0_hat.isfinite().all():  # a stored one would be served for good
            raise DivergedError(f"{cell}: the estimate is not finite; a lower rate, or float32, may help")
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

    return Kept(store.key(STORED_AS, parameters), *store.remember(STORED_AS, parameters, work))


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


def distances(
    name: Literal["patch_swd", "detail_swd", "spectral_distance"],
    x: Image,
    y: distribution.Several,
    *,
    together: bool = False,
) -> list[float]:
    """That distance of `distribution` between y and each image of x by itself; kept in the store, for it takes seconds.

    together: all images of x against y at once, one number
    """

    def work() -> tuple[dict[str, Any], dict[str, Tensor]]:
        of = getattr(distribution, name)
        # the same projections for all, so that what is compared has no noise of its own
        draw = () if name == "spectral_distance" else (partial(compute.generator, 0, "swd"),)
        return {"values": [of(part, y, *(d() for d in draw)) for part in ((x,) if together else x.split(1))]}, {}

    parameters = {"name": name, "x": images.digest(x), "y": images.digest(y), "together": together}
    return list(store.remember("experiment.distances", parameters, work)[0]["values"])


class DivergedError(RuntimeError):
    """A run whose result is not finite: it is kept nowhere."""


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
    found: dict[int, Kept] = {}
    keys = [store.key(STORED_AS, cell.parameters(cell.x_true()), where) for cell in cells]
    if elsewhere:  # workers are started for what is missing only
        found = {index: Kept(key, *kept) for index, key in enumerate(keys) if (kept := store.serve(key)) is not None}
    missing = [index for index in range(len(cells)) if index not in found]
    failures: dict[int, Failure] = {}
    try:
        asked = [cells[index] for index in missing]
        with connected(client, workers if missing else 1, len(missing)) as workplace:
            for place, outcome in _announced(
                outcomes(_sent if elsewhere else _kept, asked, workplace), [cell.work() for cell in asked], name
            ):
                index = missing[place]
                if isinstance(outcome, Failure):
                    if outcome.refused and workplace is None:
                        raise InputError(outcome.error)
                    failures[index] = outcome
                    _keep_failure(keys[index], {**cells[index].plain(), **asdict(outcome)})
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
        said = "; ".join(f"{cells[index]}: {failure.error}" for index, failure in sorted(failures.items()))
        raise SweepError(
            f"{name or 'sweep'}: {len(failures)} of {len(cells)} cells failed, the others are stored: {said}; "
            f"tracebacks are in {store.folder() / 'failed'}; run this again to try them anew"
        )
    if name:
        keep_collection(name, cells, [found[index].key for index in range(len(cells))])
    return Results((cell, found[index].result()) for index, cell in enumerate(cells))


def _announced(outcomes: Iterator[tuple[int, Any]], work: Sequence[float], name: str) -> Iterator[tuple[int, Any]]:
    """The outcomes, with progress where they take long: a bar in JupyterLab, a terse line now and then in batch.

    work: of each cell, by its place; the time left is told by the work that is left, for cells differ a thousandfold
    """
    total = len(work)
    if "JPY_SESSION_NAME" in os.environ:  # set for the kernels that Jupyter's server starts, not for papermill's
        bar: Iterable[tuple[int, Any]] | None = None
        with suppress(ImportError):  # the library alone does without notebooks, and without their bar
            from tqdm.notebook import tqdm

            bar = tqdm(outcomes, total=total, desc=name or "sweep", unit="cell", delay=2, leave=False)
        if bar is not None:
            yield from bar
            return
    start = told = time.perf_counter()
    worked = 0.0
    for done, outcome in enumerate(outcomes, 1):
        yield outcome
        worked += work[outcome[0]]
        now = time.perf_counter()
        if now - told > TELL_SECONDS and done < total:
            told = now
            left = (now - start) * (sum(work) / worked - 1)
            print(f"{name or 'sweep'}: {done} of {total} cells, about {left:.0f} s left", file=sys.stderr, flush=True)


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
