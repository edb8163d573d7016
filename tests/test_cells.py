"""A cell is named by all that its result depends on, and refused before it is computed."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dipddpm_lib import cells, compute, images, priors, store
from dipddpm_lib.cells import Cell, Config
from dipddpm_lib.classical import ClassicalConfig
from dipddpm_lib.ddpm import SampleConfig
from dipddpm_lib.dip import DIPConfig
from dipddpm_lib.hybrid import HybridConfig
from dipddpm_lib.types import InputError
from grids import CELLS, DIP, HYBRID, SAMPLE, TRAINING, cell, key

pytestmark = pytest.mark.usefixtures("root")


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


def test_labels_and_names_change_no_key(tmp_path: Path) -> None:
    from skimage import data

    path = tmp_path / "mine.png"
    shutil.copy(Path(data.__file__).parent / "coffee.png", path)
    for config in (DIP, SAMPLE):
        asked = cell(config)
        assert key(replace(asked, label="another")) == key(asked)
        assert key(replace(asked, image=str(path))) == key(asked)
        assert key(replace(asked, image="rocket")) != key(asked)


def test_a_file_is_read_once_for_all_cells_and_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, read = tmp_path / "mine.png", []
    images.save(images.load("coffee", 48), path)
    real = images.load
    monkeypatch.setattr(images, "load", lambda *asked: read.append(asked) or real(*asked))
    one, two = (replace(cell(config), image=str(path)) for config in (DIP, SAMPLE))
    first = one.x_true()
    first.zero_()  # nobody else's
    assert torch.equal(two.x_true(), real(path, two.size))
    assert len(read) == 1
    images.save(real("rocket", 48), path)
    os.utime(path, (1, 1))
    assert torch.equal(two.x_true(), real(path, two.size))
    assert len(read) == 2


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
    monkeypatch.setattr(priors, "weights_digest", lambda fold: "retrained")
    assert key(asked) != before


def test_which_prior_has_not_seen_an_image_is_searched_once(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    searched: list[str] = []
    search = priors.fold_for
    monkeypatch.setattr(priors, "fold_for", lambda image: (searched.append(images.digest(image)), search(image))[1])
    target, seen = images.load("rocket", 64), images.load("camera", 64)
    expected = search(target)

    def as_another_process() -> None:
        monkeypatch.setattr(cells, "_FOLDS", {})

    as_another_process()
    Cell("rocket", 64, 0, SAMPLE).check()
    assert cells.unseen_fold(target) == expected
    assert len(searched) == 1
    assert not root.exists(), "a check keeps nothing"
    Cell("rocket", 64, 0, SAMPLE).parameters(target)
    as_another_process()
    threads = replace(compute.default(), threads=compute.default().threads + 1)
    monkeypatch.setattr(compute, "default", lambda: threads)
    assert cells.unseen_fold(target) == expected
    assert len(searched) == 1, "named results keep it, for any number of threads"
    for n in (2, 3):
        with pytest.raises(InputError, match="trained on this image"):
            cells.unseen_fold(seen)
        assert len(searched) == n, "a refusal is not kept"
    monkeypatch.setattr(priors, "weights_digest", lambda fold: f"other weights {fold}")
    assert cells.unseen_fold(target) == expected
    assert len(searched) == 4, "other weights have seen something else"


@pytest.mark.parametrize("record", [{}, {"fold": 3}, {"fold": "1"}, {"fold": [1]}])
def test_a_fold_of_another_form_is_searched_anew(record: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cells, "_FOLDS", {})
    monkeypatch.setattr(store, "get", lambda name: (record, {}))
    monkeypatch.setattr(priors, "fold_for", lambda image: 2)
    assert cells.unseen_fold(images.load("coffee", 32)) == 2


def test_a_store_that_cannot_be_written_still_tells_the_prior(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root.write_text("no folder")
    monkeypatch.setattr(cells, "_FOLDS", {})
    target = images.load("coffee", 32)
    assert cells.unseen_fold(target, keep=True) == priors.fold_for(target)


def test_dip_alone_may_see_any_photograph() -> None:
    for config in (DIP, ClassicalConfig()):
        cell(config, image="camera", prior="bundled", task="inpaint_50").check()
    cell(SAMPLE, image="camera").check()  # the single prior is trained on it anyway


@pytest.mark.parametrize(("start", "task"), [("classical", "deblur"), ("measurement", "inpaint_50")])
def test_a_start_of_unknown_error_is_refused_before_the_sweep(start: str, task: str) -> None:
    config = replace(HYBRID, start=start)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=f"no error estimate for a {start} start .*; give t_start"):
        Cell("coffee", 32, 0, config, task).check()
    Cell("coffee", 32, 0, replace(config, t_start=5), task).check()


def test_cells_are_json_and_back() -> None:
    for make in CELLS.values():
        asked = make()
        assert asked.plain() == {"cell": asdict(asked), "config": type(asked.config).__name__}, "as old stores hold it"
        assert Cell.restored(json.loads(json.dumps(asked.plain()))) == asked


def test_the_version_of_scikit_image_counts_where_its_methods_take_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade of it serves nothing that it would compute otherwise, and recomputes nothing else."""
    mine = {"hybrid": cell(HYBRID, task="inpaint_90"), "DIP": cell(DIP, task="inpaint_90")}
    theirs = {start: cell(replace(HYBRID, start=start), task="inpaint_90") for start in ("auto", "classical")}
    theirs["alone"] = cell(ClassicalConfig(), task="inpaint_90")
    before = {name: each.parameters(each.x_true()) for name, each in (mine | theirs).items()}
    monkeypatch.setattr(compute, "versions", lambda: {"scikit-image": "99"})
    changed = {name for name, each in (mine | theirs).items() if each.parameters(each.x_true()) != before[name]}
    assert changed == set(theirs)


def test_the_work_of_a_cell_follows_its_passes() -> None:
    """A hybrid is its fit and its calls; what grows by pixels, iterations or steps takes as much longer."""
    bundled: dict[str, Any] = {"prior": "bundled", "training": None, "task": "inpaint_90"}
    long = replace(DIP, iterations=6000)
    fit, hybrid = cell(long, **bundled), HybridConfig(dip=long)
    started = {start: cell(replace(hybrid, start=start), **bundled).work() for start in ("auto", "dip", "classical")}
    calls = cell(SampleConfig(steps=hybrid.calls), **bundled).work()
    assert started["auto"] == started["dip"] == pytest.approx(fit.work() + calls, rel=0.01)
    assert started["classical"] == calls, "no fit"
    assert cell(replace(hybrid, t_start=9), first=SAMPLE, **bundled).work() < 2 * calls, "started from DDPM's few steps"
    assert replace(fit, size=64).work() == 4 * fit.work()
    assert replace(fit, config=replace(long, runs=2 * long.runs)).work() == pytest.approx(2 * fit.work(), rel=0.01)
    assert cell(SampleConfig(steps=hybrid.calls)).work() < calls, "a smaller prior's calls take less"
    assert 0 < cell(ClassicalConfig(), **bundled).work() < fit.work() / 100


@pytest.mark.parametrize("size", [0, -8])
def test_a_size_that_is_none_is_refused_and_not_divided_by(size: int) -> None:
    with pytest.raises(InputError, match="size: expected"):
        Cell("coffee", size, 0, DIPConfig.fast(5)).check()
