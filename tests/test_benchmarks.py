"""`benchmarks/`: the arithmetic of its rows, and that each kind of row runs. Times are never judged here."""

# ruff: noqa: E402 (benchmarks/ is a folder of scripts, not a package: its path comes before its imports)
from __future__ import annotations

import itertools
import json
import math
import pickle
import re
import sys
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import papermill
import pytest
import torch
import yaml
from torch import Tensor

from dipddpm_lib import (
    compute,
    ddpm,
    dip,
    distribution,
    evidence,
    experiment,
    hybrid,
    images,
    metrics,
    operators,
    play,
    priors,
    store,
)
from dipddpm_lib.cells import Cell
from dipddpm_lib.classical import ClassicalConfig
from dipddpm_lib.ddpm import SampleConfig, TrainConfig
from dipddpm_lib.dip import DIPConfig
from dipddpm_lib.hybrid import HybridConfig
from dipddpm_lib.priors import GaussianPrior
from dipddpm_lib.types import InputError

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import averages
import bench
import controls
import couplings
import estimates
import fresh
import from_noise
import handoff
import holes
import leaves
import levels
import longer
import records
import reference
import relatives
import search
import train_priors


def record(name: str) -> list[dict[str, Any]]:
    """What benchmarks/NAME.json holds."""
    return json.loads((BENCHMARKS / f"{name}.json").read_text())["fits"]


def test_what_a_cell_sends_is_what_the_bench_and_decisions_say() -> None:
    """The table in DECISIONS of what 10, 100 and 1000 workers need rests on these."""
    said = (ROOT / "DECISIONS.md").read_text(encoding="utf-8")
    low, high = map(int, re.search(r"(\d+) to (\d+) bytes, a pickled cell", said).groups())  # type: ignore[union-attr]
    image, frames, film, text = map(
        float,
        re.search(  # type: ignore[union-attr]
            r"image ([\d.]+) MB \(float32\), film of (\d+) frames ([\d.]+) MB [^,]*, record (\d+) kB", said
        ).groups(),
    )
    configs = (ClassicalConfig(), DIPConfig(), SampleConfig(), HybridConfig())
    sizes = [
        len(pickle.dumps(Cell("astronaut", 128, 0, config, "compressive_10", label=32 * "x"))) for config in configs
    ]
    sizes.append(len(pickle.dumps(Cell("astronaut", 128, 0, configs[-1], None, "single", TrainConfig()))))
    assert low <= min(sizes)
    assert max(sizes) <= high
    config = DIPConfig(filters=(8, 8), skip=4, in_channels=8, iterations=60, warmup=4)
    kept = experiment._kept(Cell("coffee", 128, 0, config, "inpaint_50"))
    assert len(kept.arrays["frames"]) == frames
    assert kept.arrays["frames"].nbytes == pytest.approx(film * 1e6, rel=0.1)
    assert kept.arrays["x0_hat"].nbytes == pytest.approx(image * 1e6, rel=0.1)
    assert len(json.dumps(kept.record)) == pytest.approx(text * 1e3, rel=0.3)
    assert sum(array.nbytes for array in kept.arrays.values()) == pytest.approx(bench.CELL_BYTES, rel=0.15)


