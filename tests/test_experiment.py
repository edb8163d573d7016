"""Cells become results once: checked before, timed and scored whole, and found again."""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import example, given
from safetensors import safe_open
from safetensors.torch import load_file

from dipddpm_lib import classical, compute, ddpm, dip, experiment, hybrid, images, metrics, priors, store
from dipddpm_lib.classical import ClassicalConfig
from dipddpm_lib.ddpm import SampleConfig, TrainConfig
from dipddpm_lib.dip import DIPConfig
from dipddpm_lib.experiment import Cell, Config, Results, SweepError, collected, interval, note, noted, run, sweep
from dipddpm_lib.hybrid import HybridConfig
from dipddpm_lib.schedules import NoiseSchedule
from dipddpm_lib.types import InputError, Result, Step

DIP = DIPConfig(filters=(8, 8), skip=4, in_channels=8, iterations=6, held_out=0.1)
SAMPLE = SampleConfig(steps=3)
HYBRID = HybridConfig(dip=DIP, sample=SAMPLE, start="dip")
TRAINING = TrainConfig(channels=(8,), steps=3, batch=2, warmup=1)


def cell(config: Config = DIP, image: str = "coffee", seed: int = 0, **more: Any) -> Cell:
    """A cell whose denoiser, where there is one, is trained in three steps."""
    return Cell(image, 32, seed, config, **{"prior": "single", "training": TRAINING, **more})


