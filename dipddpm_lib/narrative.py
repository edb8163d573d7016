"""What a notebook needs around its grid: parameters checked, a benchmark's record read, numbers in words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, SupportsFloat

import torch

from . import operators
from .types import InputError, require


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


CALLED = {
    "denoise": "Gaussian noise, σ = {}/255",
    "inpaint": "{} % of the pixels missing",
    "holes": "{} square holes",
    "super": "super-resolution ×{}",
    "deblur": "Gaussian blur, σ = {}",
    "compressive": "{} % random-sign DCT coefficients",
    "fourier": "one of {} Fourier rows",
}


def kind_of(task: str) -> tuple[str, float]:
    """A task's kind of degradation, and how strong it is by `operators.DEGRADATIONS`."""
    kind, _, strength = task.partition("_")
    return kind, float(strength.lstrip("x") or operators.DEGRADATIONS[kind].usual)


def called(task: str) -> str:
    """In words: what `operators.TASKS` says, or "70 % of the pixels missing" for inpaint_70.

    InputError where it names no kind of degradation; `operators.task` looks at the strength.
    """
    if task in operators.TASKS:
        return operators.TASKS[task]
    try:
        kind, strength = kind_of(task)
        return CALLED[kind].format(f"{strength:g}")
    except (KeyError, ValueError):
        operators.task(task, 64, 64, torch.Generator())  # says in one line what a task is
        raise


def check_names(**lists: Sequence[str]) -> None:
    """Refuse, before any computing, parameters that are not lists of names."""
    for name, value in lists.items():
        require(
            isinstance(value, list | tuple) and all(isinstance(item, str) for item in value),
            f"{name}: expected a list of names, which papermill takes as -y '{name}: [one, another]', got {value!r}",
        )


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
