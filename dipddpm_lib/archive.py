"""What a report rests on, in one file beside its page: every run's record and a few small pictures, without films."""

from __future__ import annotations

import base64
import io
import json
import lzma
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as PIL_Image

from . import images
from .types import Image, InputError

NAME = "results.json.xz"
FILE = "DIPDDPM_RESULTS"
"""The environment's name of such a file; without it the checkout's own is read, and where it is empty none."""
LARGEST = 2**28  # bytes of JSON; a paper run's has a tenth of it


@dataclass(frozen=True)
class Archive:
    """source: of the library that computed it; lists, records, pictures: as the store has them, by name and by key."""

    source: str = ""
    lists: Mapping[str, Any] = field(default_factory=dict)
    records: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, str] = field(default_factory=dict)

    def picture(self, key: str) -> Image | None:
        """The run's image, to 8 bits; None where only its record is kept."""
        if key not in self.pictures:
            return None
        with PIL_Image.open(io.BytesIO(base64.b64decode(self.pictures[key]))) as file:
            pixels = torch.from_numpy(np.array(file))
        return (pixels.permute(2, 0, 1)[None].double() / 255).float() * 2 - 1


def place() -> Path | None:
    """Where the file is looked for; None where none is to be read."""
    if (chosen := os.environ.get(FILE)) is not None:
        return Path(chosen).expanduser() if chosen else None
    return Path(__file__).resolve().parents[1] / "report" / NAME


def read(path: Path | None = None) -> Archive:
    """The file's content, or an empty one where there is none; InputError where it is damaged."""
    path = path or place()
    if path is None or not path.is_file():
        return Archive()
    seen = path.stat()
    return _read(path, seen.st_mtime_ns, seen.st_size)


@lru_cache(maxsize=1)
def _read(path: Path, _changed: int, _size: int) -> Archive:
    try:
        with lzma.open(path) as file:
            text = file.read(LARGEST + 1)
        if len(text) > LARGEST:
            raise ValueError(f"more than {LARGEST:,} bytes")
        content = json.loads(text)
        found = Archive(content["source"], content["lists"], content["records"], content["pictures"])
        if not isinstance(found.source, str) or not all(
            isinstance(part, dict) for part in (found.lists, found.records, found.pictures)
        ):
            raise TypeError("its parts are of another kind")
    except (lzma.LZMAError, EOFError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"results: {path.name} is damaged ({error!r}); take it anew from where it came from, or set {FILE}= to do "
            "without it"
        ) from error
    return found


def write(path: Path, archive: Archive) -> None:
    """The same file, to the bit, for the same content; whole or not at all."""
    text = json.dumps(vars(archive), sort_keys=True, separators=(",", ":")).encode()
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_bytes(lzma.compress(text, preset=9))
    unfinished.replace(path)


def compact(record: Mapping[str, Any]) -> dict[str, Any]:
    """A run's record with the points of its trace rounded, but for the last, which is the result's own."""
    *before, last = record["trace"]
    rounded = [
        [index, float(f"{seconds:.4g}"), round(psnr, 3), round(ssim, 4)] for index, seconds, psnr, ssim in before
    ]
    return {**record, "trace": [*rounded, list(last)]}


def encoded(x0_hat: Image) -> str:
    """An image as `Archive.pictures` has it: PNG, in base64."""
    buffer = io.BytesIO()
    PIL_Image.fromarray(images.to_array(x0_hat)).save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
