"""What a report rests on, in one file beside its page: the records of its named sweeps, their derived numbers, a few
small pictures. Whoever wrote it is not trusted: it is measured before it is read, and nothing in it is a path."""

from __future__ import annotations

import base64
import io
import json
import lzma
import math
import os
import secrets
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
LARGEST = 2**27  # bytes of JSON; a paper run's has a tenth of it
INSTEAD = f"take it anew from where it came from, or set {FILE}= to do without it"
MOST_MEMORY = 2**28  # of the decompressor; our own files take a quarter of it


@dataclass(frozen=True)
class Archive:
    """source: of the library that computed it; lists, records, pictures: as the store has them, by name and by key."""

    source: str = ""
    lists: Mapping[str, Any] = field(default_factory=dict)
    records: Mapping[str, Any] = field(default_factory=dict)
    pictures: Mapping[str, str] = field(default_factory=dict)

    def picture(self, key: str, side: int) -> Image | None:
        """The run's image, to 8 bits; None where only its record is kept. InputError where it is none of that side."""
        if key not in self.pictures:
            return None
        try:
            with PIL_Image.open(io.BytesIO(base64.b64decode(self.pictures[key])), formats=("PNG",)) as file:
                if (file.mode, *file.size) != ("RGB", side, side):
                    raise ValueError(f"{file.mode}, {file.size}")
                pixels = torch.from_numpy(np.array(file))
        except (ValueError, TypeError, OSError, PIL_Image.DecompressionBombError) as error:
            raise InputError(f"results: a picture of the file is damaged ({error!r}); {INSTEAD}") from error
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
        unpack = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MOST_MEMORY)
        text = unpack.decompress(path.read_bytes(), LARGEST + 1)
        if len(text) > LARGEST or not unpack.eof:
            raise ValueError(f"cut off, or more than {LARGEST:,} bytes")
        content = json.loads(text)
        found = Archive(content["source"], content["lists"], content["records"], content["pictures"])
        if not isinstance(found.source, str) or not all(
            isinstance(part, dict) for part in (found.lists, found.records, found.pictures)
        ):
            raise TypeError("its parts are of another kind")
    except (lzma.LZMAError, OSError, ValueError, TypeError, KeyError, RecursionError, MemoryError) as error:
        raise InputError(f"results: {path.name} is damaged ({error!r}); {INSTEAD}") from error
    return found


def write(path: Path, archive: Archive) -> None:
    """The same file, to the bit, for the same content; whole or not at all, and never through a link."""
    text = json.dumps(_plain(vars(archive)), sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with unfinished.open("xb") as file:
            file.write(lzma.compress(text, preset=6))
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _plain(value: Any) -> Any:
    """Without what JSON has no word for: of a spread of one value, which is NaN, null is left."""
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
