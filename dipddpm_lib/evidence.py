"""Results of a grid: tables, curves, intervals; and the named collections that the ledger of claims reads."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePath
from typing import Any, SupportsFloat, TypeGuard

import pandas as pd
import torch
from scipy import special
from torch import Tensor

from . import archive, compute, images, store
from .cells import Cell
from .ddpm import SampleConfig
from .hybrid import HybridConfig
from .types import InputError, Interval, Result, require

REPORT = "DIPDDPM_REPORT"  # set where a notebook runs for the report


def interval(values: Iterable[float], level: float = 0.95, draws: int = 2000, seed: int = 0) -> Interval:
    """Bootstrap of the mean, widened for few values; give paired differences for a paired comparison.

    Percentiles of resampled means (Efron, Tibshirani 1993, §13) are too near to each other where values are few: of
    four normal ones a nominal 95 % holds the mean in 81 %. So their distances from the mean are multiplied by
    √(n/(n − 1)) t/z, by which Student's interval is wider than the bootstrap's normal one (Hesterberg 2015 on its
    narrowness); then three normal values or more give 93 to 95 %. Skewed values still give less.
    With fewer than two values nothing can be said of the spread: low and high are NaN.
    """
    require(0 < level < 1, f"level: expected a share between 0 and 1, as 0.95, got {level}")
    v = torch.tensor(list(values), dtype=torch.float64)
    require(len(v) > 0, "interval: expected at least one value, got none")
    if len(v) < 2:
        return Interval(float(v.mean()), float("nan"), float("nan"), len(v))
    picks = torch.randint(len(v), (draws, len(v)), generator=compute.generator(seed, "bootstrap"))
    tail = (1 - level) / 2
    ends = torch.quantile(v[picks].mean(1), torch.tensor([tail, 1 - tail], dtype=torch.float64))
    low, high = (v.mean() + _widening(len(v), 1 - tail) * (ends - v.mean())).tolist()
    return Interval(float(v.mean()), low, high, len(v))


def ends(name: str, i: Interval) -> dict[str, float]:
    """An interval as numbers for `note`: name, name_low and name_high."""
    return {name: i.mean, f"{name}_low": i.low, f"{name}_high": i.high}


def _widening(n: int, quantile: float) -> float:
    return float(math.sqrt(n / (n - 1)) * special.stdtrit(n - 1, quantile) / special.ndtri(quantile))


@dataclass(frozen=True)
class Kept:
    """What the store holds of a cell."""

    key: str
    record: dict[str, Any]
    arrays: dict[str, Tensor]
    costs: dict[str, Any] = field(default_factory=dict)  # where another machine's store is to keep them too
    place: str = ""  # where it was found, if not in the store

    def result(self) -> Result:
        """InputError where it was not `experiment.run` that wrote it."""
        record, arrays = self.record, self.arrays
        try:
            values = {name: record[name] for name in record if name != "trace"}
            trace = [(int(i), float(s), float(p), float(q)) for i, s, p, q in record["trace"]]
            if not trace:
                raise ValueError("an empty trace")
            return Result(**values, trace=trace, x0_hat=arrays["x0_hat"], frames=arrays["frames"])
        except (KeyError, TypeError, ValueError) as error:  # whole, but not written by `run`
            said = f"{self.place or f'store: {store.folder()}'} holds a result of another form ({error!r}); remove it"
            raise InputError(said) from error


class Results(Sequence[tuple[Cell, Result]]):
    """Cells with their results, in the order of the cells."""

    def __init__(self, pairs: Iterable[tuple[Cell, Result]]):
        self._pairs = tuple(pairs)

    def __getitem__(self, index: Any) -> Any:
        return Results(self._pairs[index]) if isinstance(index, slice) else self._pairs[index]

    def __len__(self) -> int:
        return len(self._pairs)

    def only(self, **wanted: Any) -> Results:
        """Those whose cell has these values: `only(image="coffee", method="DIP")`."""
        known = {each.name for each in fields(Cell)} | {"method"}
        unknown = sorted(wanted.keys() - known)
        require(not unknown, f"only: expected some of {', '.join(sorted(known))}, got {', '.join(unknown)}")
        return Results(p for p in self if all(getattr(p[0], k) == v for k, v in wanted.items()))

    def best(self) -> Result:
        """The one with the highest PSNR to its target, which only a reader of results knows."""
        require(len(self) > 0, "best: expected one result or more, got none")
        return max((result for _, result in self), key=lambda result: result.psnr)

    def frame(self) -> pd.DataFrame:
        """One tidy row a cell: what was asked, what came."""
        rows = []
        for cell, result in self:
            config = {f"config.{k}": v for k, v in asdict(cell.config).items()}
            sample = cell.config.sample if isinstance(cell.config, HybridConfig) else cell.config
            rows.append(
                {
                    "image": cell.image,
                    "size": cell.size,
                    "seed": cell.seed,
                    "task": cell.task,
                    "method": cell.method,
                    "label": cell.label or cell.method,
                    "prior": cell.prior,
                    "schedule": cell.schedule,
                    "T": cell.T,
                    # as asked for; below a hand-off there may be fewer places, and so fewer evaluations
                    "steps": sample.steps if isinstance(sample, SampleConfig) else None,
                    "psnr": result.psnr,
                    "ssim": result.ssim,
                    "seconds": result.total_seconds,
                    "seconds_fit": result.seconds.get("fit", 0.0),
                    "seconds_sample": result.seconds.get("sample", 0.0),
                    "evaluations": result.evaluations,
                    "memory": result.memory,
                    **result.extra,
                    **config,
                }
            )
        return pd.DataFrame(rows)

    def table(self, by: str | Sequence[str], *columns: str) -> pd.DataFrame:
        """Means over all that `by` leaves open, under the names of `COLUMNS`; PSNR and SSIM with their intervals.

        by: columns of `frame`; columns: keys of `COLUMNS`
        """
        require(len(self) > 0, "table: expected one result or more, got none")
        frame, by = self.frame(), [by] if isinstance(by, str) else list(by)
        _check_columns("table", frame, *by, *columns)
        groups = frame.groupby(by, sort=False, dropna=False)  # a run without a task or without steps counts too
        spread = {"psnr", "ssim"}
        table = pd.DataFrame({c: groups[c].agg(interval if c in spread else "mean") for c in columns})
        if "memory" in columns:
            table["memory"] /= 2**20
        return table.reset_index().rename(columns=COLUMNS)

    def curves(self, value: str, over: str, by: str = "label") -> dict[str, tuple[pd.Series, ...]]:
        """For every `by`: where, mean, low and high of `value` along `over`, for a panel of curves."""
        require(len(self) > 0, "curves: expected one result or more, got none")
        frame, out = self.frame(), {}
        _check_columns("curves", frame, value, over, by)
        for name, group in frame.groupby(by, sort=False, dropna=False):
            spread = group.groupby(over)[value].agg(interval)
            mean, low, high = (spread.map(lambda i, part=part: getattr(i, part)) for part in ("mean", "low", "high"))
            out[str(name)] = (spread.index.to_series(), mean, low, high)
        return out


def _check_columns(what: str, frame: pd.DataFrame, *names: str) -> None:
    unknown = [name for name in names if name not in frame]
    require(not unknown, f"{what}: expected columns of {', '.join(frame)}, got {', '.join(unknown)}")


COLUMNS = {
    "label": "method",
    "psnr": "PSNR (dB)",
    "ssim": "SSIM",
    "seconds_fit": "fit (s)",
    "seconds_sample": "sampling (s)",
    "seconds": "total (s)",
    "evaluations": "network calls",
    "iterations": "iterations",
    "parameters": "parameters",
    "memory": "peak memory (MiB)",
    "t_start": "t at the start",
    "rmse": "RMSE of the fit",
    "rmse_hat": "RMSE, estimated",
}
"""What tables call the columns of `Results.frame`, with units."""


def keep_collection(name: str, cells: Sequence[Cell], keys: Sequence[str]) -> None:
    """Keep the list of these cells' results under a name, for `collected`."""
    entries = [{"key": key, **cell.plain()} for key, cell in zip(keys, cells, strict=True)]
    store.write_list(_own(name), {"source": store.source_digest(), "entries": entries})


