"""Cells become results once: checked before, timed and scored whole, and found again."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import example, given
from safetensors import safe_open
from safetensors.torch import load_file

from dipddpm_lib import classical, compute, ddpm, dip, distribution, experiment, hybrid, images, metrics, priors, store
from dipddpm_lib.cells import Cell
from dipddpm_lib.classical import ClassicalConfig
from dipddpm_lib.ddpm import SampleConfig, TrainConfig
from dipddpm_lib.dip import DIPConfig
from dipddpm_lib.evidence import collected, note
from dipddpm_lib.experiment import SweepError, run, sweep
from dipddpm_lib.hybrid import HandOff
from dipddpm_lib.schedules import NoiseSchedule
from dipddpm_lib.types import InputError, Step
from grids import CELLS, DIP, HYBRID, SAMPLE, TRAINING, cell, key, measured, plain

pytestmark = pytest.mark.usefixtures("root")


# ---- a cell is run once


@pytest.mark.parametrize("kind", CELLS)
def test_a_second_run_computes_nothing(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = run(CELLS[kind]())

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("computed again")

    for module, name in (
        *((dip, "reconstruct"), (ddpm, "sample"), (ddpm, "train"), (hybrid, "denoise")),
        *((classical, "reconstruct"), (metrics, "psnr"), (metrics, "ssim"), (experiment, "_execute")),
    ):
        monkeypatch.setattr(module, name, refuse)
    assert plain(run(CELLS[kind]())) == plain(first)


@pytest.mark.parametrize("kind", CELLS)
def test_the_last_row_of_the_trace_scores_the_result(kind: str) -> None:
    asked = CELLS[kind]()
    result = run(asked)
    x_true = asked.x_true()
    assert result.psnr == pytest.approx(metrics.psnr(result.x0_hat, x_true), rel=1e-12)  # kept contiguous: other sums
    assert result.ssim == metrics.ssim(result.x0_hat, x_true)
    seconds = [row[1] for row in result.trace]
    assert all(a <= b for a, b in zip([0.0, *seconds], seconds, strict=False)), "time runs forward"
    assert seconds[-1] <= result.total_seconds, "the last step is scored before its iterator ends"
    assert torch.equal(result.frames[-1:], images.to_uint8(result.x0_hat)), "the film ends in the result"
    assert result.digest == images.digest(x_true)
    assert result.memory >= 0
    assert result.machine["threads"] == compute.default().threads
    assert result.versions["torch"]
    json.dumps(result.config)


@pytest.mark.parametrize("kind", ["DIP", "DDPM with data", "DIP+DDPM, renoised"])
def test_the_same_cell_gives_the_same_bits_in_another_store(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(CELLS[kind]())
    monkeypatch.setenv("DIPDDPM_STORE", str(tmp_path / "another"))
    assert measured(run(CELLS[kind]())) == measured(first)


def test_evaluations_count_the_calls_of_the_denoiser() -> None:
    assert run(cell(DIP)).evaluations == 0
    assert run(cell(ClassicalConfig(), task="inpaint_50")).evaluations == 0
    assert run(cell(SampleConfig(steps=4))).evaluations == 4
    assert run(cell(SampleConfig.ancestral(7), T=7)).evaluations == 7
    assert run(cell(replace(HYBRID, t_start=500, consistency=False))).evaluations == 3
    assert run(cell(replace(HYBRID, t_start=2, consistency=False))).evaluations == 2, (
        "no more than there are positions below t_start"
    )


def test_the_single_prior_is_trained_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x_true = images.load("coffee", 32)
    first, losses, seconds = experiment.single_prior(x_true, TRAINING)
    monkeypatch.setattr(ddpm, "train", lambda *_: pytest.fail("trained again"))
    second, again, clock = experiment.single_prior(x_true, TRAINING)
    assert len(losses) == TRAINING.steps
    assert (losses, seconds) == (again, clock)
    assert seconds > 0
    a, b = first.state_dict(), second.state_dict()
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not any(p.requires_grad for p in second.parameters())
    result = run(cell(SAMPLE))
    assert result.extra["training_seconds"] == seconds, "said, but no part of the run's own time"
    assert set(result.seconds) == {"sample"}


def test_the_curve_of_a_fit_is_kept(fits: list[int]) -> None:
    target = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    curve = experiment.fit_curve(target, DIP, 0)
    assert experiment.fit_curve(target, DIP, 0) == curve
    assert len(curve) == DIP.iterations
    assert len(fits) == 1


@pytest.mark.parametrize("name", ["patch_swd", "detail_swd", "spectral_distance"])
@pytest.mark.parametrize("together", [False, True])
def test_distances_are_those_of_each_image_and_are_kept(
    name: Any, together: bool, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.cat([images.load(photograph, 32) for photograph in ("astronaut", "chelsea", "coffee")])
    y = images.load("rocket", 32)
    of = getattr(distribution, name)
    draw = () if name == "spectral_distance" else (0,)
    expected = [
        of(part, y, *(compute.generator(s, "swd") for s in draw)) for part in ((x,) if together else x[:, None])
    ]
    assert experiment.distances(name, x, y, together=together) == expected
    monkeypatch.setattr(distribution, name, lambda *_: pytest.fail("computed again"))
    assert experiment.distances(name, x, y, together=together) == expected
    monkeypatch.undo()
    monkeypatch.setenv("DIPDDPM_STORE", str(root))
    assert experiment.distances(name, y, y, together=together) == [0.0]


# ---- the clock


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.undisturbed = dip.reconstruct

    def advance(self, ticks: float) -> None:
        self.now += ticks

    def ticking(self, function: Callable[..., Any], ticks: float) -> Callable[..., Any]:
        def inner(*arguments: Any, **more: Any) -> Any:
            self.now += ticks
            return function(*arguments, **more)

        return inner

    def ticking_at_each_step(self, function: Callable[..., Iterator[Any]], ticks: float) -> Callable[..., Any]:
        def inner(*arguments: Any, **more: Any) -> Iterator[Any]:
            for step in function(*arguments, **more):
                self.now += ticks
                yield step
            self.now += ticks  # what comes after the last step counts too

        return inner


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Scoring takes 1000 s, filming 500 s, a step of DIP 2 s, one of the second half 3 s."""
    it = Clock()
    monkeypatch.setattr(experiment.compute, "clock", lambda: it.now)
    monkeypatch.setattr(metrics, "psnr", it.ticking(metrics.psnr, 1000))
    monkeypatch.setattr(metrics, "ssim", it.ticking(metrics.ssim, 1000))
    monkeypatch.setattr(images, "to_uint8", it.ticking(images.to_uint8, 500))
    monkeypatch.setattr(dip, "reconstruct", it.ticking_at_each_step(dip.reconstruct, 2))
    monkeypatch.setattr(hybrid, "denoise", it.ticking_at_each_step(hybrid.denoise, 3))
    return it


