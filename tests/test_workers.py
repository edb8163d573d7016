"""Sweeps on several processes: the same bits, and nothing lost when one of them dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import psutil
import pytest
from distributed.client import FutureCancelledError

from dipddpm_lib import compute, experiment, store, workers
from dipddpm_lib.cells import Cell, bytes_needed
from dipddpm_lib.dip import DIPConfig
from dipddpm_lib.evidence import collected
from dipddpm_lib.experiment import SweepError, sweep
from dipddpm_lib.hybrid import HybridConfig
from dipddpm_lib.types import InputError
from dipddpm_lib.workers import Failure, LostScheduler, outcomes

DIP = DIPConfig(filters=(8, 8), skip=4, in_channels=8, iterations=20, warmup=4, held_out=0.1)
TWO = pytest.mark.skipif(compute.available_cores() < 2, reason="two workers need two cores")

# Python's global generator is what dask draws its addresses and delays from
pytestmark = pytest.mark.global_random


def cells(count: int, config: DIPConfig = DIP) -> list[Cell]:
    return [Cell("coffee", 32, seed, config, "inpaint_50") for seed in range(count)]


def bits(results: Any) -> list[Any]:
    """What of results does not depend on the clock."""
    scores = [[(i, p, q) for i, _, p, q in r.trace] for _, r in results]
    return [
        (c, r.x0_hat.numpy().tobytes(), r.frames.numpy().tobytes(), s)
        for (c, r), s in zip(results, scores, strict=True)
    ]


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DIPDDPM_STORE", str(tmp_path / "store"))
    monkeypatch.delenv("WORKERS", raising=False)
    monkeypatch.delenv("DIPDDPM_SCHEDULER", raising=False)
    return tmp_path / "store"


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A client of two workers, whose store is their own, and where two deaths make a poisoned item."""
    with pytest.MonkeyPatch.context() as patch, dask.config.set({"distributed.scheduler.allowed-failures": 1}):
        patch.setenv("DIPDDPM_STORE", str(tmp_path_factory.mktemp("workers") / "store"))
        with workers.connected(None, 2) as client:
            yield client


# ---- which workers


