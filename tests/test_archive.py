"""The file of a report's runs says what the store says; a damaged one is one line, another library's is not read."""

from __future__ import annotations

import json
import lzma
import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lxml.html
import pandas as pd
import pytest
import torch

from dipddpm_lib import archive, claims, evidence, images, store
from dipddpm_lib.archive import Archive
from dipddpm_lib.cells import Cell
from dipddpm_lib.classical import ClassicalConfig
from dipddpm_lib.evidence import collected, note, noted, publish
from dipddpm_lib.experiment import sweep
from dipddpm_lib.types import InputError
from grids import DIP, SAMPLE, cell

REPORT = Path(__file__).resolve().parents[1] / "report"
CELLS = [cell(ClassicalConfig(), seed=s, task="super_x4") for s in range(3)] + [cell(DIP), cell(SAMPLE, label="a few")]


@pytest.fixture
def published(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A report of five runs and two numbers, of which the file is left and the store is gone."""
    path = tmp_path / archive.NAME
    monkeypatch.setenv(evidence.REPORT, "1")
    sweep(CELLS, name="five")
    note("five", mean=1.25, low=-0.5)
    assert publish(path, lambda name, first, c: name == "five" and c == first) == 5
    collected("five").frame().to_pickle(tmp_path / "frame")
    torch.save(collected("five")[0][1].x0_hat, tmp_path / "image")
    shutil.rmtree(root)
    monkeypatch.setenv(archive.FILE, str(path))
    return path


def test_a_fresh_store_has_the_reports_runs(published: Path, tmp_path: Path) -> None:
    runs = collected("five")
    assert [c for c, _ in runs] == CELLS
    pd.testing.assert_frame_equal(runs.frame(), pd.read_pickle(tmp_path / "frame"))
    assert noted("five") == {"mean": 1.25, "low": -0.5}
    assert len(collected("six")) == 0
    assert noted("six") == {}


def test_by_hand_too(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(evidence.REPORT)
    assert len(collected("five", pictures=False)) == 5
    note("five", mean=2.0)
    assert noted("five") == {"mean": 2.0}


def test_the_pictures_that_were_asked_for_are_there_to_8_bits(published: Path, tmp_path: Path) -> None:
    (_, first), *others = collected("five")
    whole = torch.load(tmp_path / "image")
    assert torch.equal(images.to_uint8(first.x0_hat), images.to_uint8(whole))
    assert first.x0_hat.shape == whole.shape
    assert all(r.x0_hat.shape[0] == 0 and r.frames.shape[0] == 0 for _, r in others)


def test_what_was_run_here_comes_first(published: Path) -> None:
    sweep(CELLS[:1], name="five")
    assert len(collected("five")) == 1
    assert noted("five") == {"mean": 1.25, "low": -0.5}, "of which this store has nothing"


def test_a_part_that_was_not_run_here_is_kept(published: Path) -> None:
    sweep(CELLS[3:4], name="one")
    note("five", mean=3.0)
    publish(published, lambda name, first, c: name == "five" and c == first)
    found = archive.read(published)
    assert sorted(found.lists) == ["report.five", "report.five.numbers", "report.one"]
    assert (len(found.records), len(found.pictures)) == (5, 1), "one run is in both lists"
    assert found.lists["report.five.numbers"]["numbers"] == {"mean": 3.0}


def test_another_librarys_results_are_not_this_ones(published: Path) -> None:
    found = archive.read(published)
    lists = {name: {**kept, "source": "f" * 64} for name, kept in found.lists.items()}
    archive.write(published, replace(found, source="f" * 64, lists=lists))
    assert len(collected("five")) == 0
    assert noted("five") == {}
    note("new", a=1.0)
    publish(published)
    assert sorted(archive.read(published).lists) == ["report.new.numbers"]


def test_what_is_run_by_hand_is_not_published(root: Path, tmp_path: Path) -> None:
    sweep(CELLS[:1], name="mine")
    assert publish(tmp_path / archive.NAME) == 0
    assert not (tmp_path / archive.NAME).exists(), "nothing to say is no file"


def test_the_same_content_is_the_same_bytes(published: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    archive.write(again, archive.read(published))
    assert again.read_bytes() == published.read_bytes()


def test_a_trace_ends_with_the_results_own_numbers() -> None:
    trace = [[0, 0.123456, 10.123456, 0.1234567], [7, 1.23456789, 20.123456789, 0.987654321]]
    kept = archive.compact({"seed": 1, "trace": trace})
    assert kept == {"seed": 1, "trace": [[0, 0.1235, 10.123, 0.1235], trace[1]]}


def damaged(path: Path) -> dict[str, Callable[[], Any]]:
    def packed(content: Any) -> Callable[[], Any]:
        return lambda: path.write_bytes(lzma.compress(json.dumps(content).encode()))

    whole = {"source": "", "lists": {}, "records": {}, "pictures": {}}
    return {
        "cut off": lambda: path.write_bytes(path.read_bytes()[:-40]),
        "no xz": lambda: path.write_text("{}"),
        "no JSON": lambda: path.write_bytes(lzma.compress(b"{")),
        "a list": packed([]),
        "a part that is missing": packed({"source": ""}),
        "a part of another kind": packed({**whole, "records": []}),
        "deep": lambda: path.write_bytes(lzma.compress(b"[" * 10**5)),
    }


@pytest.mark.parametrize("how", damaged(Path()))
def test_a_damaged_file_is_one_line(published: Path, how: str) -> None:
    damaged(published)[how]()
    os.utime(published, ns=(1, 1))  # a clock may stand still between two writes
    with pytest.raises(InputError, match=r"^results: results\.json\.xz is damaged .* DIPDDPM_RESULTS= .*$"):
        collected("five")


def test_a_store_that_has_it_all_asks_for_no_file(published: Path) -> None:
    sweep(CELLS[:1], name="five")
    note("five", mean=3.0)
    published.write_bytes(b"no xz")
    assert len(collected("five")) == 1
    assert noted("five") == {"mean": 3.0}


def test_a_damaged_file_costs_no_build(published: Path, capsys: pytest.CaptureFixture[str]) -> None:
    note("new", a=1.0)
    published.write_bytes(b"no xz")
    assert publish(published) == 0
    assert "is damaged" in capsys.readouterr().err
    assert sorted(archive.read(published).lists) == ["report.new.numbers"]


def test_an_older_list_in_the_store_takes_nothing_from_the_file(published: Path) -> None:
    store.write_list("report.five", {"source": "0" * 64, "entries": []})
    store.write_list("report.odd", [1])
    note("new", a=1.0)
    assert publish(published) == 5
    assert sorted(archive.read(published).lists) == ["report.five", "report.five.numbers", "report.new.numbers"]


def test_a_spread_of_one_value_is_null_and_comes_back(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(evidence.REPORT, "1")
    note("one", mean=1.0, low=math.nan)
    publish(tmp_path / archive.NAME)
    assert b"NaN" not in lzma.decompress((tmp_path / archive.NAME).read_bytes())
    shutil.rmtree(root)
    monkeypatch.setenv(archive.FILE, str(tmp_path / archive.NAME))
    assert math.isnan(noted("one")["low"])


def test_of_ones_own_photograph_neither_place_nor_picture_is_published(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "secret" / "face.png"
    own.parent.mkdir()
    images.save(images.load("coffee", 40), own)
    monkeypatch.setenv(evidence.REPORT, "1")
    sweep([cell(ClassicalConfig(), image=str(own), task="super_x4")], name="mine")
    assert publish(tmp_path / archive.NAME, lambda name, first, c: True) == 1
    text = lzma.decompress((tmp_path / archive.NAME).read_bytes()).decode()
    assert "face.png" in text
    assert "secret" not in text
    assert archive.read(tmp_path / archive.NAME).pictures == {}


@pytest.mark.parametrize("what", ["bm90IGEgcG5n", "?"])
def test_a_damaged_picture_is_one_line(published: Path, what: Any) -> None:
    found = archive.read(published)
    archive.write(published, replace(found, pictures=dict.fromkeys(found.pictures, what)))
    with pytest.raises(InputError, match=r"^results: a picture of the file is damaged"):
        collected("five")


def test_nothing_is_written_through_a_link(published: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    target.write_text("mine")
    found = archive.read(published)
    published.unlink()
    published.symlink_to(target)
    archive.write(published, found)
    assert target.read_text() == "mine"
    assert not published.is_symlink()


def test_a_file_that_unpacks_without_end_is_refused(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "LARGEST", 1000)
    archive._read.cache_clear()
    with pytest.raises(InputError, match="more than 1,000 bytes"):
        archive.read(published)


def test_without_a_file_there_is_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert archive.read() == Archive(), "as the tests ask for"
    assert archive.read(tmp_path / "none") == Archive()
    monkeypatch.delenv(archive.FILE)
    assert archive.place() == REPORT / archive.NAME


# ---- the committed report's


@pytest.fixture
def committed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(archive.FILE)
    monkeypatch.setenv(evidence.REPORT, "1")


def test_the_committed_file_holds_what_the_page_tells(committed: None) -> None:
    """Means over its runs are those of the committed notebook's table, and its ledger the committed one."""
    skip_where_the_library_has_changed()
    frame = collected("restoration", pictures=False).frame()
    columns = ["psnr", "ssim", "seconds_fit", "seconds_sample", "seconds", "evaluations"]
    means = frame.groupby(["label", "task"])[columns].mean().groupby("label").mean()
    told = text_of("07_restoration")
    for label in ("DIP", "DDPM, 24", "DIP+DDPM", "start chosen", "classical"):
        psnr, ssim, *seconds, calls = means.loc[label]
        row = [f"{psnr:.2f}", f"{ssim:.3f}", *(f"{s:.2f}" for s in seconds), f"{calls:.0f}"]
        assert f"{label} {' '.join(row)}" in told
    ledger = claims.ledger()
    assert "not measured" not in set(ledger.verdict)
    conclusion = text_of("08_conclusion")
    assert all(" ".join(numbers.split()) in conclusion for numbers in ledger.numbers)


def skip_where_the_library_has_changed() -> None:
    assert archive.NAME in (REPORT / "index.html").read_text(encoding="utf-8"), "the page links the file"
    found = archive.read()
    assert found.source, "and there it is"
    if found.source != store.source_digest():
        pytest.skip("the report was computed by an earlier library")


def text_of(stem: str) -> str:
    """The words of what a committed notebook shows."""
    notebook = json.loads((REPORT / "notebooks" / f"{stem}.ipynb").read_text(encoding="utf-8"))
    shown = [
        "".join(part)
        for c in notebook["cells"]
        for output in c.get("outputs", [])
        for kind, part in output.get("data", {}).items()
        if kind in ("text/html", "text/markdown")
    ]
    page = lxml.html.fromstring(f"<div>{' '.join(shown)}</div>")
    return " ".join(" ".join(page.itertext()).split())


def test_the_conclusions_picture_can_be_made_of_it(committed: None) -> None:
    skip_where_the_library_has_changed()
    first: Cell = collected("restoration", pictures=False)[0][0]
    shown = collected("restoration").only(task=claims.SHOWN_TASK, seed=0, image=first.image)
    assert {"DIP", "DIP+DDPM"} <= {c.label for c, _ in shown}
    assert all(r.x0_hat.shape == (1, 3, first.size, first.size) for _, r in shown)
