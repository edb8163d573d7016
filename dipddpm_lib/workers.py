"""One function over many items: in turn, on this machine's cores, or on a cluster, through dask.distributed.

An item whose work fails ends as a `Failure`, and the others go on. Workers compute on one thread each: two processes of
two threads on two cores take ten times as long as two of one.
"""

from __future__ import annotations

import json
import os
import platform
import queue
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from . import compute, store
from .compute import Compute
from .types import InputError, require

Item = TypeVar("Item")
Value = TypeVar("Value")

Client: TypeAlias = Any  # dask.distributed's, which is loaded only where there are workers
Future: TypeAlias = Any

PATIENCE = 10  # seconds in which a scheduler must answer


class LostScheduler(RuntimeError):
    """The scheduler is gone, and with it all that was not finished."""


@dataclass(frozen=True)
class Failure:
    """Why an item has no value.

    error:     the last line of the traceback
    traceback: all of it
    host:      where it ran
    seconds:   how long it took to fail
    refused:   whether it was an `InputError`, with its line as `error`
    """

    error: str
    traceback: str
    host: str
    seconds: float
    refused: bool = False


def count(workers: int | None) -> int:
    """How many local workers: as given, else as WORKERS says, else 1, which is this process itself.

    WORKERS=all is one for each core; or 1 where a GPU computes, which two processes do not share well.
    """
    asked = str(workers) if workers is not None else os.environ.get("WORKERS") or "1"
    name = "workers" if workers is not None else "WORKERS"
    cores = compute.available_cores()
    if asked == "all":
        return cores if compute.default().device == "cpu" else 1
    require(
        asked.isdecimal() and 1 <= int(asked) <= cores,
        f"{name}: expected 1 … {cores}, the cores of this machine, or all, got {asked!r}",
    )
    return int(asked)


def far(client: Client | None, workers: int | None = None) -> bool:
    """Whether `connected` would give the client of a cluster, whose machines may be others than this one."""
    return client is not None or (workers is None and bool(os.environ.get("DIPDDPM_SCHEDULER")))


def wanted(client: Client | None, workers: int | None = None) -> bool:
    """Whether `connected` would give a client."""
    return far(client, workers) or count(workers) > 1


@contextmanager
def connected(client: Client | None, workers: int | None = None, most: int | None = None) -> Iterator[Client | None]:
    """The client to use: the one given, one to DIPDDPM_SCHEDULER's address or file, or one to local workers.

    most: the number of items, above which no further workers are started here
    None for one worker, which is this process. A script that starts local workers needs
    `if __name__ == "__main__":`, since each of them imports it.
    """
    place = os.environ.get("DIPDDPM_SCHEDULER")
    if client is not None:
        yield client
    elif workers is None and place:
        with _reached(place) as reached:
            yield reached
    elif (number := count(workers)) > 1:
        with _local(number if most is None else max(1, min(number, most))) as started:
            yield started
    else:
        yield None


def _distributed() -> Any:
    try:
        import distributed
    except ImportError:
        raise InputError(
            "sweeps on several workers need dask.distributed; install it: "
            "pip install -c constraints.txt -e '.[distributed]'"
        ) from None
    return distributed


def _reached(place: str) -> Client:
    """A client of the scheduler at this address, or of the one that wrote this file."""
    distributed = _distributed()
    require(
        "://" in place or Path(place).is_file(),
        f"DIPDDPM_SCHEDULER: expected an address such as tcp://host:8786 or a scheduler's file, got {place!r}; "
        "start one: dask scheduler --scheduler-file FILE",
    )
    try:
        address = place if "://" in place else json.loads(Path(place).read_text())["address"]
        return distributed.Client(address, timeout=PATIENCE)
    except (OSError, TimeoutError, ValueError, LookupError, TypeError) as error:
        raise InputError(
            f"DIPDDPM_SCHEDULER: no scheduler answers at {place} ({type(error).__name__}); start it, or unset the "
            "variable"
        ) from None