def test_what_is_compared_runs_in_turn_after_a_warm_up() -> None:
    order: list[str] = []
    times = bench.in_turn({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert "".join(order) == "aabb" + "ab" * 3
    assert {name: len(values) for name, values in times.items()} == {"a": 3, "b": 3}
    assert all(value > 0 for values in times.values() for value in values)


def test_ratios_are_taken_round_by_round() -> None:
    """A slow moment that doubles one round of both leaves the ratio alone."""
    assert bench.ratio([2.0, 4.0, 2.0], [1.0, 2.0, 1.0]) == (2.0, 2.0, 2.0)
    assert bench.spread([1.0, 2.0, 3.0, 4.0, 5.0]) == (3.0, 2.0, 4.0)
    assert bench.spread([7.0]) == (7.0, 7.0, 7.0)


def test_a_row_falls_short_or_does_not() -> None:
    row = bench.Row("a", "b", 3.9, 3.0, 5.0, "× faster", 4.0)
    assert not row.reached
    assert "SHORT" in bench.table([row])
    assert bench.Row("a", "b", 4.0, 3.0, 5.0, "× faster", 4.0).reached
    assert not bench.Row("a", "b", 50.0, 40.0, 60.0, "× faster", 4.0, as_good=False).reached, "faster to less"
    assert bench.Row("a", "b", 0.2, 0.1, 0.3, "s", 0.3, at_least=False).reached
    assert not bench.Row("a", "b", 0.4, 0.1, 0.5, "s", 0.3, at_least=False).reached


def test_the_operations_of_a_convolution_are_counted() -> None:
    """2 · 9 · 128 · 128 a pixel, at 128² pixels."""
    where = compute.default()
    layer = where.place(torch.nn.Conv2d(8, 8, 3, padding=1, device="meta").to_empty(device="cpu"))
    x = torch.zeros(1, 8, 16, 16, dtype=layer.weight.dtype)
    assert bench.flops(lambda: layer(x)) == 2 * 9 * 8 * 8 * 16 * 16


def test_a_yardstick_is_met_at_its_best_iteration() -> None:
    class Stopped:
        psnr, total_seconds = 25.5, 2.0

    gain, faster = bench._against({"psnr": [10.0, 25.0, 24.0]}, 0.5, Stopped())  # type: ignore[arg-type]
    assert gain == 0.5
    assert faster == 2 * 0.5 / 2.0  # two iterations of half a second against two seconds
    assert bench._against({"psnr": [10.0, 26.0]}, 0.5, Stopped()) == (-0.5, 0.0), "faster to less"  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["published", "snail", "Deep Decoder"])
def test_the_yardsticks_are_in_float32_and_their_fits_are_on_record(name: str) -> None:
    assert bench.YARDSTICKS[name].float32
    assert {fit["image"] for fit in record("published") if fit["name"] == name} == set(reference.PICTURES)


@pytest.mark.parametrize("name", ["published", "snail", "Deep Decoder"])
def test_the_record_of_the_yardsticks_is_what_the_library_computes(name: str) -> None:
    """Threads and machines change bits, and Adam, whose first steps follow the gradient's sign, amplifies them.

    The start and its first gradient agree to hundredths of a dB (another seed's start is 0.2 dB away), what comes after
    to tenths: one thread and two differ by 0.04 dB there.
    """
    fit = next(fit for fit in record("published") if fit["name"] == name)
    config = replace(bench.YARDSTICKS[name], iterations=8)
    x_true = images.load(fit["image"], 128)
    y = Cell(fit["image"], 128, fit["seed"], config, bench.TASK).measurement(x_true)
    found = [metrics.psnr(f.x0_hat, x_true) for f in dip.reconstruct(y, config, compute.generator(fit["seed"], "dip"))]
    assert found[:2] == pytest.approx(fit["psnr"][:2], abs=0.02)
    assert found == pytest.approx(fit["psnr"][:8], abs=0.5)


def test_the_record_of_the_bench_says_reached_only_where_it_is() -> None:
    kept = json.loads((BENCHMARKS / "results.json").read_text())["rows"]
    for row in kept:
        how = {"kind", "source", "environment", "reached"}  # how it was made, which some older rows do not say
        values = {name: value for name, value in row.items() if name not in how}
        assert bench.Row(**values).reached == row["reached"]


def test_the_search_draws_the_same_settings_again_and_none_that_is_scored() -> None:
    assert search.settings(5, 10) == search.settings(8, 10)[:5]
    assert not set(search.PHOTOGRAPHS) & set(priors.EVALUATION)
    assert all(config.stop == "none" for config in search.settings(3, 10))
    assert {fit["image"] for fit in record("search")} == set(search.PHOTOGRAPHS)
    fast = DIPConfig.fast()
    drawn = {search.CHOSEN: fast, **dict(enumerate(search.settings(search.STAGES[-1][0], 450), start=100))}
    assert all(search._has_settings(fit, drawn[fit["seed"]]) for fit in record("search"))
    assert min(fit["seed"] for fit in record("search")) >= 100


def test_a_search_goes_on_with_fits_of_its_own_settings_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(search.experiment, "run", lambda cell: pytest.fail("nothing may be computed"))
    kept = json.loads((BENCHMARKS / "search.json").read_text())
    kept["fits"][-1]["lr"] *= 2
    path = tmp_path / "search.json"
    path.write_text(json.dumps(kept))
    monkeypatch.setattr(sys, "argv", ["search.py", "--output", str(path)])
    with pytest.raises(SystemExit):
        search.main()
    assert f"fits of other settings (seed {kept['fits'][-1]['seed']})" in capsys.readouterr().err
    assert json.loads(path.read_text()) == kept


@pytest.mark.slow
@pytest.mark.global_random  # dask draws from Python's
def test_sweeps_and_their_scale_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPDDPM_STORE", str(tmp_path))
    monkeypatch.setattr(bench, "CELL_BYTES", 1000)
    monkeypatch.setattr(
        bench.DIPConfig, "fast", classmethod(lambda cls, n=0: DIPConfig(filters=(8,), lift=0, iterations=3))
    )
    found = [*bench.sweep_rows(True), *bench.scale_rows(True)]
    assert len(found) == (7 if compute.available_cores() > 1 else 5)
    for row in found:
        assert 0 < row.low <= row.value <= row.high
    assert {row.unit for row in found} >= {"a second"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "rows",
    ["step_rows", "interpreters_row", "share_rows", "ddpm_call_row", "growth_rows", "import_row", "old_processor_row"],
)
def test_every_kind_of_row_runs(rows: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "in_turn", lambda works, rounds, whole=bench.in_turn: whole(works, 2))
    found = list(getattr(bench, rows)(True))
    assert found
    for row in found:
        assert row.value > 0
        assert row.low <= row.value <= row.high
        assert row.claim
        assert row.unit


def test_the_profile_of_an_iteration_names_its_parts() -> None:
    found = bench.profile(bench.one_network(replace(DIPConfig.fast(), filters=(8, 8))), rounds=2)
    assert set(found) == {*bench.KINDS, "rest"}
    assert min(found[kind] for kind in ("convolutions", "jitter", "norms", "activations", "optimiser")) > 0
    assert found["rest"] < sum(found.values()) / 2


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["A", "B"])
def test_the_hybrid_is_measured_with_its_fit(protocol: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of a thousand steps: 500 times their seconds, over the whole of the hybrid's."""
    monkeypatch.setenv("DIPDDPM_STORE", str(tmp_path))
    quick = replace(HybridConfig.quick(), dip=replace(DIPConfig.fast(3), runs=1), sample=SampleConfig(steps=2))
    single = {"prior": "single", "training": TrainConfig(channels=(8,), steps=1, batch=1)}
    quick = replace(quick, consistency=protocol == "B")
    cell = Cell(
        "coffee", 32, 0, quick, "denoise_50" if protocol == "B" else None, **(single if protocol == "A" else {})
    )
    row = bench._against_ddpm([cell], protocol, 2)
    hybrid, ddpm = (experiment.run(c) for c in (cell, replace(cell, config=SampleConfig(steps=2, eta=1.0))))
    assert row.value == pytest.approx(500 * ddpm.total_seconds / hybrid.total_seconds)
    assert row.as_good == (hybrid.psnr > ddpm.psnr and hybrid.ssim > ddpm.ssim)
    against = bench._against_dip([cell], "DIP+DDPM, quick", 3)
    assert against.claim == "DIP+DDPM, quick, fit included, protocol B: time"
    assert against.value > 0
    assert against.note.startswith(f"at or above that best in {int(against.as_good)} of 1")


@pytest.mark.slow
def test_the_fast_fit_is_measured_against_its_yardsticks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPDDPM_STORE", str(tmp_path))
    monkeypatch.setattr(DIPConfig, "fast", classmethod(lambda cls: cls(filters=(8, 8), iterations=5)))
    monkeypatch.setattr(bench, "in_turn", lambda works, rounds: {name: [1.0] for name in works})
    rows = list(bench.dip_rows(True))
    assert [row.unit for row in rows] == ["× faster", "dB"] * (len(rows) // 2)
    assert all(row.value < 0 for row in rows if row.unit == "dB"), "five iterations of a toy are worse than anything"


# ---- the hand-off's record, and the appendix that reads it


def test_the_record_of_the_hand_off_holds_the_nine_tasks_by_priors_that_have_not_seen_them() -> None:
    kept = json.loads((BENCHMARKS / "handoff.json").read_text())
    ran = {(row["image"], row["degradation"], row["seed"]) for row in kept["rows"]}
    assert len(ran) == len(kept["rows"])
    assert {(image, task, 0) for image in priors.EVALUATION for task in operators.TASKS} <= ran
    for row in kept["rows"]:
        for name, start in row["starts"].items():
            assert all(len(curve) == len(kept["sigmas"]) for curve in start["after"].values())
            if name != "measurement":  # whose error is noted within [-1, 1]
                assert start["psnr"] == pytest.approx(-20 * math.log10(start["rmse"] / 2), abs=0.01)


@pytest.mark.slow
def test_the_appendix_tests_its_rule_where_the_record_has_more(tmp_path: Path) -> None:
    kept = json.loads((BENCHMARKS / "handoff.json").read_text())
    kept["rows"] = [row for row in kept["rows"] if row["degradation"] in operators.TASKS]
    like = {"compressive_10": "compressive_20", "holes": "holes_12"}
    more = [{**row, "degradation": like[row["degradation"]]} for row in kept["rows"] if row["degradation"] in like]
    record = tmp_path / "more.json"
    record.write_text(json.dumps({**kept, "rows": kept["rows"] + more}))
    notebook = ROOT / "notebooks" / "A3_hand_off.ipynb"
    out = papermill.execute_notebook(
        notebook, tmp_path / "out.ipynb", {"record": str(record)}, cwd=notebook.parent, progress_bar=False
    )
    said = json.dumps(out)
    assert "On the 2 degradations that did not make it (4 photographs)" in said
    assert "within 0.2 dB of it in 2" in said


def test_a_record_that_is_added_to_keeps_the_rows_that_were_not_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fake(image: str, degradation: str, seed: int) -> dict[str, Any]:
        return {"image": image, "degradation": degradation, "seed": seed}

    output = tmp_path / "kept.json"
    before = [{**fake("coffee", d, 0), "machine": "old"} for d in ("denoise_25", "deblur", "super_x8")]
    output.write_text(json.dumps({"size": 128, "sigmas": handoff.SIGMAS, "steps": handoff.STEPS, "rows": before}))
    monkeypatch.setattr(handoff, "row", fake)
    monkeypatch.setenv("DIPDDPM_STORE", str(tmp_path / "store"))
    asked = ["--images", "coffee,rocket", "--degradations", "deblur", "--seeds", "1", "--output", str(output)]
    for more, expected in ((["--add"], [*before[:1], *before[2:]]), ([], [])):
        monkeypatch.setattr(sys, "argv", ["handoff.py", *asked, *more])
        handoff.main()
        record = json.loads(output.read_text())
        here = f"{compute.machine()['processor']}, {compute.default().dtype}"
        made = {"machine": here, "source": store.source_digest()}
        new = [{**fake(image, "deblur", 0), **made} for image in ("coffee", "rocket")]
        assert record["rows"] == expected[:1] + new + expected[1:]
        assert record["machine"] == sorted({here, *(["old"] if expected else [])})


def test_rows_of_other_settings_are_not_added_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their curves would be read against these settings; the file stays as it is."""
    output = tmp_path / "kept.json"
    row = {"image": "coffee", "degradation": "deblur", "seed": 0, "machine": "old"}
    output.write_text(json.dumps({"size": 128, "sigmas": [0.5], "steps": handoff.STEPS, "rows": [row]}))
    before = output.read_bytes()
    monkeypatch.setattr(handoff, "row", lambda **_: pytest.fail("computed"))
    monkeypatch.setattr(sys, "argv", ["handoff.py", "--output", str(output), "--add"])
    with pytest.raises(InputError, match=r"^--add: .*kept\.json has another sigmas; fill it anew, or give --output$"):
        handoff.main()
    assert output.read_bytes() == before


def test_a_stored_row_is_that_of_these_settings_and_this_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store knows neither a script's constants nor the file behind a name."""
    photograph = tmp_path / "photo.png"
    monkeypatch.setenv("DIPDDPM_STORE", str(tmp_path / "store"))
    options = handoff.arguments(None, "none", ("deblur",)).parse_args(
        ["--images", str(photograph), "--output", str(tmp_path / "kept.json")]
    )
    computed: list[str] = []

    def work(image: str, degradation: str, seed: int) -> dict[str, Any]:
        computed.append(image)
        return {"image": image, "degradation": degradation, "seed": seed}

    def drawn(seed: int) -> None:
        images.save(torch.rand(1, 3, 160, 160, generator=torch.Generator().manual_seed(seed)) * 2 - 1, photograph)

    drawn(0)
    for settings, count in (({"chain": 1}, 1), ({"chain": 1}, 1), ({"chain": 2}, 2)):
        records.fill(work, Path(handoff.__file__), options, settings)
        assert len(computed) == count
    drawn(1)
    records.fill(work, Path(handoff.__file__), options, {"chain": 2})
    assert len(computed) == 3


@pytest.mark.parametrize(
    ("asked", "said"), [(["--seeds", "0"], "seeds: expected 1"), (["--degradations", "deblur,blur"], "got blur")]
)
def test_a_mistyped_request_is_refused_before_any_row(
    asked: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handoff, "row", lambda **_: pytest.fail("computed"))
    monkeypatch.setattr(sys, "argv", ["handoff.py", "--output", str(tmp_path / "none.json"), *asked])
    with pytest.raises(InputError, match=said):
        handoff.main()
    assert not list(tmp_path.iterdir())


def test_rho_is_what_the_record_of_levels_prefers() -> None:
    """In the mean over the runs from the start that is chosen, and over those from DIP's image."""
    kept = json.loads((BENCHMARKS / "levels.json").read_text())
    assert {(row["image"], row["degradation"]) for row in kept["rows"]} == {
        (image, task) for image in priors.EVALUATION for task in operators.TASKS
    }
    own, chosen, from_dip = HybridConfig().rho, [], []
    for row in kept["rows"]:
        m = levels.measured(images.load(row["image"], kept["size"]), row["degradation"], row["seed"])
        settled = hybrid.settle(m, HybridConfig())
        assert set(row["starts"]) == {"dip", settled.start}
        after = {float(rho): psnr for rho, psnr in row["starts"][settled.start]["after"].items()}
        if settled.start == "measurement":
            assert max(after, key=lambda rho: after[rho]) == settled.rho, "from y itself σ is its noise"
        else:
            chosen.append(after)
        if row["degradation"].startswith("denoise"):  # where half of it is taken
            continue
        from_dip.append({float(rho): psnr for rho, psnr in row["starts"]["dip"]["after"].items()})
    for curves in (chosen, from_dip):
        means = {rho: sum(curve[rho] for curve in curves) / len(curves) for rho in curves[0]}
        assert max(means, key=lambda rho: means[rho]) == own


def test_the_notebook_crosses_the_rho_that_each_fold_of_the_record_prefers() -> None:
    rows = json.loads((BENCHMARKS / "levels.json").read_text())["rows"]
    source = (ROOT / "notebooks" / "07_restoration.ipynb").read_text(encoding="utf-8")
    told = dict(re.findall(r"(\d): ([\d.]+)", re.search(r"OTHER_RHO = \{(.*?)\}", source)[1]))  # type: ignore[index]
    for fold in (1, 2):
        others = priors.HELD_OUT[3 - fold]
        after = [
            row["starts"]["dip"]["after"]
            for row in rows
            if row["image"] in others and not row["degradation"].startswith("denoise")
        ]
        means = {rho: sum(curve[rho] for curve in after) / len(after) for rho in after[0]}
        assert float(told[str(fold)]) == float(max(means, key=lambda rho: means[rho]))


def test_a_row_of_levels_is_the_released_configuration_at_each(monkeypatch: pytest.MonkeyPatch) -> None:
    dip_config = DIPConfig(filters=(8, 8), skip=4, in_channels=8, iterations=6, warmup=2, runs=2)
    short, x_true = HybridConfig(dip=dip_config), images.load("coffee", 32)
    for module in (handoff, levels):
        monkeypatch.setattr(module, "SIZE", 32)
    monkeypatch.setattr(levels, "HybridConfig", lambda: short)
    found = levels.row("coffee", "inpaint_90", 0)["starts"]
    assert set(found) == {"dip", "classical"}
    m = handoff.measured(x_true, "inpaint_90", 0)
    for start, kept in found.items():
        assert list(kept["after"]) == [f"{rho:g}" for rho in levels.RHOS]
        config = hybrid.settle(m, replace(short, start=start, rho=8.0))
        *_, fit = hybrid.begin(m, config, compute.generator(0, "dip"))
        steps = hybrid.denoise(fit, m, priors.load(x_true), levels.SCHEDULE, config, compute.generator(0, "sample"))
        *_, last = steps
        assert kept["after"]["8"] == pytest.approx(metrics.psnr(last.x0_hat, x_true), abs=0.001)
        assert kept["rmse_hat"] == fit.rmse_hat


# ---- the colour of an error


def test_the_controls_have_the_size_of_dips_error_and_the_colours_that_they_are_named_for() -> None:
    x_true = images.load("coffee", 32)
    draw = compute.generator(0, "test")
    for rmse in (0.03, 0.2):
        own = torch.nn.functional.avg_pool2d(torch.randn(1, 3, 34, 34, generator=draw), 3, stride=1)
        own *= rmse / own.square().mean().sqrt()
        found = controls.errors(own, x_true, compute.generator(0, "errors"))
        assert tuple(found) == controls.KINDS
        for kind, error in found.items():
            assert error.square().mean().sqrt() == pytest.approx(rmse, rel=1e-3), kind
        shuffled = found["its spectrum, phases at random"]
        power, its = (torch.fft.fft2(e).abs() for e in (own, shuffled))
        assert torch.allclose(power, its, rtol=1e-3, atol=1e-4)
        assert not torch.allclose(own, shuffled, atol=0.1 * rmse)
        coarse = {kind: handoff.coarse_share(error) for kind, error in found.items()}
        assert coarse["white"] == pytest.approx(torch.pi / 64, abs=0.03)
        assert coarse["its spectrum, phases at random"] == pytest.approx(coarse["DIP's own"], rel=1e-3)
    beyond = x_true.std() * 3 * own / own.square().mean().sqrt()
    assert "a blur's" not in controls.errors(beyond, x_true, draw), "no blur is as far as that"


def test_a_row_of_controls_hands_over_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = DIPConfig(filters=(8, 8), skip=4, in_channels=8, iterations=6, warmup=2, runs=2)
    for module in (handoff, controls):
        monkeypatch.setattr(module, "SIZE", 32)
    monkeypatch.setattr(controls, "FIT", fit)
    monkeypatch.setattr(controls, "SIGMAS", (0.3,))
    found = controls.row("coffee", "inpaint_90", 0)
    x_true = images.load("coffee", 32)
    m = handoff.measured(x_true, "inpaint_90", 0)
    *_, last = dip.reconstruct(m, fit, compute.generator(0, "dip"))
    assert found["psnr"] == pytest.approx(metrics.psnr(last.x0_hat, x_true), abs=0.001)
    t = handoff.SCHEDULE.t_at_sigma(0.3)
    *_, out = ddpm.sample(
        priors.load(x_true),
        handoff.SCHEDULE,
        hybrid.hand_off(last.x0_hat, handoff.SCHEDULE, t),
        t,
        controls.SAMPLE,
        compute.generator(0, "sample"),
        m,
    )
    assert found["errors"]["DIP's own"]["after"] == [pytest.approx(metrics.psnr(out.x0_hat, x_true), abs=0.01)]
    assert all(len(kind["after"]) == 1 for kind in found["errors"].values())


# ---- estimates of a fit's error


@pytest.mark.parametrize("degradation", ["denoise_50", "inpaint_50", "fourier_x4"])
def test_a_row_of_estimates_holds_the_truth_and_what_the_hand_off_makes_of_it(
    degradation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = replace(DIPConfig.fast(40), filters=(8, 8), skip=4, in_channels=8, runs=2, held_out=0.1)
    for module in (handoff, estimates):
        monkeypatch.setattr(module, "SIZE", 32)
    monkeypatch.setattr(estimates, "FIT", fit)
    monkeypatch.setattr(estimates, "SIGMAS", (0.3,))
    found = estimates.row("coffee", degradation, 0)
    x_true = images.load("coffee", 32)
    m = handoff.measured(x_true, degradation, 0)
    fitting = dip.reconstruct(m, fit, compute.generator(0, "dip"))
    *_, last = fitting
    kept = found["estimates"]
    assert tuple(kept) == estimates.KINDS
    assert kept["in use"] == last.rmse_hat
    assert found["rmse"] == pytest.approx(metrics.rmse_of(metrics.psnr(last.x0_hat, x_true)), rel=1e-5)
    held = fitting.held.bool()
    squares = ((m.operator.A(last.x0_hat) - m.y)[held] ** 2).mean()
    assert kept["held-out error"] == pytest.approx(m.rmse(float(squares), int(held.sum())), rel=1e-5)
    # the fit's own is the held-out error times a factor of 1 or more
    assert kept["in use"] >= kept["held-out error"] * (1 - 1e-4)
    assert len(found["probes"]) == (estimates.PROBES if degradation == "denoise_50" else 0)
    assert kept["SURE"] is None or min(found["probes"]) <= kept["SURE"] <= max(found["probes"])
    assert all(value is None or 0 < value < 2 for value in kept.values())
    t = handoff.SCHEDULE.t_at_sigma(0.3)
    for kind, name in (("calibrated", "calibrated"), ("renoise", "renoised")):
        draw = compute.generator(0, "sample")
        start = hybrid.hand_off(last.x0_hat, handoff.SCHEDULE, t, kind, draw)
        *_, out = ddpm.sample(priors.load(x_true), handoff.SCHEDULE, start, t, estimates.SAMPLE, draw, m)
        assert found[name] == [pytest.approx(metrics.psnr(out.x0_hat, x_true), abs=0.01)]


def test_independent_errors_tell_how_far_their_mean_is_off() -> None:
    for n in (2, 3, 5):
        errors = 0.3 * torch.randn(n, 3, 64, 64, generator=compute.generator(n, "e"))
        # s² of n draws has a relative deviation of √(2/(n − 1)), over 3 · 64² pixels
        slack = 5 * math.sqrt(2 / (n - 1) / errors[0].numel()) / 2
        assert estimates.of_disagreement(errors + 0.5) == pytest.approx(0.3 / math.sqrt(n), rel=slack)


def test_the_denoisers_residual_settles_where_the_oracles_does() -> None:
    """D(x) = P/(P + σ²) x of white images takes off σ²/(P + σ²) of noise s: σ² − sσ + P = 0, the upper root."""
    power, draw = 0.01, compute.generator(0, "n")
    prior = GaussianPrior(torch.full((32, 32), power, dtype=torch.float64))
    x = 0.3 * torch.randn(1, 3, 32, 32, generator=draw)
    s = float(x.square().mean().sqrt())
    found, last_change = estimates.of_residual(x, prior)
    assert found == pytest.approx((s + math.sqrt(s**2 - 4 * power)) / 2, rel=1e-4)
    assert last_change < 1e-4
    blind = lambda x_t, sigma: 0 * x_t  # noqa: E731 (all of it is noise)
    assert estimates.of_residual(x, blind) == (pytest.approx(s, rel=1e-6), pytest.approx(0, abs=1e-6))


def test_sure_knows_the_error_of_a_linear_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shrinking y by a: the error is (1 − a)² mean x² + a² σ², which Stein's estimate comes to without x."""
    a, sigma = 0.7, 0.4
    shrink = lambda m, config, generator: iter([dip.Fit(9, 0, a * m.y, a * m.y)])  # noqa: E731
    monkeypatch.setattr(dip, "reconstruct", shrink)
    x = images.load("coffee", 64)
    m = operators.measure(operators.Identity(), x, sigma, compute.generator(0, "n"))
    (fit,) = dip.reconstruct(m, estimates.FIT, compute.generator(0, "dip"))
    true = float((fit.x0_hat - x).square().mean())
    # the mean of n squares of noise varies by σ² √(2/n), the divergence by a √(2/n)
    slack = 5 * sigma**2 * (2 / x.numel()) ** 0.5 * (1 + 2 * a + 2 * a * float(x.std()) / sigma)
    for found in estimates.of_sure(m, fit, 0):
        assert abs(found**2 - true) <= slack


def test_sure_is_not_told_of_a_fit_whose_result_is_an_earlier_one(monkeypatch: pytest.MonkeyPatch) -> None:
    fit = replace(DIPConfig.fast(20), filters=(8, 8), skip=4, in_channels=8, runs=2, held_out=0.1)
    monkeypatch.setattr(estimates, "FIT", fit)
    x = images.load("coffee", 32)
    m = operators.measure(operators.Identity(), x, 0.2, compute.generator(0, "n"))
    early, *_, last = dip.reconstruct(m, fit, compute.generator(0, "dip"))
    assert len(estimates.of_sure(m, last, 0)) == estimates.PROBES
    assert estimates.of_sure(m, replace(last, x0_hat=early.x0_hat), 0) == []


def test_the_record_of_estimates_is_whole() -> None:
    kept = json.loads((BENCHMARKS / "estimates.json").read_text())
    places = [(row["image"], row["degradation"], row["seed"]) for row in kept["rows"]]
    assert len(places) == len(set(places))
    assert {place[:2] for place in places} == set(itertools.product(priors.EVALUATION, operators.TASKS))
    assert kept["sigmas"] == list(estimates.SIGMAS)
    for row in kept["rows"]:
        assert set(row["estimates"]) == set(estimates.KINDS)
        assert len(row["calibrated"]) == len(row["renoised"]) == len(kept["sigmas"])
        assert row["estimates"]["SURE"] is None or row["degradation"].startswith("denoise")
        assert row["rmse"] == pytest.approx(metrics.rmse_of(row["psnr"]), rel=1e-3)


# ---- large holes, by other networks


def test_a_row_of_holes_hands_over_what_estimates_its_error_where_a_prior_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIPDDPM_STORE", str(tmp_path))
    tiny = DIPConfig(filters=(8, 8), skip=4, in_channels=8, iterations=4, warmup=2, runs=2)
    blind = replace(tiny, stop="none", held_out=0.0)
    monkeypatch.setattr(holes, "NETWORKS", {"ours": tiny, "theirs": blind, holes.TWO: replace(tiny, stop="none")})
    monkeypatch.setattr(holes, "SIZE", 32)
    scored, not_scored = (holes.row(image, "holes", 0) for image in ("coffee", "ihc"))
    given = {name: "handed over" in of for name, of in scored["networks"].items()}
    assert given == {"ours": True, "theirs": False, holes.TWO: True}
    assert scored["classical"]["handed over"] != scored["classical"]["psnr"]
    cell = Cell("coffee", 32, 0, replace(HybridConfig(), start="dip", dip=tiny), "holes")
    assert scored["networks"]["ours"]["handed over"] == round(experiment.run(cell).psnr, 3)
    assert set(not_scored["networks"]) == {"ours", "theirs"}
    assert all(set(of) == {"psnr", "most", "iterations"} for of in not_scored["networks"].values())
    assert "classical" not in not_scored, "both priors have seen it"


def test_the_record_of_holes_has_every_network_on_every_photograph() -> None:
    kept = json.loads((BENCHMARKS / "holes.json").read_text())
    assert kept["networks"] == list(holes.NETWORKS)
    assert {row["image"] for row in kept["rows"]} == {*priors.EVALUATION, *search.PHOTOGRAPHS}
    for row in kept["rows"]:
        scored = row["image"] in priors.EVALUATION
        assert set(row["networks"]) == {name for name in holes.NETWORKS if scored or name != holes.TWO}
        assert all(of["most"] >= of["psnr"] for of in row["networks"].values())


# ---- DDPM from noise


def test_a_row_from_noise_runs_every_setting_and_hands_the_usual_result_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(from_noise, "STEPS", (2, 4))
    monkeypatch.setattr(from_noise, "SIGMAS", (0.2, 0.4))
    monkeypatch.setattr(play, "FROM_NOISE", replace(play.FROM_NOISE, steps=4))
    for module in (handoff, from_noise):
        monkeypatch.setattr(module, "SIZE", 32)
    noisy, clean = (from_noise.row("coffee", task, 0) for task in ("denoise_50", "inpaint_50"))
    for row, lams in ((noisy, from_noise.LAMBDAS), (clean, (play.FROM_NOISE.lam,))):
        asked = itertools.product((2, 4), from_noise.ZETAS, lams)
        assert [(s["steps"], s["zeta"], s["lam"]) for s in row["after"]] == list(asked)
        usual = [s["psnr"] for s in row["after"] if (s["steps"], s["zeta"], s["lam"]) == (4, 1.0, play.FROM_NOISE.lam)]
        assert usual == [row["usual"]], "the same noise, the same result"
        assert len(set(row["handed over"]) - {row["usual"]}) == 2


def test_a_row_of_longer_fits_is_what_each_limit_comes_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPDDPM_STORE", str(tmp_path))
    monkeypatch.setattr(longer, "SIZE", 32)
    monkeypatch.setattr(longer, "LIMITS", (8, 24))
    row = longer.row("coffee", "inpaint_50", 0)
    assert set(row) == {"image", "degradation", "seed", "DIP, 8", "DIP, 24", "DIP+DDPM", "DIP+DDPM, whole fit"}
    cell = Cell("coffee", 32, 0, DIPConfig.fast(24), "inpaint_50")
    alone = experiment.run(cell)
    assert row["DIP, 24"]["psnr"] == round(alone.psnr, 3)
    assert row["DIP, 8"]["iterations"] == 8
    assert row["DIP, 24"]["psnr"] > row["DIP, 8"]["psnr"]
    handed_over = replace(HybridConfig(), start="dip", dip=DIPConfig.fast(24))
    assert row["DIP+DDPM, whole fit"]["psnr"] == round(experiment.run(replace(cell, config=handed_over)).psnr, 3)


@pytest.mark.parametrize(
    ("limits", "stops", "fits"),
    [
        ((450, 1500), 300.0, [1500]),
        ((450, 1500), 500.0, [1500, 450]),
        ((450, 1500), 450.0, [1500]),
        ((12, 24), 10.0, [24, 12]),  # so short a fit warms up otherwise, and is another one
    ],
)
def test_a_fit_that_stops_by_itself_is_not_fitted_again(
    limits: tuple[int, int], stops: float, fits: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def stopping(cell: Cell) -> SimpleNamespace:
        iterations = stops
        if isinstance(cell.config, DIPConfig):
            asked.append(cell.config.iterations)
            iterations = min(stops, cell.config.iterations)
        return SimpleNamespace(psnr=20.0, ssim=0.5, total_seconds=1.0, extra={"iterations": iterations})

    monkeypatch.setattr(longer, "LIMITS", limits)
    monkeypatch.setattr(experiment, "run", stopping)
    row = longer.row("coffee", "inpaint_50", 0)
    assert asked == fits
    assert [row[f"DIP, {limit}"]["iterations"] for limit in limits] == [min(stops, limit) for limit in limits]


def test_a_fit_that_stops_by_itself_knows_nothing_of_its_limit() -> None:
    """What the record of longer fits rests on: below its limit a fit is the same to the bit."""
    x = images.load("coffee", 32)
    m = operators.measure(operators.Identity(), x, 0.4, compute.generator(0, "measure"))
    fits = []
    for limit in (200, 260):
        config = replace(DIPConfig.fast(400), iterations=limit, warmup=4, patience=1)
        *_, last = dip.reconstruct(m, config, compute.generator(0, "dip"))
        fits.append(last)
    assert fits[0].index == fits[1].index < 199
    assert torch.equal(fits[0].x0_hat, fits[1].x0_hat)


def test_the_record_of_longer_fits_holds_the_nine_tasks_and_what_the_paper_run_takes() -> None:
    kept = json.loads((BENCHMARKS / "longer.json").read_text())
    ran = {(row["image"], row["degradation"], row["seed"]) for row in kept["rows"]}
    assert ran == {(image, task, 0) for image in priors.EVALUATION for task in operators.TASKS}
    assert tuple(kept["limits"]) == longer.LIMITS
    for row in kept["rows"]:
        few, many = (row[f"DIP, {limit}"] for limit in longer.LIMITS)
        assert few["iterations"] <= longer.LIMITS[0]
        assert many["iterations"] <= longer.LIMITS[1]
        assert few["iterations"] == min(many["iterations"], longer.LIMITS[0])
        assert row.keys() >= {"DIP+DDPM", "DIP+DDPM, whole fit"}
    paper = yaml.safe_load((ROOT / "notebooks" / "presets" / "paper.yaml").read_text())
    assert paper["07_restoration"]["iterations"] == longer.LIMITS[1]


# ---- photographs that chose nothing


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As if they were fetched: two photographs somewhere in them."""
    monkeypatch.setattr(fresh, "PACKAGES", {"wallpapers": "one.png two.png"})
    for name in ("one", "two"):
        path = tmp_path / "packages" / "wallpapers" / "usr" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw = torch.Generator().manual_seed(len(name) + ord(name[0]))
        images.save(torch.rand(1, 3, 48, 40, generator=draw) * 2 - 1, path)
    return tmp_path / "packages"


def test_a_record_of_fresh_photographs_is_what_each_method_comes_to(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DIPDDPM_STORE", str(tmp_path / "store"))
    tiny = DIPConfig(filters=(8, 8), skip=4, in_channels=8, iterations=4, warmup=2, runs=2)
    short = replace(HybridConfig(), start="dip", dip=tiny)
    monkeypatch.setattr(fresh, "SIZE", 32)
    monkeypatch.setattr(fresh, "LEVELS", (0.4,))
    monkeypatch.setattr(fresh, "FROM_DIP", short)
    monkeypatch.setattr(play, "FROM_NOISE", replace(play.FROM_NOISE, steps=3))
    monkeypatch.setattr(fresh, "METHODS", {"classical": ClassicalConfig(), "DIP": tiny, "DIP+DDPM": short})
    output = tmp_path / "fresh.json"
    asked = ["fresh", "--tasks", "denoise_50,inpaint_90", "--photographs", str(packages), "--output", str(output)]
    monkeypatch.setattr(sys, "argv", asked)
    fresh.main()
    kept = json.loads(output.read_text())
    assert str(tmp_path) not in output.read_text(), "no place of this machine"
    assert [(row["image"], row["degradation"]) for row in kept["rows"]] == [
        (image, task) for image in ("one", "two") for task in ("denoise_50", "inpaint_90")
    ]
    for row in kept["rows"]:
        assert list(row["methods"]) == [*fresh.METHODS, "DDPM, handed over at 0.4"]
    one = packages / "wallpapers" / "usr" / "one.png"
    alone = experiment.run(Cell(str(one), 32, 0, tiny, "inpaint_90"))
    assert kept["rows"][1]["methods"]["DIP"]["psnr"] == round(alone.psnr, 3)
    # under white noise there is one hand-off, elsewhere more: of DDPM's result as many as of DIP's
    calls = [row["methods"]["DDPM, handed over at 0.4"]["evaluations"] for row in kept["rows"][:2]]
    assert calls == [3 + short.sample.steps, 3 + short.calls]


def test_a_package_without_its_photographs_is_refused_by_their_names(
    packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fresh, "PACKAGES", {"wallpapers": "one.png three.png"})
    with pytest.raises(InputError, match=r"three\.png not in the packages"):
        fresh.fetch(packages)


def test_the_fresh_photographs_have_taken_part_in_nothing() -> None:
    """None of the packages is one of those that the priors, the searches or the figures draw on."""
    assert not fresh.PACKAGES.keys() & {*train_priors.PACKAGES, "gcompris-qt-data"}
    names = {Path(name).stem for names in fresh.PACKAGES.values() for name in names.split()}
    assert not names & {*images.photographs(), *search.PHOTOGRAPHS, *priors.EVALUATION}


def test_the_record_of_fresh_photographs_holds_every_method_in_the_nine_tasks() -> None:
    kept = json.loads((BENCHMARKS / "fresh.json").read_text())
    names = [Path(name).stem for names in fresh.PACKAGES.values() for name in names.split()]
    ran = {(row["image"], row["degradation"], row["seed"]) for row in kept["rows"]}
    assert ran == {(name, task, 0) for name in names for task in operators.TASKS}
    assert kept["packages"] == {package: names.split() for package, names in fresh.PACKAGES.items()}
    assert kept["iterations"] == fresh.FIT.iterations
    handed = [f"DDPM, handed over at {sigma:g}" for sigma in fresh.LEVELS]
    assert all(list(row["methods"]) == [*fresh.METHODS, *handed] for row in kept["rows"])
    paper = yaml.safe_load((ROOT / "notebooks" / "presets" / "paper.yaml").read_text())["07_restoration"]
    assert (kept["size"], kept["iterations"]) == (paper["size"], paper["iterations"])
    assert {*paper["ddpm_steps"], HybridConfig().calls} == {*fresh.DDPM_STEPS}
    assert paper["levels"] == [*fresh.LEVELS]


def test_the_readme_tells_what_the_records_hold() -> None:
    """Longer fits and averaged samples stand in prose there: its numbers are computed here, as Appendix C has them."""
    told = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())

    def over_images(values: dict[tuple[str, str], float]) -> str:
        by_image = {name: [v for (image, _), v in values.items() if image == name] for name, _ in values}
        return format(evidence.interval(sum(v) / len(v) for _, v in sorted(by_image.items())), "+.2f").replace("-", "−")

    rows = {
        name: {
            (row["image"], row["degradation"]): row
            for row in json.loads((BENCHMARKS / f"{name}.json").read_text())["rows"]
        }
        for name in ("longer", "averages")
    }

    def apart(a: str, b: str) -> dict[tuple[str, str], float]:
        return {where: row[a]["psnr"] - row[b]["psnr"] for where, row in rows["longer"].items()}

    worth = over_images(apart("DIP+DDPM, whole fit", "DIP+DDPM")).split()[0].lstrip("+")
    assert f"ended {worth} dB above the usual short one" in told
    rival = {
        where: max(m["psnr"] for m in row["means"] if m["samples"] == averages.SAMPLES[m["steps"]])
        for where, row in rows["averages"].items()
    }
    for name, said in (("DIP+DDPM", "from DIP is then at {} dB to it"), ("start chosen", "start chosen at {} dB")):
        lead = {where: row[name]["psnr"] - rival[where] for where, row in rows["averages"].items()}
        assert said.format(over_images(lead)) in told


def test_the_means_of_samples_are_means_of_different_samples(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DIPDDPM_STORE", str(tmp_path))
    monkeypatch.setattr(averages, "SAMPLES", {2: 4, 3: 2})
    others = {"DIP": DIPConfig.fast(4), "DIP+DDPM": replace(HybridConfig(), dip=DIPConfig.fast(4), start="dip")}
    monkeypatch.setattr(averages, "OTHERS", others)
    for module in (handoff, averages):
        monkeypatch.setattr(module, "SIZE", 32)
    drawn: list[Tensor] = []
    asked: list[tuple[int, float, bool]] = []
    sample = ddpm.sample

    def kept(denoiser: Any, schedule: Any, x_T: Tensor, t: int, config: Any, draw: Any, m: Any) -> Any:
        asked.append((config.steps, config.zeta, m is None))
        *_, last = sample(denoiser, schedule, x_T, t, config, draw, m)
        drawn.append(last.x0_hat)
        yield last

    monkeypatch.setattr(ddpm, "sample", kept)
    row = averages.row("coffee", "inpaint_50", 0)
    assert [(m["steps"], m["samples"]) for m in row["means"]] == [(2, 1), (2, 2), (2, 4), (3, 1), (3, 2)]
    assert asked == [(2, play.FROM_NOISE.zeta, False)] * 4 + [(3, play.FROM_NOISE.zeta, False)] * 2
    assert len({float(x.sum()) for x in drawn}) == 6, "two of the samples are one"
    target = images.load("coffee", 32)
    expected = [torch.cat(drawn[a:b]).mean(0, keepdim=True) for a, b in ((0, 1), (0, 2), (0, 4), (4, 5), (4, 6))]
    assert [m["psnr"] for m in row["means"]] == [round(metrics.psnr(x, target), 3) for x in expected]
    own = {name: experiment.run(Cell("coffee", 32, 0, config, "inpaint_50")) for name, config in others.items()}
    assert all(row[name]["psnr"] == round(result.psnr, 3) for name, result in own.items())
    x = own["DIP"].x0_hat
    assert row["DIP"]["ssim"] == round(metrics.ssim(x, target), 4)
    assert row["DIP"]["swd"] == round(distribution.patch_swd(x, target, compute.generator(0, "swd")), 4)
    assert row["DIP"]["spectrum"] == round(distribution.spectral_distance(x, target), 2)
    both = [(x + own["DIP+DDPM"].x0_hat) / 2 for x in expected]
    assert [m["both"]["psnr"] for m in row["means"]] == [round(metrics.psnr(x, target), 3) for x in both]


def test_the_record_of_means_holds_the_nine_tasks_and_a_mean_is_nearer_than_a_sample() -> None:
    kept = json.loads((BENCHMARKS / "averages.json").read_text())
    ran = {(row["image"], row["degradation"], row["seed"]) for row in kept["rows"]}
    assert ran == {(image, task, 0) for image in priors.EVALUATION for task in operators.TASKS}
    assert kept["samples"] == [list(pair) for pair in averages.SAMPLES.items()]
    assert kept["limit"] == averages.LIMIT
    assert kept["chain"] == asdict(play.FROM_NOISE), "the record is of other chains: run benchmarks/averages.py"
    for steps, most in averages.SAMPLES.items():
        gains = []
        for row in kept["rows"]:
            assert set(row) >= set(averages.OTHERS)
            psnr = {(m["steps"], m["samples"]): m["psnr"] for m in row["means"]}
            gains.append(psnr[steps, most] - psnr[steps, 1])
        assert evidence.interval(gains).low > 0


def test_ddpm_from_noise_takes_what_its_record_prefers() -> None:
    """λ and ζ of `play.FROM_NOISE`, each run with its best number of steps, as in 07_restoration."""
    kept = json.loads((BENCHMARKS / "from_noise.json").read_text())
    ran = {(row["image"], row["degradation"], row["seed"]) for row in kept["rows"]}
    assert ran == {(image, task, 0) for image in priors.EVALUATION for task in operators.TASKS}
    noisy = [row for row in kept["rows"] if len({s["lam"] for s in row["after"]}) > 1]
    assert {row["degradation"] for row in noisy} == {"denoise_25", "denoise_50", "deblur"}

    def mean(rows: list[dict[str, Any]], **setting: float) -> float:
        """Over runs, each at its best number of steps."""
        own = [[s["psnr"] for s in row["after"] if setting.items() <= s.items()] for row in rows]
        return sum(map(max, own)) / len(own)

    assert max(from_noise.LAMBDAS, key=lambda lam: mean(noisy, zeta=1.0, lam=lam)) == play.FROM_NOISE.lam
    assert max(from_noise.ZETAS, key=lambda zeta: mean(kept["rows"], zeta=zeta)) == play.FROM_NOISE.zeta


# ---- a relative


def test_self_diffusion_learns_the_image_from_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relatives, "LEVELS", 6)
    monkeypatch.setattr(relatives, "FIT", 25)
    x_true = images.load("coffee", 32)
    m = operators.measure(operators.Identity(), x_true, 0.0, compute.generator(0, "measure"))
    first, again = (relatives.self_diffusion(m, compute.generator(0, "self-diffusion")) for _ in range(2))
    assert torch.equal(first, again), "the same draws, the same image"
    assert metrics.psnr(first, x_true) > 20
    other = relatives.self_diffusion(m, compute.generator(1, "self-diffusion"))
    assert not torch.equal(first, other)


def test_the_record_of_relatives_holds_the_nine_tasks() -> None:
    kept = json.loads((BENCHMARKS / "relatives.json").read_text())
    ran = {(row["image"], row["degradation"], row["seed"]) for row in kept["rows"]}
    assert ran == {(image, task, 0) for image in priors.EVALUATION for task in operators.TASKS}
    assert kept["levels"] * kept["fit"] == relatives.DIP.iterations * relatives.DIP.runs


# ---- dead leaves


def test_mixtures_hold_the_shares_that_they_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaves, "LEAVES", 10)
    for name, (which, share) in leaves.MIXTURES.items():
        found = leaves.training_images(1, name, compute.generator(0, "leaves"))
        from_leaves = sum(x.shape[-2:] == (128, 128) for x in found)  # no photograph has this shape at these scales
        assert from_leaves / len(found) == pytest.approx(share, abs=0.01), name
        if which == "none":
            drawn = torch.rand(1, 3, 64, 64, generator=compute.generator(0, "leaves")) * 2 - 1
            colours, palette = ({tuple(c) for c in x.flatten(2)[0].T.tolist()} for x in (found[0], drawn))
            assert colours <= palette, "no photograph's colours"
    assert not set(leaves.FEW) & set(priors.EVALUATION), "what is scored trains nothing"


def test_a_row_of_leaves_scores_what_the_fold_has_not_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leaves, "SIZE", 32)
    monkeypatch.setattr(leaves, "LEAVES", 2)
    monkeypatch.setattr(leaves, "TRAINING", replace(leaves.TRAINING, channels=(8,), steps=30, batch=2, crop=16))
    row = leaves.row(2, "leaves in any colours", 0)
    assert row == leaves.row(2, "leaves in any colours", 0), "the same draws, the same row"
    assert set(row["psnr"]) == set(priors.HELD_OUT[2])
    assert all(list(scores) == [str(level) for level in leaves.LEVELS] for scores in row["psnr"].values())


def test_the_record_of_leaves_is_whole() -> None:
    kept = json.loads((BENCHMARKS / "leaves.json").read_text())
    ran = {(row["mixture"], row["fold"], row["seed"]) for row in kept["rows"]}
    seeds = {row["seed"] for row in kept["rows"]}
    assert ran == {(mixture, fold, seed) for mixture in leaves.MIXTURES for fold in (1, 2) for seed in seeds}
    assert len(ran) == len(kept["rows"])
    assert kept["training"] == json.loads(json.dumps(asdict(leaves.TRAINING)))
    for row in kept["rows"]:
        for scores in row["psnr"].values():
            assert sorted(scores.values(), reverse=True) == [scores[str(level)] for level in leaves.LEVELS]


# ---- other couplings


def test_the_record_of_the_couplings_holds_the_nine_tasks() -> None:
    kept = json.loads((BENCHMARKS / "couplings.json").read_text())
    ran = {(row["image"], row["degradation"], row["seed"]) for row in kept["rows"]}
    assert len(ran) == len(kept["rows"])
    assert {(image, task, 0) for image in priors.EVALUATION for task in operators.TASKS} <= ran
    ways = [tuple(row["after"]) for row in kept["rows"]]
    assert set(ways) == {ways[0]}
    assert all(math.isfinite(psnr) for row in kept["rows"] for psnr in row["after"].values())


def test_a_fit_that_goes_on_with_a_second_target_comes_nearer_to_it() -> None:
    x = images.load("coffee", 32)
    m = operators.measure(operators.Identity(), x, 0.1, compute.generator(0, "measure"))
    anchor = torch.zeros_like(x)
    config = replace(DIPConfig.fast(20), runs=2, stop="none")
    fit = dip.reconstruct(m, config, compute.generator(0, "dip"))
    *_, _ = fit
    further = {}
    for name, kind in {"plain": dip.Fitting, "anchored": couplings.Anchored}.items():
        again = kind(m, replace(config, iterations=40), compute.generator(0, "dip"))
        again.restore(fit.state())
        again.anchor = anchor  # type: ignore[attr-defined]
        *_, end = again
        further[name] = float((end.x_t - anchor).square().mean())
    assert further["anchored"] < further["plain"]
    outputs = torch.rand(2, *x.shape[1:], generator=compute.generator(0, "outputs"))
    assert isinstance(again, couplings.Anchored)
    alone = sum(again._loss(output[None]) for output in outputs)
    torch.testing.assert_close(again._loss(outputs), alone, rtol=1e-5, atol=0)  # both terms of each network
