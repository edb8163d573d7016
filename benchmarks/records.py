"""What fills a record by image, degradation and seed: its options, its rows as they come, and the file."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from dipddpm_lib import compute, images, operators, priors, store
from dipddpm_lib.types import Image, InputError, require

HERE = Path(__file__).resolve().parent
SIZE = 128

# the nine tasks, which made the rules, and what tests them: (kind, strength) of `operators.degradation`
DEGRADATIONS: dict[str, tuple[str, float] | None] = {
    **dict.fromkeys(operators.TASKS),
    "denoise_15": ("denoise", 15),
    "denoise_100": ("denoise", 100),
    "inpaint_70": ("inpaint", 70),
    "inpaint_95": ("inpaint", 95),
    "holes_2": ("holes", 2),
    "holes_12": ("holes", 12),
    "super_x2": ("super", 2),
    "super_x8": ("super", 8),
    "deblur_3": ("deblur", 3),
    "compressive_05": ("compressive", 5),
    "compressive_20": ("compressive", 20),
    "compressive_50": ("compressive", 50),
    "fourier_x2": ("fourier", 2),
    "fourier_x8": ("fourier", 8),
}


def keep(path: Path, text: str) -> None:
    """Whole or not at all."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_text(text + "\n", encoding="utf-8")
    unfinished.replace(path)


def arguments(
    description: str | None, record: str, degradations: Iterable[str] = tuple(operators.TASKS), seeds: int = 1
) -> argparse.ArgumentParser:
    """What every script that fills a record is asked with."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", default=",".join(priors.EVALUATION), help="separated by commas")
    parser.add_argument("--degradations", default=",".join(degradations), help="separated by commas")
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--output", type=Path, default=HERE / f"{record}.json")
    parser.add_argument("--add", action="store_true", help="keep the record's rows that are not asked for")
    return parser


def fill(
    work: Callable[..., dict[str, Any]], script: Path, options: argparse.Namespace, settings: dict[str, Any]
) -> None:
    """Write the record: the settings that all rows share, and work(image, degradation, seed) for all that is asked.

    Each row is kept in the store as it comes. It names its machine, since rows may come from several, and the library's
    source. With --add the record's other rows stay in it, if they were made with the same settings.
    """
    asked, chosen = options.degradations.split(","), options.images.split(",")
    unknown = [name for name in asked if name not in DEGRADATIONS]
    require(not unknown, f"degradations: expected some of {', '.join(DEGRADATIONS)}, got {', '.join(unknown)}")
    require(options.seeds >= 1, f"seeds: expected 1 or more, got {options.seeds}")
    shared = json.loads(json.dumps({"size": SIZE, **settings}))  # as a record holds it
    before = json.loads(options.output.read_text()) if options.add and options.output.exists() else {"rows": []}
    differs = [name for name in shared if before["rows"] and before.get(name) != shared[name]]
    require(not differs, f"--add: {options.output} has another {', '.join(differs)}; fill it anew, or give --output")
    of_image = {image: images.load(image, SIZE) for image in chosen}
    known = {image: {"digest": images.digest(x), "weights": _weights(x)} for image, x in of_image.items()}
    # the store knows the library's source alone, and of that not what runs and samples are made of in `play`
    scripts = [script, *(HERE / f"{name}.py" for name in ("handoff", "records"))]
    made_by = hashlib.sha256(b"".join(path.read_bytes() for path in scripts)).hexdigest()
    rows = []
    for seed in range(options.seeds):
        for degradation in asked:
            for image in chosen:
                where = {"image": image, "degradation": degradation, "seed": seed}
                key = {**where, **known[image], "script": made_by, "settings": shared}
                rows.append(store.remember(f"{script.stem}.row", key, partial(_made, work, where))[0])
                print(f"{image} {degradation} {seed}", file=sys.stderr, flush=True)
    order = list(DEGRADATIONS)
    by_place = {
        (row["seed"], row["degradation"], row["image"]): row for row in (*before["rows"], *rows)
    }  # later counts
    rows = sorted(by_place.values(), key=lambda row: (row["seed"], order.index(row["degradation"])))
    machines = sorted({row["machine"] for row in rows})
    keep(options.output, json.dumps({**shared, "rows": rows, "machine": machines}))


def _weights(x_true: Image) -> str | None:
    """Those of the prior that has not seen it; none where both have, and only what asks no prior can run."""
    try:
        return priors.weights_digest(priors.fold_for(x_true))
    except InputError:
        return None


def _made(work: Callable[..., dict[str, Any]], where: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    here = compute.machine()
    made = {"machine": f"{here['processor']}, {here['dtype']}", "source": store.source_digest()}
    return {**work(**where), **made}, {}
