"""What figures and tables were computed from, read off the code."""

# ruff: noqa: E402 (report/ is a folder of scripts, not a package: its path comes before its imports)
from __future__ import annotations

import sys
from pathlib import Path

import nbformat
import pytest
from nbformat import v4

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "report"))

import execution
from provenance import ALL_RUNS, origins

DIP, FREE = frozenset({"the runs called dip"}), frozenset()
RUNS = 'r = sweep(cells, name="dip")'


def of(*cells: str, **parameters: object) -> dict[str, frozenset[str]]:
    return origins(v4.new_notebook(cells=[v4.new_code_cell(cell) for cell in cells]), parameters)


@pytest.mark.parametrize(
    "between",
    [
        "x = r",
        "f = r.frame()\nx = f.psnr.mean()",
        "a, x = 1, r",
        "x, y = halves(r)",
        "x = []\nfor _, one in r:\n    x.append(one)",
        "x = {}\nx['a'] = r",
        "x = 1\nx += r.best()",
        "x = [one for one in r]",
        "def x():\n    return r",
        "x = (lambda one: one + r)(1)",
        "if r:\n    x = r.frame()",
        "x: list = r",
        "x = evidence.collected('dip')",
        "x = evidence.noted('dip')",
        "head, *x = r",
        "try:\n    x = r\nexcept ValueError:\n    pass",
        "if (x := r.frame()).empty:\n    pass",
        "while r.more:\n    x = r",
    ],
)
def test_a_name_holds_what_it_was_made_from(between: str) -> None:
    assert of(RUNS, between, 'show(x, "fig-a", "…")') == {"fig-a": DIP}


@pytest.mark.parametrize(
    "between",
    [
        "x = 1",
        "x = r\nx = 1",  # another value
        "x = [r for r in range(3)]",  # another r
        "def x(r):\n    return r",
        "a, x = r, 1",
        "plotting.settings(r)\nx = plotting.nothing",  # a module is not what it was given
        "x = sweep(cells)",  # runs without a name are in no collection
    ],
)
def test_and_nothing_else(between: str) -> None:
    assert of(RUNS, between, 'show(x, "fig-a", "…")') == {"fig-a": FREE}


def test_records_come_by_the_parameters_that_name_them() -> None:
    notebook = v4.new_notebook(
        cells=[
            v4.new_code_cell('record: str = "other.json"', metadata={"tags": ["parameters"]}),
            v4.new_code_cell("found, size = recorded(record), side"),
            v4.new_code_cell('table(found, "tab-a", size)\ntable(size, "tab-b")'),
        ]
    )
    found = origins(notebook, {"record": "../benchmarks/given.json", "side": 32})
    assert found == {"tab-a": frozenset({"given.json"}), "tab-b": FREE}, "as it was run, not as it is declared"


def test_an_anchor_in_several_places_has_all_of_their_sources() -> None:
    cells = (RUNS, 's = sweep(cells, name="hybrid")', 'show(r, "fig-a")\nshow(s, "fig-a")\nshow(s, f"fig-{n}-b")')
    assert of(*cells) == {"fig-a": DIP | {"the runs called hybrid"}}
    assert of(*cells[:2], 'show(s, f"fig-of-{n}")') == {"fig-of-": frozenset({"the runs called hybrid"})}


def test_what_is_no_code_is_passed_over() -> None:
    assert of("%matplotlib inline", RUNS, 'show(r, "fig-a")') == {"fig-a": DIP}
    assert of('show(claims.collected(), "fig-a")') == {"fig-a": frozenset({ALL_RUNS})}


def test_of_our_own_notebooks() -> None:
    """Known ones, and none that is made of runs or records and says nothing."""
    found = {}
    for path in sorted((ROOT / "notebooks").glob("[0A]*_*.ipynb")):
        found |= origins(nbformat.read(path, as_version=4), execution.declared(path))
    assert found["fig-dip-film"] == DIP
    assert found["tab-restoration"] == found["fig-gains"] == found["tab-soon"] == {"the runs called restoration"}
    assert found["tab-longer"] == {"longer.json"}
    assert found["tab-profile"] == {"results.json"}
    assert found["fig-search"] == {"search.json"}
    assert found["tab-handed-over"] == {"from_noise.json", "handoff.json"}
    alone = {anchor for anchor, sources in found.items() if not sources}
    demonstrations = {"image-before-noise", "forward", "oracle-steps", "oracle-gain", "contraction"}
    demonstrations |= {"dip-noise", "schedules", "single-loss", "three-acts", "spacings", "bugs"}
    assert alone == {f"fig-{name}" for name in demonstrations} | {"tab-bundled", "tab-bugs", "tab-quoted"}
    assert len(found) > 80
