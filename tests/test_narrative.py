"""Parameters are checked before any computing, records found, numbers told in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dipddpm_lib import narrative, operators
from dipddpm_lib.types import InputError


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
    narrative.check_counts(steps=[1, 2], seeds=3)
    with pytest.raises(InputError, match=said):
        narrative.check_counts(**counts)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("names", ["deblur", [3], None, {"deblur": 1}])
def test_names_are_a_list(names: Any) -> None:
    narrative.check_names(tasks=[], others=["deblur"], more=("a", "b"))
    with pytest.raises(InputError, match=r"tasks: expected a list of names, which papermill takes as -y"):
        narrative.check_names(tasks=names)


def test_every_degradation_has_a_name_in_words() -> None:
    stronger = [f"{kind}_{each.usual + 1:g}" for kind, each in operators.DEGRADATIONS.items()]
    words = {task: narrative.called(task) for task in (*operators.TASKS, *stronger)}
    assert len(set(words.values())) == len(words) == len(operators.TASKS) + len(operators.DEGRADATIONS)
    assert {task: words[task] for task in operators.TASKS} == operators.TASKS
    assert narrative.called("inpaint_70") == "70 % of the pixels missing"
    assert narrative.called("super_x8") == "super-resolution ×8"
    assert set(narrative.CALLED) == set(operators.DEGRADATIONS)
    assert narrative.kind_of("deblur") == ("deblur", operators.DEGRADATIONS["deblur"].usual)
    for none in ("blur", "blur_3", "inpaint_some", "_", ""):
        with pytest.raises(InputError, match="task: expected one of"):
            narrative.called(none)


def test_a_record_is_found_from_wherever_a_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert narrative.recorded("../benchmarks/handoff.json")["size"] == 128
    (tmp_path / "own.json").write_text('{"size": 7}')
    assert narrative.recorded("own.json") == {"size": 7}
    (tmp_path / "torn.json").write_text("{")
    for path, said in (("torn.json", "expected JSON that a benchmark wrote"), ("none.json", "none.json is no file")):
        with pytest.raises(InputError, match=said):
            narrative.recorded(path)


def test_a_number_with_its_noun_is_plural_unless_it_is_one() -> None:
    for number, said in (
        (1, "1 seed"),
        (np.float64(1), "1 seed"),
        (0, "0 seeds"),
        (np.int64(3), "3 seeds"),
        (1.2, "1 seed"),
    ):
        assert narrative.counted(number, "seed") == said
