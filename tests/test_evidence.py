"""Results are tabled with their intervals; collections are whole or not there."""

from __future__ import annotations

import math
import shutil
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from scipy import stats

from dipddpm_lib import evidence, store
from dipddpm_lib.cells import Cell
from dipddpm_lib.classical import ClassicalConfig
from dipddpm_lib.evidence import Results, collected, interval, note, noted
from dipddpm_lib.experiment import run, sweep
from dipddpm_lib.types import InputError
from grids import CELLS, DIP, HYBRID, SAMPLE, cell, key, plain

pytestmark = pytest.mark.usefixtures("root")


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


def test_a_result_of_another_form_is_one_line() -> None:
    asked = cell(ClassicalConfig(), task="inpaint_50")
    store.put(key(asked), {"psnr": 99.0}, {})
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


def test_numbers_of_numpy_are_noted_too() -> None:
    evidence.note("of_numpy", whole=np.int64(2), part=np.float32(0.5), ours=3)
    assert evidence.noted("of_numpy") == {"whole": 2.0, "part": 0.5, "ours": 3.0}


def test_what_is_run_by_hand_takes_nothing_from_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [cell(ClassicalConfig(), seed=s, task="inpaint_50") for s in range(3)]
    monkeypatch.setenv(evidence.REPORT, "1")
    sweep(asked[:1], name="both")
    note("both", a=1.0)
    monkeypatch.delenv(evidence.REPORT)
    assert [c for c, _ in collected("both")] == asked[:1], "nothing of its own yet: the report's"
    assert noted("both") == {"a": 1.0}
    sweep(asked[1:], name="both")
    note("both", a=2.0)
    note("mine", a=3.0)
    assert ([c for c, _ in collected("both")], noted("both")) == (asked[1:], {"a": 2.0})
    monkeypatch.setenv(evidence.REPORT, "1")
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


@pytest.mark.parametrize(
    "entries", [5, [5], [{}], [{"key": 5, "cell": {}, "config": "DIPConfig"}], [{"key": "k", "cell": 3, "config": "x"}]]
)
def test_a_forged_collection_is_one_line(entries: Any) -> None:
    store.write_list("forged", {"source": store.source_digest(), "entries": entries})
    with pytest.raises(InputError, match="holds a collection forged of another form; remove it"):
        evidence.collected("forged")


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


def test_runs_without_a_task_or_without_steps_are_in_the_table_too() -> None:
    results = sweep([cell(DIP), cell(DIP, task="deblur"), cell(SAMPLE, task="deblur")])
    assert list(results.table("task", "psnr")["task"].isna()) == [True, False]
    assert list(results.table(["method", "steps"], "psnr")["method"]) == ["DIP", "DDPM"]
    with pytest.raises(InputError, match=r"^curves: expected one result or more, got none$"):
        Results(()).curves("psnr", "steps")


def test_a_collection_without_pictures_has_the_same_numbers() -> None:
    sweep([cell(DIP), cell(SAMPLE, task="deblur")], name="few")
    whole, bare = collected("few"), collected("few", pictures=False)
    pd.testing.assert_frame_equal(bare.frame(), whole.frame())
    assert all(r.x0_hat.numel() == r.frames.numel() == 0 for _, r in bare)
    assert all(r.x0_hat.numel() > 0 for _, r in whole)


# ---- intervals

FLOATS = st.floats(-1e6, 1e6, allow_subnormal=False)


def wider(n: int, level: float) -> float:
    """Student's interval over the bootstrap's: √(n/(n − 1)) t/z, by another library's quantiles."""
    t, z = stats.t(n - 1).ppf((1 + level) / 2), statistics.NormalDist().inv_cdf((1 + level) / 2)
    return float(t / z * math.sqrt(n / (n - 1)))


@given(st.lists(FLOATS, min_size=2, max_size=10))
def test_the_interval_surrounds_the_exact_mean(values: list[float]) -> None:
    found = interval(values)
    # sums of n ≤ 10 doubles in some order: a few roundings of the largest, which the widening multiplies
    most = wider(len(values), 0.95)
    slack = 40 * most * 2.0**-53 * max(map(abs, values))
    assert found.mean == pytest.approx(math.fsum(values) / len(values), rel=0, abs=slack)
    assert found.low <= found.mean + slack
    assert found.high >= found.mean - slack
    assert found.mean - most * (found.mean - min(values)) - slack <= found.low
    assert found.high <= found.mean + most * (max(values) - found.mean) + slack
    assert found.n == len(values)
    assert interval(values) == found, "the bootstrap draws from a generator of its own"


@given(FLOATS, FLOATS)
def test_two_values_have_their_interval_in_closed_form(a: float, b: float) -> None:
    """Resampled means are a, (a + b)/2, b with probabilities 1/4, 1/2, 1/4."""
    middle, half = (a + b) / 2, abs(a - b) / 2 * wider(2, 0.95)
    near = pytest.approx
    slack = 40 * 2.0**-53 * wider(2, 0.95) * max(abs(a), abs(b))
    wide = interval([a, b])
    assert (wide.low, wide.high) == (near(middle - half, rel=0, abs=slack), near(middle + half, rel=0, abs=slack))
    # the quantiles 0.3 and 0.7 lie in the middle mass: 2000 draws put them there but for 5 σ (0.05 against σ = 0.01)
    narrow = interval([a, b], level=0.4)
    assert (narrow.low, narrow.high) == (near(middle, rel=0, abs=slack), near(middle, rel=0, abs=slack))


@pytest.mark.parametrize("n", [3, 4, 5, 8, 12])
def test_few_normal_values_are_covered_as_often_as_promised(n: int) -> None:
    """The plain percentiles of four values hold the mean 81 times in 100, whatever they promise."""
    samples = torch.randn(400, n, generator=torch.Generator().manual_seed(n), dtype=torch.float64).tolist()
    held = [found.low <= 0 <= found.high for found in map(interval, samples)]
    # 0.94 ± 0.03: the binomial's standard deviation is 0.012
    assert 0.91 < sum(held) / len(held) < 0.975


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


def test_a_part_of_the_results_is_results() -> None:
    results = sweep([cell(ClassicalConfig(), seed=s, task="inpaint_50") for s in range(3)])
    assert isinstance(results[:2], Results)
    assert list(results[1:].frame().seed) == [1, 2]
    assert results[0][0].seed == 0


def test_curves_of_unknown_columns_are_one_line() -> None:
    results = sweep([cell(ClassicalConfig(), task="inpaint_50")])
    with pytest.raises(InputError, match=r"curves: expected columns of image, .*, got loss"):
        results.curves("loss", "seed")
