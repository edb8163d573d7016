"""Content-addressed results on disk: a record in JSON and arrays in safetensors, one folder a key.

Nothing wrong is served: a folder appears whole by a rename, its files are checked by SHA-256 when read, and what fails
the check is moved to `quarantine` and computed anew.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from . import compute
from .compute import Compute
from .types import InputError

STALE_SECONDS = 6 * 3600
# what a result depends on: layers 0-2, but for `adapters`, through which no stored result is made
SOURCES = (
    *("types", "images", "compute", "schedules", "operators", "networks", "metrics", "priors", "optimise"),
    *("dip", "ddpm", "hybrid", "classical"),
)


def folder() -> Path:
    """DIPDDPM_STORE where it is set; else results/ beside the library's checkout, or the user's cache."""
    if chosen := os.environ.get("DIPDDPM_STORE"):
        return Path(chosen).expanduser()
    checkout = Path(__file__).resolve().parents[1]
    if (checkout / "pyproject.toml").exists():
        return checkout / "results"
    return Path.home() / ".cache" / "dipddpm"


@cache
def source_digest() -> str:
    """Of the code that results depend on, without comments and docstrings: rewording recomputes nothing."""
    here = Path(__file__).parent
    parts = []
    for name in SOURCES:
        tree = ast.parse((here / f"{name}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            body = getattr(node, "body", None)
            if isinstance(body, list):
                kept = [s for s in body if not (isinstance(s, ast.Expr) and isinstance(s.value, ast.Constant))]
                node.body = kept  # type: ignore[attr-defined]
        parts.append(ast.dump(tree))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def key(function: str, parameters: Mapping[str, Any], made_by: Compute | None = None) -> str:
    """SHA-256 of canonical JSON: function, parameters, source, torch, threads, dtype, device.

    made_by: where it is computed; here unless given
    """
    made_by = made_by or compute.default()
    content = {
        "function": function,
        "parameters": parameters,
        "source": source_digest(),
        "torch": torch.__version__.split("+")[0],
        "compute": [made_by.device, made_by.dtype, made_by.channels_last, made_by.threads],
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put(key: str, record: Mapping[str, Any], arrays: Mapping[str, Tensor]) -> None:
    """Store a record and its arrays; a second writer of the same key changes nothing."""
    root = folder()
    try:
        root.mkdir(parents=True, exist_ok=True)
        _collect_stale(root)
        scratch = Path(tempfile.mkdtemp(prefix="tmp-", dir=root))
        try:
            tensors = save_tensors({k: v.detach().cpu().contiguous() for k, v in arrays.items()})
            text = json.dumps(dict(record), sort_keys=True).encode()
            sums = {"record.json": hashlib.sha256(text), "arrays.safetensors": hashlib.sha256(tensors)}
            contents = {
                "record.json": text,
                "arrays.safetensors": tensors,
                "sums.json": json.dumps({name: s.hexdigest() for name, s in sums.items()}, sort_keys=True).encode(),
            }
            for name, data in contents.items():
                (scratch / name).write_bytes(data)
                _sync(scratch / name)
            _sync(scratch)
            target = root / key
            try:
                scratch.rename(target)
            except OSError:
                if not target.is_dir():  # not the other writer's doing
                    raise
            _sync(root)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise _unwritable(error) from error


def get(key: str) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """The record and arrays under `key`, or None where there are none that pass their check."""
    path = folder() / key
    if not path.is_dir():
        return None
    try:
        sums = json.loads((path / "sums.json").read_bytes())
        contents = {name: (path / name).read_bytes() for name in ("record.json", "arrays.safetensors")}
        for name, data in contents.items():
            if hashlib.sha256(data).hexdigest() != sums[name]:
                raise ValueError(f"{name} differs from its SHA-256")
        return json.loads(contents["record.json"]), load_tensors(contents["arrays.safetensors"])
    except Exception as error:  # whatever is wrong with the files, the answer is to compute anew
        _quarantine(path, error)
        return None


def remember(
    function: str, parameters: Mapping[str, Any], work: Callable[[], tuple[Mapping[str, Any], Mapping[str, Tensor]]]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `work()` returned for these parameters: read from the store, or computed now and kept.

    The `Checkpoint` that work may have left under this key goes once the result is there.
    """
    name = key(function, parameters)
    if (found := get(name)) is not None:
        return found
    record, arrays = work()
    put(name, record, arrays)
    Checkpoint(name).remove()
    # through JSON, so that the first answer has the types of every later one
    return json.loads(json.dumps(dict(record))), {k: v.detach().cpu() for k, v in arrays.items()}


class Checkpoint:
    """Where an unfinished work stands, under the key of its result: one file, replaced as a whole, checked when read.

    What fails the check is moved to `quarantine`, and the work begins anew.
    """

    def __init__(self, key: str):
        self.path = folder() / "unfinished" / f"{key}.checkpoint"

    def save(self, state: Mapping[str, Tensor]) -> None:
        data = save_tensors({name: value.detach().cpu().contiguous() for name, value in state.items()})
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, scratch = tempfile.mkstemp(dir=self.path.parent, prefix="tmp-")
            try:
                with os.fdopen(descriptor, "wb") as file:
                    file.write(hashlib.sha256(data).digest() + data)
                    file.flush()
                    os.fsync(file.fileno())
                Path(scratch).replace(self.path)
            finally:
                Path(scratch).unlink(missing_ok=True)
            _sync(self.path.parent)
        except OSError as error:
            raise _unwritable(error) from error

    def load(self) -> dict[str, Tensor] | None:
        """What was saved last, or None."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        digest, data = content[:32], content[32:]
        try:
            if hashlib.sha256(data).digest() != digest:
                raise ValueError("it differs from its SHA-256")
            return load_tensors(data)
        except Exception as error:
            _quarantine(self.path, error)
            return None

    def remove(self) -> None:
        """The work is done."""
        self.path.unlink(missing_ok=True)


def _unwritable(error: OSError) -> InputError:
    return InputError(
        f"store: cannot write to {folder()} ({error.strerror or error}); free space there, or set DIPDDPM_STORE "
        "to a folder that can be written"
    )


def _quarantine(path: Path, error: Exception) -> None:
    place = folder() / "quarantine" / f"{path.name}-{time.time_ns()}"
    try:
        place.parent.mkdir(exist_ok=True)
        path.rename(place)
    except OSError:
        return  # another process was faster, or one may only read here
    print(f"store: {path.name[:12]} failed its check ({error}); moved to {place} and computed anew", file=sys.stderr)


def _collect_stale(root: Path) -> None:
    """Remove what killed writers left, once it is too old to be anybody's."""
    for scratch in (*root.glob("tmp-*"), *(root / "unfinished").glob("tmp-*")):
        try:
            if time.time() - scratch.stat().st_mtime > STALE_SECONDS:
                if scratch.is_dir():
                    shutil.rmtree(scratch, ignore_errors=True)
                else:
                    scratch.unlink(missing_ok=True)
        except OSError:
            continue
