"""Content-addressed results on disk: a record in JSON and arrays in safetensors, one folder a key.

Nothing wrong is served: a folder appears whole by a rename, its files are checked by SHA-256 when read, and what fails
the check is moved to `quarantine` and computed anew. Whoever wrote a store is not trusted: files are opened without
following links and measured before they are read, and names lead nowhere but into the folder.
"""

from __future__ import annotations

import ast
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from . import compute
from .compute import Compute
from .types import InputError, require

STALE_SECONDS = 6 * 3600  # what a killed writer left
ABANDONED_SECONDS = 30 * 24 * 3600  # a checkpoint that nobody has taken up; work under way renews its own
LARGEST = {"record.json": 2**26, "arrays.safetensors": 2**32, "sums.json": 2**12}
"""Bytes that a file may have: what is larger is not read. A result has up to 51 a pixel, most of them its film's."""
ROOM = 2**16  # bytes that must go onto the disk before a computation is begun
# what a result depends on: layers 0-2, but for `adapters` and `tiles`, through which no stored result is made
SOURCES = (
    *(
        "types",
        "images",
        "compute",
        "schedules",
        "operators",
        "networks",
        "metrics",
        "distribution",
        "priors",
        "optimise",
    ),
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
        parts.append(_dumped(tree))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _dumped(tree: ast.AST) -> str:
    """The text of a syntax tree in Python 3.11's form: 3.12 added a field, 3.13 leaves empty ones out."""
    for node in ast.walk(tree):
        if getattr(node, "type_params", None) == []:
            del node.type_params  # type: ignore[attr-defined]
    options: dict[str, Any] = {"show_empty": True} if sys.version_info >= (3, 13) else {}
    return ast.dump(tree, **options)


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


def check_name(name: str) -> str:
    """A name of a file inside the store, and of nothing elsewhere."""
    require(
        re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}", name) is not None,
        f"store: expected a name of up to 200 letters, digits and . _ -, got {name[:80]!r}",
    )
    return name


def place_of(name: str) -> Path:
    """A folder of the store that is made where it is missing; never one elsewhere, at the end of a link."""
    place = folder() / name
    place.mkdir(parents=True, exist_ok=True)
    if place.is_symlink():
        raise OSError(f"{place} is a link")
    return place


def _read(path: Path, largest: int) -> bytes:
    """A regular file's content; ValueError where it is a link, a device or larger than it may be."""
    # a pipe would let its reader wait for ever
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_size > largest:
            raise ValueError(f"{path.name} is no file of at most {largest:,} bytes")
        return file.read(largest)


def _scratch_name() -> str:
    return f"tmp-{secrets.token_hex(8)}"


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put(key: str, record: Mapping[str, Any], arrays: Mapping[str, Tensor]) -> None:
    """Store a record and its arrays; a second writer of the same key changes nothing."""
    root = folder()
    target = root / check_name(key)
    try:
        # not among the results: to list a hundred thousand of them for stale ones takes longer than to write one
        place = place_of("unfinished")
        _collect_stale(root)
        scratch = place / _scratch_name()
        scratch.mkdir()  # with everybody's usual rights: a store may be shared
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
            # at once: a file system writes several to its journal in the time of one
            with ThreadPoolExecutor(len(contents) + 1) as pool:
                list(pool.map(_sync, (*(scratch / name for name in contents), scratch)))
            try:
                scratch.rename(target)
            except OSError:
                if target.is_symlink() or not target.is_dir():  # not the other writer's doing
                    raise
            _sync(root)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise _unwritable(error) from error


def get(key: str) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """The record and arrays under `key`, or None where there are none that pass their check."""
    return None if (found := _get(key)) is None else found[:2]


def serve(key: str) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """The same for whoever asks in place of computing it, which is told where USED says."""
    if (found := _get(key)) is None:
        return None
    _tell(found[2])
    return found[:2]


def costs(key: str) -> dict[str, Any]:
    """What the result under `key` cost, as COSTS says; empty where there is none."""
    return {} if (found := _get(key)) is None else found[2]