CELLS: dict[str, Callable[[], Cell]] = {
    "DIP": lambda: cell(DIP, task="inpaint_50"),
    "DIP of the target": lambda: cell(replace(DIP, stop="none")),
    "DDPM": lambda: cell(SAMPLE),
    "DDPM with data": lambda: cell(replace(SAMPLE, eta=1.0), task="denoise_25", T=10),
    "DIP+DDPM": lambda: cell(HYBRID, task="compressive_10"),
    "DIP+DDPM, renoised": lambda: cell(replace(HYBRID, kind="renoise", t_start=2, consistency=False)),
    "DDPM, handed over": lambda: cell(replace(HYBRID, t_start=300), task="deblur", first=SAMPLE),
    "classical": lambda: cell(ClassicalConfig(), task="super_x4"),
}


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DIPDDPM_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each DIP fit that is started."""
    started: list[int] = []
    real = dip.reconstruct

    def counted(*arguments: Any) -> Iterator[Step]:
        started.append(1)
        yield from real(*arguments)

    monkeypatch.setattr(dip, "reconstruct", counted)
    return started


def plain(result: Result) -> dict[str, Any]:
    """A result as values that compare, tensors to the bit."""
    fields = {name: getattr(result, name) for name in Result.__dataclass_fields__}
    return {k: (str(v.dtype), v.shape, v.numpy().tobytes()) if torch.is_tensor(v) else v for k, v in fields.items()}


def measured(result: Result) -> dict[str, Any]:
    """What of a result does not depend on the clock."""
    fields = plain(result)
    scores = [(i, p, q) for i, _, p, q in result.trace]
    extra = {k: v for k, v in result.extra.items() if k != "training_seconds"}
    return {k: fields[k] for k in ("config", "seed", "digest", "x0_hat", "frames", "evaluations")} | {
        "scores": scores,
        "extra": extra,
    }


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


def test_numbers_of_numpy_are_noted_too() -> None:
    experiment.note("of_numpy", whole=np.int64(2), part=np.float32(0.5), ours=3)
    assert experiment.noted("of_numpy") == {"whole": 2.0, "part": 0.5, "ours": 3.0}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"steps": [1, 0]}, r"steps\[1\]: expected a whole number of 1 or more, got 0"),
        ({"steps": [2.5]}, r"steps\[0\]: .* got 2.5"),
        ({"steps": []}, "steps: expected one whole number or more, got none"),
        ({"steps": True}, "steps: .* got True"),
    ],
)
def test_lists_of_counts_are_checked_item_by_item(counts: dict[str, Any], said: str) -> None:
    experiment.check_counts(steps=[1, 2], seeds=3)
    with pytest.raises(InputError, match=said):
        experiment.check_counts(**counts)


def test_a_record_is_found_from_wherever_a_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert experiment.recorded("../benchmarks/handoff.json")["size"] == 128
    (tmp_path / "own.json").write_text('{"size": 7}')
    assert experiment.recorded("own.json") == {"size": 7}
    (tmp_path / "torn.json").write_text("{")
    for path, said in (("torn.json", "expected JSON that a benchmark wrote"), ("none.json", "none.json is no file")):
        with pytest.raises(InputError, match=said):
            experiment.recorded(path)


def test_a_number_with_its_noun_is_plural_unless_it_is_one() -> None:
    for number, said in (
        (1, "1 seed"),
        (np.float64(1), "1 seed"),
        (0, "0 seeds"),
        (np.int64(3), "3 seeds"),
        (1.2, "1 seed"),
    ):
        assert experiment.counted(number, "seed") == said


def test_evaluations_count_the_calls_of_the_denoiser() -> None:
    assert run(cell(DIP)).evaluations == 0
    assert run(cell(ClassicalConfig(), task="inpaint_50")).evaluations == 0
    assert run(cell(SampleConfig(steps=4))).evaluations == 4
    assert run(cell(SampleConfig.ancestral(7), T=7)).evaluations == 7
    assert run(cell(replace(HYBRID, t_start=500))).evaluations == 3
    assert run(cell(replace(HYBRID, t_start=2))).evaluations == 2, "no more than there are positions below t_start"


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


# ---- what is measured


@pytest.mark.parametrize("task", [None, "inpaint_50", "denoise_25"])
def test_every_method_sees_the_same_measurement(task: str | None) -> None:
    configs: tuple[Config, ...] = (DIP, SAMPLE, HYBRID, ClassicalConfig())
    x_true = images.load("coffee", 32)
    ys = [cell(config, task=task).measurement(x_true) for config in configs]
    for y in ys:
        assert torch.equal(y.y, ys[0].y)
        assert torch.equal(y.operator.support, ys[0].operator.support)
    other = cell(DIP, task=task, seed=1).measurement(x_true)
    assert torch.equal(other.y, ys[0].y) == (task is None), "protocol A draws nothing; B draws for each seed"
    if task is None:
        assert torch.equal(ys[0].y, x_true)
        assert ys[0].sigma_y == 0


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
    result = run(cell(replace(HYBRID, t_start=500)))
    # seven ticks of the fit as above; the second half's first step is the fit itself, then three, then the end
    assert result.seconds == {"fit": 14.0, "sample": 15.0}
    assert result.total_seconds == sum(result.seconds.values()) == 29.0
    times = [row[1] for row in result.trace]
    assert times == [2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 17.0, 20.0, 23.0, 26.0]
    before = len(fits)
    shared = run(cell(replace(HYBRID, t_start=400)))
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
    config = replace(HYBRID, t_start=t_start, kind="calibrated" if t_start is None else "renoise")
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


def test_which_prior_has_not_seen_an_image_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    searched: list[str] = []
    search = priors.fold_for
    monkeypatch.setattr(priors, "fold_for", lambda image: (searched.append(images.digest(image)), search(image))[1])
    target, seen = images.load("rocket", 64), images.load("camera", 64)
    expected = search(target)
    for _ in range(2):
        experiment._FOLDS.clear()  # as another process
        assert experiment.fold_for(target) == experiment.fold_for(target) == expected
    assert searched == [images.digest(target)]
    for n in (2, 3):
        with pytest.raises(InputError, match="trained on this image"):
            experiment.fold_for(seen)
        assert len(searched) == n, "a refusal is not kept"
    monkeypatch.setattr(priors, "weights_digest", lambda fold: f"other weights {fold}")
    assert experiment.fold_for(target) == expected
    assert len(searched) == 4, "other weights have seen something else"


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


# ---- what makes a cell another cell


def key(asked: Cell) -> str:
    return store.key("experiment.run", experiment._parameters(asked, asked.x_true()))


def test_labels_and_names_change_no_key(tmp_path: Path) -> None:
    from skimage import data

    path = tmp_path / "mine.png"
    shutil.copy(Path(data.__file__).parent / "coffee.png", path)
    for config in (DIP, SAMPLE):
        asked = cell(config)
        assert key(replace(asked, label="another")) == key(asked)
        assert key(replace(asked, image=str(path))) == key(asked)
        assert key(replace(asked, image="rocket")) != key(asked)


def test_what_a_method_reads_changes_its_key_and_nothing_else_does() -> None:
    changes: dict[str, Any] = {"seed": 1, "task": "inpaint_90", "size": 48}
    read_by_priors = {"T": 500, "schedule": "linear", "training": replace(TRAINING, steps=4)}
    for config in (DIP, ClassicalConfig()):
        asked = cell(config, task="inpaint_50")
        assert len({key(asked), *(key(replace(asked, **{k: v})) for k, v in changes.items())}) == 1 + len(changes)
        assert {key(replace(asked, **{k: v})) for k, v in read_by_priors.items()} == {key(asked)}
    for config in (SAMPLE, HYBRID):
        asked = cell(config, task="inpaint_50")
        every = {**changes, **read_by_priors, "prior": "bundled"}
        assert len({key(asked), *(key(replace(asked, **{k: v})) for k, v in every.items())}) == 1 + len(every)
        assert key(replace(asked, first=SAMPLE)) != key(asked)
        bundled = replace(asked, prior="bundled")
        assert key(replace(bundled, training=None)) == key(bundled), "the bundled prior is named by its weights"
    assert key(cell(DIP)) != key(cell(replace(DIP, jitter=0.01)))
    assert key(cell(HYBRID)) != key(cell(replace(HYBRID, dip=replace(DIP, lr=0.02))))


def test_other_weights_make_other_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = cell(SAMPLE, prior="bundled")
    before = key(asked)
    monkeypatch.setattr(experiment.priors, "weights_digest", lambda fold: "retrained")
    assert key(asked) != before


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
        sweep([cell(DIP), cell(DIP, seed=1), make()], name="never")
    assert "\n" not in str(caught.value)
    assert fits == []
    assert not root.exists(), "nothing was computed, nothing kept"


def test_a_file_that_is_no_image_stops_the_sweep(root: Path, fits: list[int], text_file: str) -> None:
    with pytest.raises(InputError, match=r"text\.png"):
        sweep([cell(DIP), cell(DIP, image=text_file)])
    assert (fits, root.exists()) == ([], False)


def test_dip_alone_may_see_any_photograph() -> None:
    for config in (DIP, ClassicalConfig()):
        cell(config, image="camera", prior="bundled", task="inpaint_50").check()
    cell(SAMPLE, image="camera").check()  # the single prior is trained on it anyway


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
    assert experiment._cell(record) == cells[1]
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
    assert list(experiment._announced(iter([(i, i) for i in range(4)]), 4, "grid")) == [(i, i) for i in range(4)]
    assert capsys.readouterr().err == "grid: 2 of 4 cells, about 25 s left\n"


# ---- collections


def test_what_a_sweep_kept_is_collected() -> None:
    cells = [replace(make(), label=kind) for kind, make in CELLS.items()]
    results = sweep(cells, name="all")
    kept = collected("all")
    assert [c for c, _ in kept] == cells
    assert [plain(r) for _, r in kept] == [plain(r) for _, r in results]
    pd.testing.assert_frame_equal(kept.frame(), results.frame(), check_like=True)
    sweep(cells[:1], name="all")
    assert len(collected("all")) == 1, "the last sweep of a name counts"
    assert len(collected("none_of_this_name")) == 0


def test_bundled_cells_are_collected_as_they_were() -> None:
    cells = [Cell("coffee", 32, 0, HYBRID, task="inpaint_50"), Cell("rocket", 32, 0, SAMPLE, T=50, schedule="linear")]
    results = sweep(cells, name="bundled")
    assert [c for c, _ in collected("bundled")] == cells
    assert all(r.extra["training_seconds"] > 60 for _, r in results), "the weights files say how long they took"


def test_a_collection_that_lost_a_result_is_no_collection(root: Path) -> None:
    """Means over what happens to be left would be verdicts over something else."""
    cells = [cell(DIP, seed=s) for s in range(3)]
    sweep(cells, name="three")
    shutil.rmtree(root / key(cells[1]))
    assert len(collected("three")) == 0
    sweep(cells, name="three")
    assert len(collected("three")) == 3


def test_a_name_that_leads_out_of_the_store_stops_the_sweep(root: Path, fits: list[int]) -> None:
    with pytest.raises(InputError, match="store: expected a name"):
        sweep([cell(DIP)], name="../elsewhere")
    with pytest.raises(InputError, match="store: expected a name"):
        note("../elsewhere", a=1.0)
    assert (fits, root.exists()) == ([], False)


def test_a_result_of_another_form_is_one_line() -> None:
    asked = cell(ClassicalConfig(), task="inpaint_50")
    key = store.key("experiment.run", experiment._parameters(asked, asked.x_true()))
    store.put(key, {"psnr": 99.0}, {})
    with pytest.raises(InputError, match="a result of another form") as caught:
        run(asked)
    assert "\n" not in str(caught.value)


def test_numbers_are_noted() -> None:
    assert noted("here") == {}
    note("here", a=1.5, b=-0.1, nan=math.nan)
    got = noted("here")
    assert (got["a"], got["b"], math.isnan(got["nan"])) == (1.5, -0.1, True)
    note("here", c=2.0)
    assert noted("here") == {"c": 2.0}
    assert len(collected("here")) == 0, "numbers and results of one name do not meet"


def test_what_is_run_by_hand_takes_nothing_from_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [cell(ClassicalConfig(), seed=s, task="inpaint_50") for s in range(3)]
    monkeypatch.setenv(experiment.REPORT, "1")
    sweep(asked[:1], name="both")
    note("both", a=1.0)
    monkeypatch.delenv(experiment.REPORT)
    assert [c for c, _ in collected("both")] == asked[:1], "nothing of its own yet: the report's"
    assert noted("both") == {"a": 1.0}
    sweep(asked[1:], name="both")
    note("both", a=2.0)
    note("mine", a=3.0)
    assert ([c for c, _ in collected("both")], noted("both")) == (asked[1:], {"a": 2.0})
    monkeypatch.setenv(experiment.REPORT, "1")
    assert ([c for c, _ in collected("both")], noted("both")) == (asked[:1], {"a": 1.0})
    assert noted("mine") == {}, "not in the report"


@pytest.mark.parametrize("damage", ["", "[{", '{"a": 1', "\0" * 9])
def test_a_damaged_collection_is_one_that_is_not_there(root: Path, damage: str) -> None:
    sweep([cell(ClassicalConfig(), task="inpaint_50")], name="kept")
    note("kept", a=1.0)
    for path in (root / "collections").iterdir():
        path.write_text(damage)
    assert len(collected("kept")) == 0
    assert noted("kept") == {}


def test_a_collection_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DIPDDPM_STORE", str(tmp_path / "file"))
    with pytest.raises(InputError, match=r"^store: cannot write to .*$"):
        note("here", a=1.0)


def test_results_are_filtered_and_tabled() -> None:
    results = sweep([cell(DIP, label="a"), cell(DIP, seed=1), cell(ClassicalConfig(), task="inpaint_50")])
    assert isinstance(results, Results)
    assert [c.seed for c, _ in results.only(method="DIP")] == [0, 1]
    assert len(results.only(label="a", seed=0)) == 1
    assert len(results.only(seed=7)) == 0
    assert results.best() is max((r for _, r in results), key=lambda r: r.psnr)
    with pytest.raises(InputError, match="best: expected one result or more, got none"):
        results.only(seed=7).best()
    frame = results.frame()
    assert list(frame.label) == ["a", "DIP", "classical"]
    assert list(frame.psnr) == [r.psnr for _, r in results]
    assert list(frame.seconds) == [r.total_seconds for _, r in results]
    assert list(frame["config.iterations"])[:2] == [6, 6]
    assert frame["config.filters"][0] == (8, 8)


def test_tables_and_curves_are_means_of_the_frame() -> None:
    results = sweep([cell(replace(DIP, iterations=n), seed=s, label="DIP") for n in (2, 3) for s in range(2)])
    frame = results.frame()
    table = results.table("label", "psnr", "seconds", "memory", "iterations")
    assert list(table.columns) == ["method", "PSNR (dB)", "total (s)", "peak memory (MiB)", "iterations"]
    assert table["PSNR (dB)"][0] == interval(list(frame.psnr))
    assert table["total (s)"][0] == pytest.approx(frame.seconds.mean())
    assert table["peak memory (MiB)"][0] == pytest.approx(frame.memory.mean() / 2**20)
    assert table["iterations"][0] == 2.5
    assert len(results.table(["label", "seed"], "ssim")) == 2
    for asked in (("labl", "psnr"), ("label", "psnrs"), (["label", "sed"], "psnr")):
        with pytest.raises(InputError, match=r"table: expected columns of image, size, .*, got (labl|psnrs|sed)$"):
            results.table(*asked)

    ((name, (where, mean, low, high)),) = results.curves("psnr", "iterations").items()
    assert name == "DIP"
    assert list(where) == [2.0, 3.0]
    for at, group in frame.groupby("iterations"):
        i = interval(list(group.psnr))
        assert (mean[at], low[at], high[at]) == (i.mean, i.low, i.high)


# ---- intervals

FLOATS = st.floats(-1e6, 1e6, allow_subnormal=False)


@given(st.lists(FLOATS, min_size=2, max_size=10))
def test_the_interval_surrounds_the_exact_mean(values: list[float]) -> None:
    found = interval(values)
    # sums of n ≤ 10 doubles in some order: a few roundings of the largest
    slack = 20 * 2.0**-53 * max(map(abs, values))
    assert found.mean == pytest.approx(math.fsum(values) / len(values), rel=0, abs=slack)
    assert found.low <= found.mean + slack
    assert found.high >= found.mean - slack
    assert min(values) - slack <= found.low
    assert found.high <= max(values) + slack
    assert found.n == len(values)
    assert interval(values) == found, "the bootstrap draws from a generator of its own"


@given(FLOATS, FLOATS)
def test_two_values_have_their_interval_in_closed_form(a: float, b: float) -> None:
    """Resampled means are a, (a + b)/2, b with probabilities 1/4, 1/2, 1/4."""
    low, middle, high = min(a, b), (a + b) / 2, max(a, b)
    near = pytest.approx
    slack = 4 * 2.0**-53 * max(abs(a), abs(b))
    wide = interval([a, b])
    assert (wide.low, wide.high) == (near(low, rel=0, abs=slack), near(high, rel=0, abs=slack))
    # the quantiles 0.3 and 0.7 lie in the middle mass: 2000 draws put them there but for 5 σ (0.05 against σ = 0.01)
    narrow = interval([a, b], level=0.4)
    assert (narrow.low, narrow.high) == (near(middle, rel=0, abs=slack), near(middle, rel=0, abs=slack))


def test_many_values_have_the_normal_interval() -> None:
    values = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 3
    found = interval(values.tolist())
    error = values.std(correction=0).item() / 400**0.5
    # the 2.5 % quantile of 2000 draws has standard deviation √(0.025·0.975/2000)/φ(1.96) = 0.06 errors; four of them
    assert found.low == pytest.approx(values.mean().item() - 1.96 * error, abs=0.25 * error)
    assert found.high == pytest.approx(values.mean().item() + 1.96 * error, abs=0.25 * error)
    assert interval(values.tolist(), level=0.5).high < found.high


def test_one_value_has_no_interval_and_none_no_mean() -> None:
    one = interval([2.5])
    assert (one.mean, one.n) == (2.5, 1)
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    with pytest.raises(InputError, match="at least one value"):
        interval([])


def test_cells_are_json_and_back() -> None:
    for make in CELLS.values():
        asked = make()
        entry = json.loads(json.dumps({"cell": asdict(asked), "config": type(asked.config).__name__}))
        assert experiment._cell(entry) == asked


# ---- what is killed goes on

FIT = """
import json, os, sys, time
import torch
from pathlib import Path
from dipddpm_lib import dip, experiment, store
from dipddpm_lib.dip import DIPConfig
from dipddpm_lib.experiment import Cell, run

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
    "without its generator": bits(elsewhere("broken", {**state, "run 1, generator": fresh})) == bits(whole),
    "seconds": [float(state["noted.seconds"]), found.total_seconds],
    "trace": [row[1] for row in found.trace],
}))
"""


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
    assert list(experiment._announced(iter(outcomes), 3, "these")) == outcomes
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
    assert list(experiment._announced(iter(outcomes), 3, "these")) == outcomes
    (bar,) = bars
    assert (bar.n, bar.total, bar.desc) == (3, 3, "these")
    assert "cells, about" not in capsys.readouterr().err


@pytest.mark.parametrize(("start", "task"), [("classical", "deblur"), ("measurement", "inpaint_50")])
def test_a_start_of_unknown_error_is_refused_before_the_sweep(start: str, task: str) -> None:
    config = replace(HYBRID, start=start)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=f"no error estimate for a {start} start .*; give t_start"):
        Cell("coffee", 32, 0, config, task).check()
    Cell("coffee", 32, 0, replace(config, t_start=5), task).check()


@pytest.mark.usefixtures("root")
def test_a_curve_and_a_training_that_no_memory_holds_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    x_true = images.load("coffee", 32)
    monkeypatch.setattr(compute, "memory", lambda: 2**20)
    for work in (
        lambda: experiment.fit_curve(x_true, DIPConfig.published(), 0),
        lambda: experiment.single_prior(x_true, TrainConfig()),
    ):
        with pytest.raises(InputError, match=r"GiB of memory, this machine has 0\.0"):
            work()


@pytest.mark.parametrize(
    "entries", [5, [5], [{}], [{"key": 5, "cell": {}, "config": "DIPConfig"}], [{"key": "k", "cell": 3, "config": "x"}]]
)
@pytest.mark.usefixtures("root")
def test_a_forged_collection_is_one_line(entries: Any) -> None:
    store.write_list("forged", {"source": store.source_digest(), "entries": entries})
    with pytest.raises(InputError, match="holds a collection forged of another form; remove it"):
        experiment.collected("forged")