@pytest.mark.parametrize("asked", ["0", "-1", "two", "1.5", "100000"])
def test_a_number_of_workers_that_the_machine_has_not_is_one_line(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKERS", asked)
    with pytest.raises(
        InputError, match=rf"^WORKERS: expected 1 … \d+, the cores of this machine, or all, got '{asked}'$"
    ):
        sweep(cells(1))


def test_all_is_one_worker_for_each_core_but_one_alone_for_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKERS", "all")
    monkeypatch.setattr(compute, "available_cores", lambda: 7)
    assert workers.count(None) == 7
    assert workers.count(3) == 3, "what is asked for in the call counts"
    gpu = replace(compute.default(), device="cuda")
    monkeypatch.setattr(compute, "default", lambda: gpu)
    assert workers.count(None) == 1


def test_no_more_workers_are_started_than_there_are_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def local(number: int) -> Any:
        asked.append(number)
        return nullcontext(None)

    monkeypatch.setattr(compute, "available_cores", lambda: 9)
    monkeypatch.setattr(workers, "_local", local)
    for most in (None, 0, 1, 4, 20):
        with workers.connected(None, 7, most):
            pass
    assert asked == [7, 1, 1, 4, 7]


def test_without_a_word_there_is_one_worker_which_is_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_local", lambda number: pytest.fail("started"))
    assert not workers.wanted(None)
    assert len(sweep(cells(1))) == 1
    monkeypatch.setenv("WORKERS", "1")
    assert len(sweep(cells(2))) == 2
    monkeypatch.setenv("DIPDDPM_SCHEDULER", "tcp://127.0.0.1:1")
    assert workers.wanted(None)
    assert not workers.wanted(None, 1), "what is asked for in the call counts"


def test_cells_are_measured_against_the_memory_that_each_will_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """A share of this machine's for local workers; a cluster's machines are others, and measure for themselves."""
    large, computed = Cell("coffee", 512, 0, DIPConfig.published()), []
    monkeypatch.setattr(compute, "memory", lambda: 1.5 * bytes_needed(large.config, large.size))
    monkeypatch.setattr(compute, "available_cores", lambda: 2)
    monkeypatch.setattr(experiment, "outcomes", lambda work, cells, client: computed.extend(cells) or iter(()))
    monkeypatch.setattr(experiment, "connected", lambda client, workers, most: nullcontext(client))
    with pytest.raises(InputError, match=r"GiB of memory, this machine has [\d.]+ for each of 2 workers; lower"):
        sweep([large, replace(large, seed=1)], workers=2)
    assert not computed
    with pytest.raises(KeyError):  # a cell alone has the machine for itself; nobody computes here
        sweep([large], workers=2)
    assert computed == [large]
    computed.clear()
    monkeypatch.setattr(compute, "memory", lambda: 1)
    with pytest.raises(InputError, match="GiB of memory"):
        sweep([large])
    assert not computed
    with pytest.raises(KeyError):
        sweep([large], object())  # type: ignore[arg-type]
    assert computed == [large]
    with pytest.raises(InputError, match="GiB of memory"):  # what a worker says
        experiment._sent(large)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("tcp://127.0.0.1:9", r"no scheduler answers at tcp://127\.0\.0\.1:9"),
        ("nowhere.json", "expected an address such as tcp://host:8786 or a scheduler's file, got 'nowhere.json'"),
        ("here.json", r"no scheduler answers at here\.json"),
    ],
)
def test_a_scheduler_that_is_not_there_is_one_line(
    place: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here.json").write_text("{")
    monkeypatch.setattr(workers, "PATIENCE", 1)
    monkeypatch.setenv("DIPDDPM_SCHEDULER", place)
    with pytest.raises(InputError, match=said) as caught:
        sweep(cells(1))
    assert "\n" not in str(caught.value)


def test_without_distributed_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    monkeypatch.setattr(compute, "available_cores", lambda: 2)
    with pytest.raises(InputError, match=r"^sweeps on several workers need dask\.distributed; install it: pip install"):
        sweep(cells(1), workers=2)


def test_a_worker_computes_on_one_thread_whatever_it_was_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPDDPM_THREADS", "2")
    compute.default.cache_clear()
    try:
        mine = workers._pinned(lambda _: compute.default().threads, store.source_digest(), workers._process(), None)
        assert (mine, os.environ["DIPDDPM_THREADS"]) == (2, "2"), "threads of the caller's own process change nothing"
        found = workers._pinned(lambda _: compute.default().threads, store.source_digest(), "another:1", None)
        assert found == 1
    finally:
        monkeypatch.undo()
        compute.default.cache_clear()
        compute.default()


def test_a_worker_of_another_version_computes_nothing() -> None:
    found = workers._pinned(lambda _: pytest.fail("computed"), "another", "another:1", None)
    assert isinstance(found, Failure)
    assert found.refused
    assert "another version" in found.error


# ---- what workers do: `work` is sent to them by its name


def work(item: tuple[str, str]) -> str:
    """`fail`, `die` at once or once only, or wait a moment; each start is on record in the folder."""
    what, folder = item
    with (Path(folder) / f"{what}.starts").open("a") as file:
        file.write(f"{os.getpid()}\n")
    if what == "fail":
        raise RuntimeError("no good")
    if what == "die" or (what == "die once" and len(starts(folder, what)) == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.2)
    return what


def starts(folder: str | Path, what: str) -> list[str]:
    return (Path(folder) / f"{what}.starts").read_text().splitlines()


@TWO
@pytest.mark.slow
def test_what_dies_or_fails_costs_itself_alone(two: Any, tmp_path: Path) -> None:
    whats = ["a", "die once", "b", "fail", "die", *"cdefg"]
    found = dict(outcomes(work, [(what, str(tmp_path)) for what in whats], two))
    done = {whats[index]: outcome for index, outcome in found.items()}
    assert set(done) == set(whats)
    assert {what for what, outcome in done.items() if isinstance(outcome, Failure)} == {"fail", "die"}
    assert all(outcome == what for what, outcome in done.items() if not isinstance(outcome, Failure))
    assert done["fail"].error == "RuntimeError: no good"
    assert "in work" in done["fail"].traceback
    assert not done["fail"].refused
    assert done["die"].error.startswith("KilledWorker")
    assert done["die"].host.startswith("tcp://127.0.0.1")
    counts = {what: len(starts(tmp_path, what)) for what in whats}
    assert (counts.pop("die once"), counts.pop("die")) == (2, 2)
    # what a worker had done and not yet handed over when it died is asked for again; of a cell, the store answers
    assert sum(counts.values()) - len(counts) <= 3, "for each death one at most"


@TWO
@pytest.mark.slow
def test_two_workers_give_the_bits_of_this_process_on_one_thread(
    two: Any, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compute.default().threads == 1, "tests run on one thread"
    asked = [*cells(4), Cell("coffee", 32, 0, HybridConfig(dip=DIP), "denoise_25")]
    before = dict(os.environ)
    monkeypatch.setenv(store.USED, str(tmp_path / "used"))  # the workers, which run already, do not know of it
    results = sweep(asked, two, name="far")
    keys = [entry["key"] for entry in store.read_list("far")["entries"]]
    told = [json.loads(line) for line in (tmp_path / "used").read_text().splitlines()]
    assert all(store.costs(key)[key]["seconds"] > 0 for key in keys), "what a cell cost came with it"
    assert {key for costs in told for key in costs} >= set(keys)
    monkeypatch.delenv(store.USED)
    assert dict(os.environ) == before, "dask sets OMP_NUM_THREADS in the parent, unless it is told not to"
    assert bits(collected("far")) == bits(results), "this store keeps them too, though the workers have their own"
    monkeypatch.setattr(workers, "outcomes", lambda *_: pytest.fail("computed again"))
    assert bits(sweep(asked, workers=1)) == bits(results), "on one thread the keys are the same"
    monkeypatch.undo()
    monkeypatch.setenv("DIPDDPM_STORE", str(tmp_path / "serial"))
    assert bits(sweep(asked, workers=1)) == bits(results)


@TWO
@pytest.mark.slow
def test_a_worker_killed_in_a_cell_changes_no_bit(two: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = cells(3, replace(DIP, iterations=150, stop="none"))
    killed = []

    def kill() -> None:
        pids = two.run(os.getpid)
        while not killed:
            killed.extend(pids[address] for address, tasks in two.processing().items() if tasks)
        time.sleep(0.2)
        os.kill(killed[0], signal.SIGKILL)

    watcher = threading.Thread(target=kill)
    watcher.start()
    results = sweep(asked, two)
    watcher.join()
    assert not psutil.pid_exists(killed[0])
    monkeypatch.setenv("DIPDDPM_STORE", str(tmp_path / "serial"))
    assert bits(sweep(asked)) == bits(results)


@TWO
@pytest.mark.slow
def test_a_poisoned_cell_fails_alone_and_what_is_stored_starts_no_worker(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poison = Cell("coffee", 32, 9, replace(DIP, held_out=0.9999), "inpaint_50")  # nothing is left to fit
    asked = [*cells(2), poison, *cells(4)[2:]]
    before, threads = dict(os.environ), compute.default().threads
    monkeypatch.setenv("WORKERS", "2")
    with pytest.raises(SweepError, match=r"near: 1 of 5 cells failed.*seed 9: held_out: 0\.9999 leaves no measurement"):
        sweep(asked, name="near")
    assert len(list((root / "failed").iterdir())) == 1
    assert {k: v for k, v in os.environ.items() if k != "WORKERS"} == before
    assert compute.default().threads == threads
    monkeypatch.setattr(workers, "_local", lambda number: pytest.fail("started workers"))
    assert len(sweep(cells(4), name="near")) == 4
    assert len(collected("near")) == 4


def _started(tmp_path: Path, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", *arguments], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def _cluster(tmp_path: Path, file: Path) -> list[subprocess.Popen[bytes]]:
    """A scheduler and a worker, as people start them; each ends by itself when it is left alone."""
    file.unlink(missing_ok=True)
    scheduler = _started(
        tmp_path,
        *("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0"),
        *("--dashboard-address", "127.0.0.1:0", "--scheduler-file", str(file), "--idle-timeout", "120s"),
    )
    worker = _started(
        tmp_path,
        *("distributed.cli.dask_worker", "--scheduler-file", str(file), "--nthreads", "1", "--no-dashboard"),
        *("--host", "127.0.0.1", "--death-timeout", "60"),
    )
    deadline = time.monotonic() + 60
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return [scheduler, worker]


@pytest.mark.slow
def test_a_killed_scheduler_is_one_line_and_a_second_run_takes_up_the_rest(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "scheduler.json"
    monkeypatch.setenv("DIPDDPM_SCHEDULER", str(file))
    asked = cells(4, replace(DIP, iterations=100, stop="none"))
    processes = _cluster(tmp_path, file)

    def kill() -> None:
        while not list(root.glob("?" * 64)):
            time.sleep(0.01)
        processes[0].kill()

    try:
        watcher = threading.Thread(target=kill)
        watcher.start()
        with pytest.raises(
            SweepError, match=r"^far: the scheduler was lost; [0123] of 4 cells are stored; start it"
        ) as lost:
            sweep(asked, name="far")
        watcher.join()
        assert "\n" not in str(lost.value)
        kept = {path.name: path.stat().st_mtime_ns for path in root.glob("?" * 64)}
        processes += _cluster(tmp_path, file)
        results = sweep(asked, name="far")
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert len(list(root.glob("?" * 64))) == 4
    assert all((root / name).stat().st_mtime_ns == when for name, when in kept.items()), "these were not made again"
    assert len(results) == len(collected("far")) == 4


@pytest.mark.parametrize(
    ("status", "raised"),
    [
        ("cancelled", None),
        ("finished", OSError("Stream is closed")),
        ("finished", FutureCancelledError("work", "scheduler-connection-lost")),
    ],
)
def test_a_lost_scheduler_is_told_from_a_lost_item(status: str, raised: BaseException | None) -> None:
    """It may go before a cell is done, and while its result is handed over."""

    class Gone:
        def __init__(self) -> None:
            self.status = status

        def result(self) -> None:
            assert raised is not None
            raise raised

    with pytest.raises(LostScheduler):
        workers._outcome(Gone(), 0.0)