def test_scoring_costs_no_time(clock: Clock) -> None:
    result = run(cell(DIP))
    assert result.seconds == {"fit": 2.0 * (DIP.iterations + 1)}
    assert [row[1] for row in result.trace] == [2.0 * (i + 1) for i in range(DIP.iterations)]
    assert clock.now > 1000 * DIP.iterations, "the clock ran while it was scored"


def test_the_hybrids_time_contains_the_fit(clock: Clock, fits: list[int]) -> None:
    result = run(cell(replace(HYBRID, t_start=500, consistency=False)))
    # seven ticks of the fit as above; the second half's first step is the fit itself, then three, then the end
    assert result.seconds == {"fit": 14.0, "sample": 15.0}
    assert result.total_seconds == sum(result.seconds.values()) == 29.0
    times = [row[1] for row in result.trace]
    assert times == [2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 17.0, 20.0, 23.0, 26.0]
    before = len(fits)
    shared = run(cell(replace(HYBRID, t_start=400, consistency=False)))
    assert len(fits) == before, "the fit was taken from the store"
    assert shared.seconds == {"fit": 14.0, "sample": 15.0}, "and its time counted all the same"


@given(st.integers(1, 130), st.integers(1, 9), st.integers(1, 9))
@example(1, 1, 1)
@example(9, 4, 4)  # the last step is noted and filmed already
def test_the_consumer_of_steps_notes_first_and_last(count: int, every: int, keep: int) -> None:
    x_true = torch.zeros(1, 3, 16, 16)
    watched = experiment._Run(x_true, every, keep)
    steps = [Step(100 + i, 0, x_true, x_true + i / 200) for i in range(count)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "ssim", lambda *_: 0.0)
        assert watched.consume(iter(steps)) is steps[-1]
    noted_indices = [row[0] for row in watched.trace]
    assert noted_indices == sorted({*range(100, 100 + count, every), 99 + count})
    assert torch.equal(watched.frames[-1], images.to_uint8(steps[-1].x0_hat))
    filmed = sorted({*range(0, count, keep), count - 1})
    assert [int(f[0, 0, 0, 0]) for f in watched.frames] == [
        int(images.to_uint8(steps[i].x0_hat)[0, 0, 0, 0]) for i in filmed
    ]