def _get(key: str) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Any]] | None:
    """Record, arrays and costs."""
    path = folder() / check_name(key)
    try:
        seen = path.lstat()
    except OSError:
        return None
    try:
        if not stat.S_ISDIR(seen.st_mode):
            raise ValueError("it is a link, or a file")
        contents = {name: _read(path / name, largest) for name, largest in LARGEST.items()}
        sums = json.loads(contents["sums.json"])
        for name in ("record.json", "arrays.safetensors"):
            if hashlib.sha256(contents[name]).hexdigest() != sums[name]:
                raise ValueError(f"{name} differs from its SHA-256")
        record = json.loads(contents["record.json"])
        if not isinstance(record, dict):
            raise ValueError("record.json holds no record")
        costs = {name: cost for name, cost in dict(record.pop(COSTS, {})).items() if _is_cost(cost)}
        return record, load_tensors(contents["arrays.safetensors"]), costs
    except Exception as error:  # whatever is wrong with the files, the answer is to compute anew
        if _is_its_own(error):
            _quarantine(path, error, seen)
        return None


def _is_cost(value: Any) -> bool:
    return set(value) == {"seconds", "bytes"} and all(
        type(n) in (int, float) and 0 <= n < 2**60 for n in value.values()
    )


def _is_its_own(error: Exception) -> bool:
    """Is it the file that is wrong, and not the reader, who has no memory, no descriptors or no rights?"""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOENT, errno.ELOOP, errno.EISDIR, errno.ENOTDIR)
    return not isinstance(error, MemoryError)


def remember(
    function: str, parameters: Mapping[str, Any], work: Callable[[], tuple[Mapping[str, Any], Mapping[str, Tensor]]]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `work()` returned for these parameters: read from the store, or computed now and kept.

    The `Checkpoint` that work may have left under this key goes once the result is there. Of several processes that ask
    for the same one computes, and the others wait for it.
    InputError, before any computing, where the store cannot be written.
    """
    name = key(function, parameters)
    if (found := serve(name)) is not None:
        return found
    check_room()
    with _by_one(name):
        # another process may have ended it while this one waited
        return found if (found := serve(name)) is not None else _computed(name, work)


def _computed(name: str, work: Callable[[], tuple[Mapping[str, Any], Mapping[str, Tensor]]]) -> Any:
    outside, _work.served = getattr(_work, "served", None), {}
    before, _work.seconds = getattr(_work, "seconds", 0.0), 0.0
    begun = time.perf_counter()
    try:
        record, arrays = work()
    finally:
        whole, within = time.perf_counter() - begun, _work.seconds
        costs, _work.served, _work.seconds = _work.served, outside, before + whole
    # what this work itself asked the store for has a cost of its own
    costs = {**costs, name: {"seconds": whole - within, "bytes": compute.high_water()}}
    put(name, {**record, COSTS: costs}, arrays)
    Checkpoint(name).remove()
    # what is kept, which is another's where two were at it; so the first answer is every later one
    if (kept := serve(name)) is not None:
        return kept
    return json.loads(json.dumps(dict(record))), {k: v.detach().cpu() for k, v in arrays.items()}


@contextmanager
def _by_one(name: str) -> Iterator[None]:
    """Whoever computes this result; another that asks for it meanwhile waits. A process that dies lets go of it."""
    try:
        lock = FileLock(place_of("unfinished") / f"{name}.lock", fallback_to_soft=False)
        lock.acquire()
    except OSError:  # another user's, or a file system without locks: both compute, and the first answer is kept
        yield
        return
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)  # who waits sees that it is gone, and makes one of its own
        lock.release()


COSTS = "costs"
"""In a stored record that `remember` made, by key, of itself and of the results that its work asked for: the seconds
that computing took its last process, and the most bytes that this process had held by then. Readers do not see it."""
USED = "DIPDDPM_USED"
"""The environment's name of a file: each result that is served adds its costs as a line of JSON."""
_work = threading.local()  # under way: .served, costs of what it asked for; .seconds, of what was computed for it


def _tell(costs: Mapping[str, Any]) -> None:
    if (served := getattr(_work, "served", None)) is not None:
        served.update(costs)
    elif path := os.environ.get(USED):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps(costs, sort_keys=True) + "\n")