def note(name: str, **numbers: SupportsFloat) -> None:
    """Keep a notebook's derived numbers beside its results, for the ledger of claims."""
    plain = {key: float(value) for key, value in numbers.items()}  # numpy's are no JSON
    store.write_list(_own(f"{name}.numbers"), {"source": store.source_digest(), "numbers": plain})


def _own(name: str) -> str:
    """A list's name in the store: a notebook that is run by hand takes nothing from the report's verdicts."""
    return f"report.{name}" if os.environ.get(REPORT) else name


def _of_this_source(name: str) -> dict[str, Any]:
    """A collection, unless the library has changed since: then its numbers are no longer this library's.

    By hand it is what was kept by hand, or else the report's; in the report it is the report's alone. Where the store
    has neither, as in a fresh clone, it is what the page beside this checkout rests on.
    """
    places = tuple(dict.fromkeys((_own(name), f"report.{name}")))
    ours = (found for place in places if _is_current(found := store.read_list(place)))
    if (found := next(ours, None)) is not None:
        return found
    kept = archive.read().lists.get(f"report.{name}")
    return kept if _is_current(kept) else {}


def _is_current(found: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(found, dict) and found.get("source") == store.source_digest()


def noted(name: str) -> dict[str, float]:
    """What `note` last kept under this name; empty where there is nothing."""
    numbers = _of_this_source(f"{name}.numbers").get("numbers", {})
    return {key: math.nan if value is None else value for key, value in numbers.items()}


def collected(name: str, pictures: bool = True) -> Results:
    """The results that `sweep(…, name=name)` last kept; empty where one is gone: a mean over the rest would mislead.

    In a fresh clone these are the committed report's, most of them without their images (`archive`).

    pictures: whether they hold their images and films, which are most of their size, or none
    """
    kept = _of_this_source(name)
    try:
        entries = kept.get("entries", ())
        cells = [(Cell.restored(entry), entry["key"]) for entry in entries]
        found = [(cell, _held(key, cell.size, pictures)) for cell, key in cells]
    except InputError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # whole, but not written by `sweep`
        raise InputError(f"store: {store.folder()} holds a collection {name} of another form; remove it") from error
    pairs = [(cell, held.result()) for cell, held in found if held is not None]
    return Results(pairs if len(pairs) == len(found) else ())


def _held(key: str, side: int, pictures: bool) -> Kept | None:
    if (held := store.get(key)) is not None:
        record, arrays = held
        if not pictures:
            arrays = {name: values.new_empty(0, *values.shape[1:]) for name, values in arrays.items()}
        return Kept(key, record, arrays)
    if (told := archive.read().records.get(key)) is None:
        return None
    image = archive.read().picture(key, side) if pictures else None
    arrays = {"x0_hat": NO_IMAGE if image is None else image, "frames": NO_IMAGE.byte()}
    return Kept(key, told, arrays, place=f"results: {archive.place()}")


NO_IMAGE = torch.zeros(0, 3, 1, 1)


def publish(path: Path, pictured: Callable[[str, Cell, Cell], bool] = lambda name, first, cell: False) -> int:
    """Write what the report's lists in the store hold to `archive`'s file, for `collected` and `noted`; how many runs.

    What the file has of a list that the store has not, it keeps, if it is of this library: such a part of the report
    was not run here.

    pictured: whether the run's image is kept too, of which list, its first cell and the run's
    """
    try:
        before = archive.read(path)
    except InputError as error:  # hours of computing lie behind this
        print(f"{error}; what it held of other runs is lost", file=sys.stderr)
        before = archive.Archive()
    ours = {name: store.read_list(name) for name in store.lists() if name.startswith("report.")}
    lists = {name: kept for of in (before.lists, ours) for name, kept in of.items() if _is_current(kept)}
    records: dict[str, Any] = {}
    pictures: dict[str, str] = {}
    known = set(images.photographs())
    for name, kept in lists.items():
        cells = [Cell.restored(entry) for entry in kept.get("entries", ())]
        for cell, entry in zip(cells, kept.get("entries", ()), strict=True):
            key = entry["key"]
            # of a photograph of one's own neither the picture nor where it lies is anybody's business
            wanted = cell.image in known and pictured(name.removeprefix("report."), cells[0], cell)
            if (held := store.get(key)) is not None:
                records[key] = archive.compact(held[0])
                if wanted:
                    pictures[key] = archive.encoded(held[1]["x0_hat"])
            elif key in before.records:
                records[key] = before.records[key]
                pictures |= {key: before.pictures[key]} if wanted and key in before.pictures else {}
    if lists:
        named = {name: _without_paths(kept) for name, kept in lists.items()}
        archive.write(path, archive.Archive(store.source_digest(), named, records, pictures))
    return len(records)


def _without_paths(kept: dict[str, Any]) -> dict[str, Any]:
    entries = [
        {**entry, "cell": {**entry["cell"], "image": PurePath(entry["cell"]["image"]).name}}
        for entry in kept.get("entries", ())
    ]
    return {**kept, "entries": entries} if entries else kept