def test_long_runs_keep_a_short_trace_and_film() -> None:
    result = run(cell(replace(DIP, iterations=97)))
    assert experiment.TRACE_POINTS <= len(result.trace) <= 2 * experiment.TRACE_POINTS
    assert experiment.FRAMES <= len(result.frames) <= 2 * experiment.FRAMES
    assert result.trace[0][0] == 0
    assert result.trace[-1][0] == result.extra["iterations"] - 1


# ---- the hybrid


@pytest.mark.parametrize("task", [None, "inpaint_50"])
@pytest.mark.parametrize("t_start", [None, 300])
def test_the_hybrid_is_denoise_after_the_same_fit(task: str | None, t_start: int | None) -> None:
    kind: HandOff = "calibrated" if t_start is None else "renoise"
    config = replace(HYBRID, t_start=t_start, kind=kind, consistency=task is not None)
    asked = cell(config, task=task)
    result = run(asked)
    y = asked.measurement(asked.x_true())
    *_, fit = dip.reconstruct(y, DIP, compute.generator(0, "dip"))
    denoiser, _ = experiment.prior_of(asked)
    schedule = NoiseSchedule.cosine(1000)
    config = hybrid.settle(y, config)
    *_, out = hybrid.denoise(fit, y, denoiser, schedule, config, compute.generator(0, "sample"))
    assert torch.equal(out.x0_hat, result.x0_hat)
    assert result.evaluations == config.calls
    assert result.extra["t_start"] == hybrid.choose_t(fit, schedule, config)
    assert result.extra["rmse_hat"] == fit.rmse_hat
    assert result.extra["fit_psnr"] == metrics.psnr(fit.x0_hat, asked.x_true())
    assert metrics.psnr(fit.x0_hat, asked.x_true()) == pytest.approx(
        -20 * math.log10(result.extra["rmse"] / metrics.PEAK)
    )
    assert result.trace[-1][0] == fit.index + result.evaluations


def test_the_hybrid_from_zero_is_dips_image_exactly() -> None:
    alone = run(cell(DIP, task="inpaint_50"))
    result = run(cell(replace(HYBRID, t_start=0), task="inpaint_50"))
    assert torch.equal(result.x0_hat, alone.x0_hat)
    assert result.evaluations == 0
    assert (result.psnr, result.ssim) == (alone.psnr, alone.ssim)
    assert result.seconds["fit"] == alone.seconds["fit"]


def test_cells_share_a_prior_that_is_read_once_and_no_cell_changes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    experiment._loaded.cache_clear()
    read: list[int] = []
    load = priors.load_fold
    monkeypatch.setattr(priors, "load_fold", lambda fold: (read.append(fold), load(fold))[1])
    asked = [
        cell(SAMPLE, image=name, task="inpaint_50", prior="bundled") for name in ("astronaut", "coffee", "chelsea")
    ]
    for one in asked:
        run(one)
        run(replace(one, config=HYBRID))
    assert sorted(read) == sorted({priors.fold_for(one.x_true()) for one in asked}), "once a fold"
    kept, fresh = experiment.prior_of(asked[0])[0], load(priors.fold_for(asked[0].x_true()))
    assert all(torch.equal(a, b) for a, b in zip(kept.state_dict().values(), fresh.state_dict().values(), strict=True))
    # another file, or another way to compute, is another prior
    monkeypatch.setattr(priors, "weights_digest", lambda fold: "other")
    experiment.prior_of(asked[0])
    assert len(read) == 3