class _Kept:
    """One file that is replaced as a whole and checked when read: its content after its SHA-256.

    What fails the check is moved to `quarantine`, and counts as not there.
    """

    def __init__(self, place: str, name: str, largest: int):
        self.place, self.largest = place, largest
        self.path = folder() / place / check_name(name)

    def write(self, data: bytes) -> None:
        try:
            place = place_of(self.place)
            scratch = place / _scratch_name()
            try:
                with scratch.open("xb") as file:
                    file.write(hashlib.sha256(data).hexdigest().encode() + b"\n" + data)
                    file.flush()
                    os.fsync(file.fileno())
                scratch.replace(self.path)
            finally:
                scratch.unlink(missing_ok=True)
            _sync(place)
        except OSError as error:
            raise _unwritable(error) from error

    def read(self, parse: Callable[[bytes], Any]) -> Any:
        """What `parse` makes of the content that was written last; None where there is none."""
        if self.path.parent.is_symlink():
            return None
        try:
            digest, _, data = _read(self.path, self.largest).partition(b"\n")
            if hashlib.sha256(data).hexdigest().encode() != digest:
                raise ValueError("it differs from its SHA-256")
            return parse(data)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Exception as error:  # whatever is wrong with the file
            if _is_its_own(error):
                self.set_aside(error)
            return None

    def set_aside(self, error: Exception) -> None:
        _quarantine(self.path, error)


class Checkpoint:
    """Where an unfinished work stands, under the key of its result; where it is damaged, the work begins anew."""

    def __init__(self, key: str):
        self._kept = _Kept("unfinished", f"{key}.checkpoint", LARGEST["arrays.safetensors"])
        self.path = self._kept.path

    def save(self, state: Mapping[str, Tensor]) -> None:
        self._kept.write(save_tensors({name: value.detach().cpu().contiguous() for name, value in state.items()}))

    def load(self) -> dict[str, Tensor] | None:
        """What was saved last, or None."""
        return self._kept.read(load_tensors)

    def set_aside(self, error: Exception) -> None:
        """What was saved cannot be taken up."""
        self._kept.set_aside(error)

    def remove(self) -> None:
        """The work is done."""
        self.path.unlink(missing_ok=True)


def write_list(name: str, content: Any) -> None:
    """Keep JSON values under a name, in place of those before: which results belong together, numbers of them."""
    _Kept("collections", f"{name}.json", LARGEST["record.json"]).write(json.dumps(content, sort_keys=True).encode())


def read_list(name: str) -> Any:
    """What was kept under this name; None where there is nothing that passes its check."""
    return _Kept("collections", f"{name}.json", LARGEST["record.json"]).read(json.loads)


def lists() -> list[str]:
    """The names under which `write_list` kept something."""
    return sorted(path.name.removesuffix(".json") for path in (folder() / "collections").glob("*.json"))


def check_room() -> None:
    """InputError for a folder that cannot be written, and a disk that is full: before hours of work, not after them."""
    try:
        root = folder()
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root) as file:  # buffered: what is written in part is an error there
            file.write(bytes(ROOM))
    except OSError as error:
        raise _unwritable(error) from error


def _unwritable(error: OSError) -> InputError:
    return InputError(
        f"store: cannot write to {folder()} ({error.strerror or error}); free space there, or set DIPDDPM_STORE "
        "to a folder that can be written"
    )


def _quarantine(path: Path, error: Exception, seen: os.stat_result | None = None) -> None:
    """seen: what was found wanting; another process may have put a whole result in its place since."""
    try:
        place = place_of("quarantine") / f"{path.name}-{time.time_ns()}"
        if seen is not None and path.lstat().st_ino != seen.st_ino:
            return
        path.rename(place)
    except FileNotFoundError:
        return  # another process was faster
    except OSError as refused:  # one may only read here
        print(f"store: {path.name[:12]} failed its check ({error}) and stays ({refused.strerror})", file=sys.stderr)
        return
    print(f"store: {path.name[:12]} failed its check ({error}); moved to {place} and computed anew", file=sys.stderr)


def _collect_stale(root: Path) -> None:
    """Remove what killed writers left and checkpoints of abandoned work, once they are too old to be anybody's."""
    left_by_killed = ("unfinished/tmp-*", "unfinished/*.lock", "collections/tmp-*")
    ages = dict.fromkeys(left_by_killed, STALE_SECONDS)
    ages |= dict.fromkeys(("unfinished/*.checkpoint", "unfinished/*.used"), ABANDONED_SECONDS)
    for pattern, oldest in ages.items():
        if (root / pattern).parent.is_symlink():
            continue  # nothing elsewhere is ours to remove
        for left in root.glob(pattern):
            try:
                found = left.lstat()
                if time.time() - found.st_mtime <= oldest:
                    continue
                if stat.S_ISDIR(found.st_mode):
                    shutil.rmtree(left, ignore_errors=True)
                else:
                    left.unlink()
            except OSError:
                continue  # another process was faster, or one may only read here