@contextmanager
def _local(number: int) -> Iterator[Client]:
    """Workers on this machine, which decide nothing anew: device, number type and layout are this process's."""
    distributed = _distributed()
    import dask

    decided = {**compute.default().variables, "DIPDDPM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    # dask would look at a worker a hundred times a second, for its dashboard: 2 % of a fit, the median of five pairs
    decided["DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED"] = "False"
    before = dict(os.environ)
    try:
        # what dask would set for its workers, OMP_NUM_THREADS among it, it sets in this process
        with ExitStack() as stack, dask.config.set({"distributed.nanny.pre-spawn-environ": {}}):
            cluster = stack.enter_context(
                distributed.LocalCluster(
                    n_workers=number,
                    threads_per_worker=1,
                    processes=True,
                    memory_limit=0,  # dask's would pause for good a worker whose last cell was a large one
                    host="127.0.0.1",
                    dashboard_address="127.0.0.1:0",  # any free port: the default is one for all of a machine's users
                    silence_logs="CRITICAL",
                    env=decided,
                )
            )
            yield stack.enter_context(distributed.Client(cluster))
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update(before)


def on_a_worker() -> Compute:
    """What a worker's key holds where it computes as this process does, but for its one thread."""
    return replace(compute.default(), threads=1)


def _attempt(work: Callable[[Item], Value], item: Item) -> Value | Failure:
    """The value, or what went wrong."""
    start = time.perf_counter()
    try:
        return work(item)
    except Exception as error:
        refused = isinstance(error, InputError)
        said = str(error) if refused else " ".join("".join(traceback.format_exception_only(error)).split())
        return Failure(said, traceback.format_exc(), platform.node(), time.perf_counter() - start, refused)


def _process() -> str:
    return f"{platform.node()}:{os.getpid()}"


def _pinned(work: Callable[[Item], Value], source: str, caller: str, item: Item) -> Value | Failure:
    """The same on a worker: one thread, whatever its environment says, and the same library as the caller's.

    A client's threads in the caller's own process compute as that does: its environment is not theirs to change.
    """
    if os.environ.get("DIPDDPM_THREADS") != "1" and caller != _process():
        os.environ["DIPDDPM_THREADS"] = "1"
        compute.default.cache_clear()

    def checked(item: Item) -> Value:
        require(
            store.source_digest() == source,
            "this worker's dipddpm_lib is another version than the caller's; install the same and start it again",
        )
        return work(item)

    return _attempt(checked, item)


def outcomes(
    work: Callable[[Item], Value], items: Sequence[Item], client: Client | None
) -> Iterator[tuple[int, Value | Failure]]:
    """Index and outcome of every item as it comes: in this process and in order, or on the client's workers.

    No more items are handed out than the workers have threads: none waits behind another on a worker that may die, and
    workers that come later are given the rest. A worker that dies costs the item that it was at, which another worker
    begins again; an item at which several died (`allowed-failures` of the scheduler, 3) is a `Failure`.
    """
    if client is None:
        for index, item in enumerate(items):
            yield index, _attempt(work, item)
        return
    source = store.source_digest()
    waiting = iter(range(len(items)))
    started: dict[Future, tuple[int, float]] = {}
    finished: queue.SimpleQueue[Future] = queue.SimpleQueue()
    left, told, looked, threads = len(items), time.perf_counter(), 0.0, 0
    try:
        while left:
            if client.status != "running":
                raise LostScheduler("the scheduler is gone")
            now = time.perf_counter()
            if now - looked >= 1:
                looked, threads = now, _threads(client)
                if not threads and now - told > 20:
                    told = now
                    print("sweep: the scheduler has no workers yet", file=sys.stderr, flush=True)
            for index in islice(waiting, max(0, max(threads, 1) - len(started))):
                future = client.submit(_pinned, work, source, _process(), items[index], pure=False)
                started[future] = index, time.perf_counter()
                future.add_done_callback(finished.put)
            try:
                future = finished.get(timeout=1)
            except queue.Empty:
                continue
            index, since = started.pop(future)
            yield index, _outcome(future, time.perf_counter() - since)
            left -= 1
    finally:
        for future in started:
            future.release()


def _threads(client: Client) -> int:
    """How many the workers have together; 0 while the scheduler does not answer."""
    try:
        return sum(client.nthreads().values())
    except Exception:  # what a lost scheduler raises is dask's own affair; its futures tell
        return 0


def _outcome(future: Future, seconds: float) -> Any:
    """The value of a finished future; `Failure` where its workers died."""
    try:
        if future.status == "finished":
            return future.result()
        if future.status == "error":
            error = future.exception()
            said = " ".join(f"{type(error).__name__}: {error}".split())
            last = getattr(error, "last_worker", None)
            return Failure(said, str(error), getattr(last, "address", "unknown"), seconds)
    except (OSError, CancelledError):  # it went while it handed the value over
        pass
    raise LostScheduler("the scheduler is gone")