def test_a_result_of_ddpm_is_handed_over_as_a_start_is(fits: list[int]) -> None:
    asked = CELLS["DDPM, handed over"]()
    result, first = run(asked), run(replace(asked, config=SAMPLE, first=None))
    y = asked.measurement(asked.x_true())
    denoiser, _ = experiment.prior_of(asked)
    given = dip.Fit(0, 0, first.x0_hat, first.x0_hat, None)
    draw = compute.generator(0, "sample")
    config = hybrid.settle(y, asked.config)  # type: ignore[arg-type]
    *_, out = hybrid.denoise(given, y, denoiser, NoiseSchedule.cosine(1000), config, draw)
    assert torch.equal(out.x0_hat, result.x0_hat)
    assert asked.method == "DDPM+DDPM"
    assert result.evaluations == first.evaluations + config.calls
    assert result.seconds["fit"] == 0.0
    assert result.seconds["sample"] > first.seconds["sample"]
    assert result.extra["from_dip"] == 0.0
    assert result.extra["fit_psnr"] == first.psnr
    assert [row[0] for row in result.trace] == [0, 1, 2, 2, 3, 4, 5], "one count of steps; the hand-off shows its start"
    assert fits == [], "no fit"


# ---- sweeps


@pytest.fixture
def text_file(tmp_path: Path) -> str:
    path = tmp_path / "text.png"
    path.write_text("no image")
    return str(path)


BAD: dict[str, tuple[Callable[[], Cell], str]] = {
    "no such image": (lambda: cell(image="nobody"), "nobody"),
    "size": (lambda: replace(cell(), size=8), "size"),
    "task": (lambda: cell(task="paint"), "task"),
    "T": (lambda: cell(SAMPLE, T=1), "T counts"),
    "T that is no number of steps": (lambda: cell(SAMPLE, T=10.5), "T: expected a whole number"),
    "schedule": (lambda: cell(SAMPLE, schedule="square"), "schedule"),
    "steps": (lambda: cell(SAMPLE, T=2), "steps"),
    "steps of a hybrid": (lambda: cell(HYBRID, T=2), "steps"),
    "t_start": (lambda: cell(replace(HYBRID, t_start=11), T=10), "t_start"),
    "the target as data": (lambda: cell(replace(HYBRID, t_start=5)), "consistency: without a task"),
    "spacing": (lambda: cell(replace(SAMPLE, spacing="random")), "spacing"),
    "a side that 4 does not divide": (lambda: replace(cell(task="super_x4"), size=34), "4"),
    "single without training": (lambda: cell(SAMPLE, training=None), "training"),
    "hybrid, single without training": (lambda: cell(HYBRID, training=None), "training"),
    "a crop that does not fit": (lambda: cell(SAMPLE, training=replace(TRAINING, crop=33)), "crop"),
    "no such prior": (lambda: cell(SAMPLE, prior="Single"), "prior"),
    "a photograph that the priors have seen": (lambda: cell(SAMPLE, image="camera", prior="bundled"), "camera"),
    "DDPM before DIP": (lambda: cell(DIP, first=SAMPLE), "first: its result has no error estimate"),
    "DDPM before an open t_start": (lambda: cell(HYBRID, first=SAMPLE), "first: its result has no error estimate"),
    "DDPM's steps before": (lambda: cell(replace(HYBRID, t_start=5), T=10, first=SampleConfig(steps=11)), "steps"),
    "a hybrid on one": (lambda: cell(HYBRID, image="camera", prior="bundled"), "camera"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("what", BAD)
def test_a_bad_last_cell_stops_the_sweep_before_the_first(what: str, root: Path, fits: list[int]) -> None:
    make, said = BAD[what]
    with pytest.raises(InputError, match=said) as caught:
        sweep([cell(DIP), cell(SAMPLE, prior="bundled"), make()], name="never")
    assert "\n" not in str(caught.value)
    assert fits == []
    assert not root.exists(), "nothing was computed, nothing kept"


def test_a_file_that_is_no_image_stops_the_sweep(root: Path, fits: list[int], text_file: str) -> None:
    with pytest.raises(InputError, match=r"text\.png"):
        sweep([cell(DIP), cell(DIP, image=text_file)])
    assert (fits, root.exists()) == ([], False)


def test_an_interrupted_sweep_goes_on_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cells = [cell(DIP, seed=s, task="inpaint_50") for s in range(5)]
    undisturbed = [measured(r) for _, r in sweep(cells)]

    monkeypatch.setenv("DIPDDPM_STORE", str(tmp_path / "interrupted"))
    real, started = dip.reconstruct, []

    def interrupted(*arguments: Any) -> Iterator[Step]:
        started.append(len(started))
        for index, step in enumerate(real(*arguments)):
            if len(started) == 3 and index == 2:
                raise KeyboardInterrupt
            yield step

    monkeypatch.setattr(dip, "reconstruct", interrupted)
    with pytest.raises(KeyboardInterrupt):
        sweep(cells, name="kept")
    assert len(started) == 3
    assert len(collected("kept")) == 0
    results = sweep(cells, name="kept")
    assert len(started) == 3 + 3, "the two that were done stay done; the third is done again, whole"
    assert [measured(r) for _, r in results] == undisturbed
    assert [measured(r) for _, r in collected("kept")] == undisturbed
    assert capsys.readouterr().err == "", "a short sweep is a quiet one"


def test_a_damaged_result_is_computed_again_alone(root: Path, fits: list[int]) -> None:
    cells = [cell(DIP, seed=s) for s in range(3)]
    before = [measured(r) for _, r in sweep(cells)]
    (root / key(cells[1]) / "arrays.safetensors").write_bytes(b"")
    assert [measured(r) for _, r in sweep(cells)] == before
    assert len(fits) == 4


def test_a_failing_cell_is_recorded_and_the_others_are_done(
    root: Path, fits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = [cell(DIP, seed=s, task="inpaint_50") for s in range(3)]
    real = dip.reconstruct

    def poisoned(y: Any, config: Any, generator: torch.Generator) -> Any:
        if generator.initial_seed() == compute.generator(1, "dip").initial_seed():
            raise RuntimeError("the weights\nare not finite")
        return real(y, config, generator)

    monkeypatch.setattr(dip, "reconstruct", poisoned)
    with pytest.raises(
        SweepError, match=r"kept: 1 of 3 cells failed.*coffee 32², inpaint_50, DIP, seed 1: Runt"
    ) as caught:
        sweep(cells, name="kept")
    assert "\n" not in str(caught.value)
    assert len(collected("kept")) == 0
    (path,) = (root / "failed").iterdir()
    record = json.loads(path.read_text())
    assert Cell.restored(record) == cells[1]
    assert record["error"] == "RuntimeError: the weights are not finite"
    assert record["traceback"].startswith("Traceback")
    assert "in poisoned" in record["traceback"]
    assert record["host"] == platform.node()
    assert 0 <= record["seconds"] < 60

    monkeypatch.setattr(dip, "reconstruct", real)
    before = len(fits)
    assert len(sweep(cells, name="kept")) == 3
    assert len(fits) == before + 1, "the one that failed, and no other"
    assert not list((root / "failed").iterdir()), "it was done at last"
    assert len(collected("kept")) == 3


def test_a_store_that_cannot_be_written_ends_the_sweep_at_its_first_cell(
    fits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise InputError("store: cannot write to here (No space left on device)")

    monkeypatch.setattr(store, "put", full)
    with pytest.raises(InputError, match="No space left"):
        sweep([cell(DIP, seed=s) for s in range(3)])
    assert len(fits) == 1


def test_a_long_sweep_tells_how_it_goes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    now = iter([0.0, 10.0, 25.0, 30.0, 60.0])
    monkeypatch.setattr(experiment.time, "perf_counter", lambda: next(now))
    outcomes = [(2, "c"), (0, "a"), (1, "b"), (3, "d")]  # workers end in an order of their own
    assert list(experiment._announced(iter(outcomes), [1.0, 9.0, 4.0, 1.0], "grid")) == outcomes
    assert capsys.readouterr().err == "grid: 2 of 4 cells, about 50 s left\n", "a third of the work took 25 s"


def test_a_run_that_diverged_is_kept_nowhere(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stored result that is no number would be served for good, and called level with every other."""
    execute = experiment._execute
    broken = lambda *asked: replace(execute(*asked), x0_hat=torch.full((1, 3, 32, 32), torch.nan))  # noqa: E731
    monkeypatch.setattr(experiment, "_execute", broken)
    with pytest.raises(SweepError, match="the estimate is not finite"):
        sweep([cell(DIP)])
    monkeypatch.setattr(experiment, "_execute", execute)
    assert sweep([cell(DIP)])[0][1].x0_hat.isfinite().all()


def test_a_name_that_leads_out_of_the_store_stops_the_sweep(root: Path, fits: list[int]) -> None:
    with pytest.raises(InputError, match="store: expected a name"):
        sweep([cell(DIP)], name="../elsewhere")
    with pytest.raises(InputError, match="store: expected a name"):
        note("../elsewhere", a=1.0)
    assert (fits, root.exists()) == ([], False)


# ---- what is killed goes on

FIT = """
import json, os, sys, time
import torch
from pathlib import Path
from dipddpm_lib import dip, experiment, store
from dipddpm_lib.dip import DIPConfig
from dipddpm_lib.cells import Cell
from dipddpm_lib.experiment import run

stop, step = int(sys.argv[1]), dip.Fitting.__next__

def until(self):
    if self.index == stop:
        os.kill(os.getpid(), 9)
    if stop > 0:
        time.sleep(0.05)
    return step(self)

experiment._warm_up()
dip.Fitting.__next__ = until
experiment.CHECKPOINT_SECONDS = 0 if stop > 0 else 60
config = DIPConfig(filters=(8, 16), skip=4, in_channels=8, iterations=60, warmup=4, patience=3, runs=2)
cell = Cell("coffee", 32, 0, config, "denoise_25")
folder = Path(os.environ["DIPDDPM_STORE"])
paths = list((folder / "unfinished").glob("*.checkpoint"))
state = store.Checkpoint(paths[0].stem).load() if paths else {}
found = run(cell)
assert not list((folder / "unfinished").iterdir())

def elsewhere(name, state=None):
    os.environ["DIPDDPM_STORE"] = str(folder / name)
    if state is not None:
        store.Checkpoint(paths[0].stem).save(state)
    return run(cell)

def bits(result):
    scores = [(i, p, q) for i, _, p, q in result.trace]
    extra = {k: v for k, v in result.extra.items()}
    return result.x0_hat.numpy().tobytes(), result.frames.numpy().tobytes(), scores, extra

whole = elsewhere("whole")
assert bits(elsewhere("again", state)) == bits(found)
fresh = torch.Generator().manual_seed(1).get_state()
print(json.dumps({
    "dtype": found.machine["dtype"],
    "taken up at": int(state["index"]),
    "stopped at": found.extra["iterations"],
    "same": bits(found) == bits(whole),
    "without its generator": bits(elsewhere("broken", {**state, "group 0, generator 1": fresh})) == bits(whole),
    "seconds": [float(state["noted.seconds"]), found.total_seconds],
    "trace": [row[1] for row in found.trace],
}))
"""


@pytest.mark.parametrize(
    ("shortage", "kept"), [(MemoryError(), True), (torch.OutOfMemoryError(), True), (KeyError("weights"), False)]
)
def test_an_unfinished_work_is_set_aside_for_its_own_faults_alone(shortage: Exception, kept: bool, root: Path) -> None:
    """Hours of a training are not lost because its reader had no memory."""

    class Work:
        ended = False

        def restore(self, state: Any) -> None:
            raise shortage

    checkpoint = store.Checkpoint("0" * 64)
    checkpoint.save({"index": torch.tensor(7)})
    steps = experiment._resumed(Work, checkpoint, experiment._Series())  # type: ignore[arg-type]
    with pytest.raises(type(shortage) if kept else InputError):
        next(iter(steps))
    assert (checkpoint.load() is not None) == kept


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_killed_fit_goes_on_to_the_same_bits_and_counts_all_its_seconds(dtype: str, root: Path) -> None:
    environment = {**os.environ, "DIPDDPM_STORE": str(root), "DIPDDPM_DTYPE": dtype}

    def fit(stop: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", FIT, str(stop)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    assert fit(9).returncode == -9
    ended = fit(-1)
    assert ended.returncode == 0, ended.stderr
    said = json.loads(ended.stdout)
    assert said["dtype"] == dtype
    assert said["taken up at"] == 9, "nothing of what was done is done again, where each step is saved"
    assert said["stopped at"] > 9
    assert said["same"]
    assert not said["without its generator"]
    before, total = said["seconds"]
    assert total > before > 9 * 0.05
    assert said["trace"] == sorted(said["trace"])
    assert said["trace"][8] >= 9 * 0.05, "its first rows are the first process's"


def stopped_at(index: int, kind: type) -> pytest.MonkeyPatch:
    """`kind`'s works are interrupted at this step; each step before it is saved."""
    patch, step = pytest.MonkeyPatch(), kind.__next__

    def until(self: Any) -> Any:
        if self.index == index:
            raise KeyboardInterrupt
        return step(self)

    patch.setattr(kind, "__next__", until)
    patch.setattr(experiment, "CHECKPOINT_SECONDS", 0)
    return patch


def test_interrupted_prior_and_curve_are_the_undisturbed_ones(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x_true, config = images.load("coffee", 32), replace(TRAINING, steps=6)

    def both() -> tuple[Any, ...]:
        network, losses, _ = experiment.single_prior(x_true, config)
        return network.state_dict(), losses, experiment.fit_curve(x_true, DIP, 0)

    for kind, work in (
        (ddpm.Training, lambda: experiment.single_prior(x_true, config)),
        (dip.Fitting, lambda: experiment.fit_curve(x_true, DIP, 0)),
    ):
        patch = stopped_at(4, kind)
        with pytest.raises(KeyboardInterrupt):
            work()
        patch.undo()
        assert len(list((root / "unfinished").iterdir())) == 1
        steps, step = [], kind.__next__
        monkeypatch.setattr(
            kind, "__next__", lambda self, step=step, steps=steps: steps.append(self.index) or step(self)
        )
        work()
        assert steps[0] == 4, "four steps were saved"
        assert not list((root / "unfinished").iterdir())
    weights, losses, curve = both()
    monkeypatch.setenv("DIPDDPM_STORE", str(tmp_path / "another"))
    undisturbed = both()
    assert (losses, curve) == undisturbed[1:]
    assert all(torch.equal(weights[name], undisturbed[0][name]) for name in weights)


def test_what_takes_less_than_the_interval_saves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store.Checkpoint, "save", lambda *_: pytest.fail("saved"))
    run(cell(DIP))
    run(cell(SAMPLE))


def test_saving_costs_no_time(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiment, "CHECKPOINT_SECONDS", 0)
    saved = []
    real = store.Checkpoint.save
    monkeypatch.setattr(store.Checkpoint, "save", clock.ticking(lambda *a: (saved.append(1), real(*a)), 300))
    monkeypatch.setattr(dip, "reconstruct", clock.undisturbed)
    ticked = dip.Fitting.__next__
    monkeypatch.setattr(dip.Fitting, "__next__", lambda self: (clock.advance(2), ticked(self))[1])
    assert run(cell(DIP)).seconds == {"fit": 2.0 * (DIP.iterations + 1)}
    assert len(saved) == DIP.iterations - 1


# ---- training a bundled prior

TRAIN = """
import os, sys
from dipddpm_lib import compute, ddpm, experiment
from dipddpm_lib.ddpm import TrainConfig
experiment.CHECKPOINT_SECONDS = 0
stop, step = int(sys.argv[1]), ddpm.Training.__next__
def until(self):
    if self.index == stop:
        os.kill(os.getpid(), 9)
    return step(self)
ddpm.Training.__next__ = until
config = TrainConfig(channels=(48, 96, 128, 128), crop=16, batch=1, steps=5, warmup=2)
experiment.train_bundled(1, config, seed=4, go_on=True)
"""


@pytest.mark.slow
def test_a_killed_training_of_a_prior_ends_in_the_same_weights(tmp_path: Path) -> None:
    """Killed twice, then left alone, against one that was never touched."""

    def train(name: str, stop: int) -> int:
        environment = {**os.environ, "DIPDDPM_STORE": str(tmp_path / name)}
        command = [sys.executable, "-c", TRAIN, str(stop)]
        return subprocess.run(command, env=environment, capture_output=True, check=False).returncode

    assert [train("killed", stop) for stop in (2, 4, -1)] == [-9, -9, 0]
    assert train("whole", -1) == 0
    found = [load_file(tmp_path / name / "bundled_fold1.safetensors") for name in ("killed", "whole")]
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])
    assert not list((tmp_path / "killed" / "unfinished").iterdir())
    with safe_open(tmp_path / "killed" / "bundled_fold1.safetensors", framework="pt") as file:
        record = json.loads(file.metadata()["record"])
    assert record["before"] == priors.record(1)
    assert record["seconds"] > priors.record(1)["seconds"]


# ---- progress


def test_progress_in_batch_is_terse_text(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    monkeypatch.setattr(experiment, "TELL_SECONDS", 0)
    cells = [Cell("coffee", 32, seed, DIPConfig.fast(2)) for seed in range(3)]
    outcomes = list(enumerate(cells))
    assert list(experiment._announced(iter(outcomes), [1.0] * 3, "these")) == outcomes
    told = capsys.readouterr()
    lines = told.err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["these: 1 of 3 cells", "these: 2 of 3 cells"]
    assert all(experiment.PROGRESS.fullmatch(line) for line in lines), "a build finds them by it"
    assert told.out == ""


def test_progress_in_jupyterlab_is_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import tqdm.notebook

    bars: list[Any] = []

    class Bar(tqdm.notebook.tqdm):  # type: ignore[type-arg]
        def __init__(self, *arguments: Any, **options: Any):
            super().__init__(*arguments, **options)
            bars.append(self)

    monkeypatch.setenv("JPY_SESSION_NAME", "notebooks/01_dip.ipynb")
    monkeypatch.setattr(tqdm.notebook, "tqdm", Bar)
    cells = [Cell("coffee", 32, seed, DIPConfig.fast(2)) for seed in range(3)]
    outcomes = list(enumerate(cells))
    assert list(experiment._announced(iter(outcomes), [1.0] * 3, "these")) == outcomes
    (bar,) = bars
    assert (bar.n, bar.total, bar.desc) == (3, 3, "these")
    assert "cells, about" not in capsys.readouterr().err


def test_without_the_bar_jupyterlab_gets_text(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The library can be had without the packages of the notebooks."""
    monkeypatch.setenv("JPY_SESSION_NAME", "notebooks/01_dip.ipynb")
    monkeypatch.setitem(sys.modules, "tqdm.notebook", None)
    monkeypatch.setattr(experiment, "TELL_SECONDS", 0)
    outcomes = list(enumerate("abc"))
    assert list(experiment._announced(iter(outcomes), [1.0] * 3, "these")) == outcomes
    assert "these: 2 of 3 cells" in capsys.readouterr().err


def test_a_curve_and_a_training_that_no_memory_holds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    x_true = images.load("coffee", 32)
    monkeypatch.setattr(compute, "memory", lambda: 2**20)
    for work in (
        lambda: experiment.fit_curve(x_true, DIPConfig.published(), 0),
        lambda: experiment.single_prior(x_true, TrainConfig()),
    ):
        with pytest.raises(InputError, match=r"GiB of memory, this machine has 0\.0"):
            work()
