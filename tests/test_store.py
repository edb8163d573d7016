"""What the store hands out is what was put in, whatever happens to its files and its writers."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import re
import shutil
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

import dipddpm_lib
from dipddpm_lib import compute, store
from dipddpm_lib.types import InputError

FILES = ("record.json", "arrays.safetensors", "sums.json")
RECORD = {"psnr": 24.46, "trace": [[0, 0.5, math.inf, -0.25]], "name": "σ", "nothing": None}


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DIPDDPM_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


def arrays() -> dict[str, Tensor]:
    x = torch.randn(2, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    return {
        "x": x,
        "turned": x.transpose(2, 3),  # not contiguous
        "bytes": torch.arange(256).to(torch.uint8),
        "half": x.to(torch.bfloat16),
        "odd": torch.tensor([math.nan, -0.0, math.inf, 1e-45]),
        "empty": torch.zeros(0, 3),
    }


def bits(x: Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    return x.dtype, tuple(x.shape), bytes(x.contiguous().flatten().view(torch.uint8).numpy())


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return {k: bits(v) for k, v in a.items()} == {k: bits(v) for k, v in b.items()}


# ---- the key

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
PARAMETERS = st.dictionaries(st.text(max_size=3), VALUES, max_size=4)


def turned_round(value: Any) -> Any:
    """The same value, its dictionaries filled in the other order."""
    if isinstance(value, dict):
        return {k: turned_round(v) for k, v in reversed(value.items())}
    return [turned_round(v) for v in value] if isinstance(value, list) else value


@given(PARAMETERS)
def test_the_key_knows_no_order_of_entries(parameters: dict[str, Any]) -> None:
    name = store.key("f", parameters)
    assert name == store.key("f", turned_round(parameters))
    assert re.fullmatch("[0-9a-f]{64}", name)


@given(PARAMETERS, PARAMETERS)
@example({"steps": 1}, {"steps": 1.5})
@example({"steps": 1}, {"steps": True})
@example({"steps": 1}, {"steps": "1"})
@example({"steps": [1, 2]}, {"steps": [2, 1]})
@example({"a": {"b": 1}}, {"a": {"b": 1, "c": None}})
def test_the_key_changes_with_every_parameter(one: dict[str, Any], other: dict[str, Any]) -> None:
    assume(json.dumps(one, sort_keys=True) != json.dumps(other, sort_keys=True))  # 1 == True in Python, not in JSON
    assert store.key("f", one) != store.key("f", other)


def test_the_key_changes_with_the_function_and_the_circumstances(monkeypatch: pytest.MonkeyPatch) -> None:
    before = compute.default()
    names = {store.key("f", {}), store.key("g", {})}
    for change in (
        {"device": "cuda"},
        {"dtype": "float16"},
        {"channels_last": not before.channels_last},
        {"threads": 99},
    ):
        other = compute.Compute(**{**vars(before), **change})
        monkeypatch.setattr(compute, "default", lambda other=other: other)
        names.add(store.key("f", {}))
    monkeypatch.setattr(compute, "default", lambda: before)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "__version__", "0.0.1+cpu")
        names.add(store.key("f", {}))
    with monkeypatch.context() as patch:
        patch.setattr(store, "source_digest", lambda: "another library")
        names.add(store.key("f", {}))
    assert len(names) == 8
    assert store.key("f", {}) in names, "and comes back with them"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_cannot_name_is_no_parameter(value: float) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        store.key("f", {"inner": [{"rho": value}]})


# ---- the source


@pytest.fixture
def digest_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """The digest of a copy of the library in which one module's text was changed."""
    copy = tmp_path / "library"
    copy.mkdir()
    for source in Path(dipddpm_lib.__file__).parent.glob("*.py"):
        shutil.copy(source, copy)
    monkeypatch.setattr(store, "__file__", str(copy / "store.py"))

    def digest(module: str, edit: Callable[[str], str]) -> str:
        path = copy / f"{module}.py"
        before = path.read_text(encoding="utf-8")
        after = edit(before)
        assert after != before, "the edit must bite"
        path.write_text(after, encoding="utf-8")
        try:
            return store.source_digest.__wrapped__()
        finally:
            path.write_text(before, encoding="utf-8")

    return digest


def test_rewording_recomputes_nothing(digest_of: Callable[..., str]) -> None:
    now = store.source_digest.__wrapped__()
    assert digest_of("metrics", lambda s: s.replace('"""How near', '"""How very near')) == now, "a module's docstring"
    assert digest_of("metrics", lambda s: s.replace('"""The root', '"""A root')) == now, "a function's docstring"
    assert digest_of("metrics", lambda s: s.replace("# the range of", "# the width of")) == now, "a comment"
    assert digest_of("metrics", lambda s: s.replace("\n\n\n", "\n\n\n\n")) == now, "layout"
    assert (
        digest_of("dip", lambda s: s.replace('"""The last `Fit`', '"""That `Fit`', 1).replace("    #", "    # so:"))
        == now
    )
    assert digest_of("plotting", lambda s: s + "\nx = 1\n") == now, "ink is no source of numbers"


def test_a_change_of_code_recomputes(digest_of: Callable[..., str]) -> None:
    seen = {store.source_digest.__wrapped__()}
    for module in store.SOURCES:
        seen.add(digest_of(module, lambda s: s + "\n_added = 1\n"))
    seen.add(digest_of("metrics", lambda s: s.replace("PEAK = 2.0", "PEAK = 2.5")))
    seen.add(digest_of("metrics", lambda s: s.replace("10 ** (-psnr / 20)", "10 ** (-psnr / 21)")))
    seen.add(digest_of("dip", lambda s: s.replace("iterations: int = 400", "iterations: int = 401")))
    seen.add(digest_of("networks", lambda s: s.replace("self.", "this.", 1)))
    assert len(seen) == len(store.SOURCES) + 5


def test_the_source_is_every_module_beneath_the_experiments() -> None:
    modules = {path.stem for path in Path(dipddpm_lib.__file__).parent.glob("*.py")}
    above = {"__init__", "store", "adapters", "tiles", "cells", "evidence", "narrative", "workers", "experiment"}
    above |= {"archive", "claims", "replay", "plotting", "play", "widgets"}
    assert set(store.SOURCES) == modules - above


# ---- putting and getting


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_what_was_put_comes_back_to_the_bit(root: Path) -> None:
    put = arrays()
    assert store.get("k") is None
    store.put("k", RECORD, put)
    record, got = store.get("k") or pytest.fail("nothing there")
    assert record == RECORD
    assert same(got, put)
    assert files(root) == sorted(f"k/{name}" for name in FILES), "no scratch stays"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(record=PARAMETERS, numbers=st.lists(st.floats(width=32), max_size=5))
def test_any_record_comes_back(record: dict[str, Any], numbers: list[float]) -> None:
    name = store.key("any", {"record": record, "numbers": [repr(n) for n in numbers]})
    array = {"n": torch.tensor(numbers, dtype=torch.float32)}
    store.put(name, record, array)
    got = store.get(name)
    assert got is not None
    assert got[0] == record
    assert same(got[1], array)


def test_remember_computes_once_and_answers_alike() -> None:
    calls = []

    def work() -> tuple[dict[str, Any], dict[str, Tensor]]:
        calls.append(1)
        return {"pair": (1, 2), "inf": math.inf}, arrays()

    first = store.remember("f", {"a": 1}, work)
    second = store.remember("f", {"a": 1}, work)
    assert len(calls) == 1
    assert first[0] == second[0] == {"pair": [1, 2], "inf": math.inf}
    assert same(first[1], second[1])
    store.remember("f", {"a": 2}, work)
    assert len(calls) == 2


def test_what_a_result_cost_is_kept_and_told_whenever_it_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "used"
    monkeypatch.setenv(store.USED, str(told))

    def inner() -> tuple[dict[str, Any], dict[str, Tensor]]:
        time.sleep(0.3)
        return {"n": 1}, {}

    def outer() -> tuple[dict[str, Any], dict[str, Tensor]]:
        time.sleep(0.1)
        return store.remember("inner", {}, inner)

    start = time.perf_counter()
    assert store.remember("outer", {}, outer)[0] == {"n": 1}, "who asks sees the record alone"
    whole = time.perf_counter() - start
    (line,) = told.read_text().splitlines()
    costs = json.loads(line)
    assert set(costs) == {store.key("inner", {}), store.key("outer", {})}, "what was asked for inside is told, too"
    inside, outside = (costs[store.key(name, {})]["seconds"] for name in ("inner", "outer"))
    assert inside >= 0.3
    assert outside >= 0.1
    assert inside + outside <= whole, "what was done inside has a cost of its own"
    assert all(cost["bytes"] > 2**20 for cost in costs.values())
    store.remember("outer", {}, lambda: pytest.fail("computed again"))
    assert told.read_text().splitlines() == [line, line]
    store.remember("other", {}, lambda: store.remember("inner", {}, lambda: pytest.fail("computed again")))
    other = json.loads(told.read_text().splitlines()[-1])
    assert other[store.key("inner", {})] == costs[store.key("inner", {})]
    assert other[store.key("other", {})]["seconds"] < 0.1


def test_a_failure_is_not_remembered(root: Path) -> None:
    def fails() -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.remember("f", {}, fails)
    assert files(root) == [], "neither a result nor a lock"
    assert store.remember("f", {}, lambda: ({"a": 1}, {}))[0] == {"a": 1}


# ---- damage


def flip(path: Path, where: float = 0.5, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[min(len(data) - 1, int(where * len(data)))] ^= 1 << bit
    path.write_bytes(bytes(data))


HARM: dict[str, Callable[[Path], object]] = {
    "missing": Path.unlink,
    "truncated": lambda p: p.write_bytes(p.read_bytes()[:-1]),
    "empty": lambda p: p.write_bytes(b""),
    "zeros": lambda p: p.write_bytes(bytes(p.stat().st_size)),
    "longer": lambda p: p.write_bytes(p.read_bytes() + b" "),
    "first bit": lambda p: flip(p, 0.0),
    "a bit inside": lambda p: flip(p, 0.5, 3),
    "last bit": lambda p: flip(p, 1.0, 7),
    "broken JSON": lambda p: p.write_text('{"record.json": '),
    "other JSON": lambda p: p.write_text("[1, 2]"),
    "a folder": lambda p: (p.unlink(), p.mkdir()),
}


@pytest.mark.parametrize("harm", HARM)
@pytest.mark.parametrize("file", FILES)
def test_damage_is_put_aside_and_computed_anew(
    file: str, harm: str, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if file == "sums.json" and harm == "longer":
        return  # a space after JSON is JSON
    calls = []

    def work() -> tuple[dict[str, Any], dict[str, Tensor]]:
        calls.append(1)
        return RECORD, arrays()

    name = store.key("f", {})
    store.remember("f", {}, work)
    HARM[harm](root / name / file)
    assert store.get(name) is None
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "failed its check" in told
    assert "quarantine" in told
    assert not (root / name).exists()
    (aside,) = (root / "quarantine").iterdir()
    assert aside.name.startswith(name)

    record, got = store.remember("f", {}, work)
    assert len(calls) == 2
    assert (record, same(got, arrays())) == (RECORD, True)
    again = store.get(name)
    assert again is not None
    assert same(again[1], arrays())
    assert capsys.readouterr().err == "", "and all is well from here on"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(file=st.sampled_from(FILES), where=st.floats(0, 1), bit=st.integers(0, 7))
def test_no_single_bit_can_flip_unnoticed(file: str, where: float, bit: int, root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    store.put("k", RECORD, arrays())
    flip(root / "k" / file, where, bit)
    assert store.get("k") is None


def test_an_empty_folder_is_no_result(root: Path) -> None:
    (root / "k").mkdir(parents=True)
    assert store.get("k") is None
    store.put("k", RECORD, {})
    assert store.get("k") == (RECORD, {})


def test_what_cannot_be_put_aside_is_still_not_served(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A store that one may read but not write: here the place of the quarantine is taken."""
    store.put("k", RECORD, arrays())
    (root / "quarantine").write_text("in the way")
    flip(root / "k" / "record.json")
    assert store.get("k") is None
    assert "k failed its check (record.json differs from its SHA-256) and stays (" in capsys.readouterr().err


@pytest.mark.parametrize("error", [OSError(errno.EMFILE, "too many"), OSError(errno.EIO, "broken"), MemoryError()])
def test_what_the_reader_lacks_is_not_the_results_fault(
    error: Exception, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No descriptor is left, or no memory: the result stays, for whoever can read it."""
    store.put("k", RECORD, arrays())
    checkpoint = store.Checkpoint("k")
    checkpoint.save(arrays())

    def fails(*_: Any) -> bytes:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(store, "_read", fails)
        assert store.get("k") is None
        assert checkpoint.load() is None
    assert not (root / "quarantine").exists()
    found, state = store.get("k"), checkpoint.load()
    assert found is not None
    assert state is not None
    assert same(found[1], state)


def test_a_store_can_be_shared(root: Path) -> None:
    """What is written has the rights that the umask leaves, in its folders as in its files."""
    before = os.umask(0o022)
    try:
        store.put("k", RECORD, arrays())
        store.write_list("name", [1])
    finally:
        os.umask(before)
    assert stat.S_IMODE((root / "k").stat().st_mode) == 0o755
    assert stat.S_IMODE((root / "k" / "record.json").stat().st_mode) == 0o644
    assert stat.S_IMODE((root / "collections" / "name.json").stat().st_mode) == 0o644


def test_nothing_is_kept_at_the_end_of_a_link(root: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    root.mkdir()
    (root / "k").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="cannot write to"):
        store.put("k", RECORD, arrays())
    assert not list((tmp_path / "elsewhere").iterdir())


# ---- writers


def test_two_threads_write_one_key(root: Path) -> None:
    gate, failed = threading.Barrier(4), []

    def write() -> None:
        try:
            gate.wait(10)
            for n in range(10):
                store.put(f"k{n}", RECORD, arrays())
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert failed == []
    assert files(root) == sorted(f"k{n}/{name}" for n in range(10) for name in FILES)
    for n in range(10):
        got = store.get(f"k{n}")
        assert got is not None
        assert (got[0], same(got[1], arrays())) == (RECORD, True)


def test_the_first_of_two_writers_stays() -> None:
    store.put("k", {"writer": 1}, {})
    store.put("k", {"writer": 2}, {})
    assert store.get("k") == ({"writer": 1}, {})


# forks, so that torch is imported once; the children have no threads to lose
KILLED = """
import json, os, random, signal, sys, time
import torch
from dipddpm_lib import store

def value(n):
    return {"n": n}, {"x": torch.full((64, 64), float(n))}

def child(work):
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(3)
        os._exit(0)
    return pid

def wait(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def right(n, found):
    return found is None or (found[0] == {"n": n} and torch.equal(found[1]["x"], value(n)[1]["x"]))

out = {"stages": [], "random": 0, "writers": []}
sync = store._sync
for stage in range(5):
    def dies(path, calls=[]):
        calls.append(path)
        if len(calls) == stage + 1:
            os.kill(os.getpid(), signal.SIGKILL)
        sync(path)
    def work():
        store._sync = dies
        store.put(f"stage-{stage}", *value(stage))
    code = wait(child(work))
    found = store.get(f"stage-{stage}")
    out["stages"].append([code, found is not None, right(stage, found)])

def writes():
    for n in range(100000):
        store.put(f"many-{n}", *value(n))
draw = random.Random(0)
for _ in range(12):
    pid = child(writes)
    time.sleep(0.02 + 0.1 * draw.random())
    os.kill(pid, signal.SIGKILL)
    wait(pid)
n = 0
while (store.folder() / f"many-{n}").exists():
    found = store.get(f"many-{n}")
    assert found is not None and right(n, found), n
    n += 1
out["random"] = n

at = time.time() + 0.2
def race():
    time.sleep(max(0.0, at - time.time()))
    for n in range(20):
        store.put(f"race-{n}", *value(n))
out["writers"] = [wait(p) for p in [child(race) for _ in range(3)]]
assert all(store.get(f"race-{n}") is not None and right(n, store.get(f"race-{n}")) for n in range(20))
out["aside"] = (store.folder() / "quarantine").exists()
out["scratch"] = len(list(store.folder().glob("unfinished/tmp-*")))
print(json.dumps(out))
"""


def test_killed_and_racing_processes_leave_no_wrong_value(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", KILLED],
        cwd=Path(dipddpm_lib.__file__).parents[1],
        env={**os.environ, "DIPDDPM_STORE": str(root)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    out = json.loads(done.stdout)
    # killed while a file, and then the scratch folder, is synced: nothing; while the root is synced: all of it
    assert out["stages"] == [[-9, False, True]] * 4 + [[-9, True, True]]
    assert out["random"] > 0
    assert out["writers"] == [0, 0, 0]
    assert out["aside"] is False, "nothing half written was ever in a result's place"
    assert out["scratch"] >= 4, "what the killed left is still young"


# ---- the folder


def test_a_root_that_cannot_be_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("a file, no folder")
    monkeypatch.setenv("DIPDDPM_STORE", str(tmp_path / "file" / "store"))  # not even root can write there
    with pytest.raises(InputError, match=r"^store: cannot write to .*file.store.*; .*DIPDDPM_STORE.*$") as caught:
        store.put("k", RECORD, arrays())
    assert "\n" not in str(caught.value)
    assert store.get("k") is None


def test_a_full_disk_is_one_line_and_leaves_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store, "_sync", full)
        with pytest.raises(InputError, match=r"No space left on device.*free space there"):
            store.put("k", RECORD, arrays())
    assert files(root) == []
    store.put("k", RECORD, arrays())
    assert store.get("k") is not None


def test_scratch_folders_are_collected_by_age(root: Path) -> None:
    now = time.time()
    old, young = store.STALE_SECONDS + 60, store.STALE_SECONDS - 60
    ages = {"tmp-old": old, "tmp-young": young, "tmp-new": 0, "old.lock": old, "young.lock": young}
    for name, age in ages.items():
        left = root / "unfinished" / name
        left.mkdir(parents=True)
        (left / "record.json").write_text("{}")
        os.utime(left, (now - age, now - age))
    (root / "old-result").mkdir()
    os.utime(root / "old-result", (0, 0))
    store.put("k", RECORD, {})
    assert sorted(p.name for p in root.iterdir()) == ["k", "old-result", "unfinished"]
    assert sorted(p.name for p in (root / "unfinished").iterdir()) == ["tmp-new", "tmp-young", "young.lock"]


@pytest.mark.parametrize("name", ["unfinished", "collections"])
def test_nothing_is_collected_or_read_through_a_link(name: str, root: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "tmp-precious").mkdir(parents=True)
    os.utime(elsewhere / "tmp-precious", (0, 0))
    store.write_list("mine", 1)
    (root / "collections").rename(elsewhere / "lists")
    root.joinpath(name).symlink_to(elsewhere if name == "unfinished" else elsewhere / "lists")
    with suppress(InputError):  # where the link is the folder that it needs
        store.put("k", RECORD, {})
    assert (elsewhere / "tmp-precious").is_dir()
    assert store.read_list("mine") is None


def test_a_whole_result_that_came_meanwhile_is_not_moved_aside(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process finds damage; before it moves that away, another has done so and computed anew."""
    store.put("k", RECORD, {"x": torch.zeros(4)})
    (root / "k" / "record.json").write_text("broken")
    place_of = store.place_of

    def slow(name: str) -> Path:
        if name == "quarantine":
            monkeypatch.setattr(store, "place_of", place_of)
            store.get("k")  # the other process
            store.put("k", RECORD, {"x": torch.ones(4)})
        return place_of(name)

    monkeypatch.setattr(store, "place_of", slow)
    assert store.get("k") is None
    found = store.get("k")
    assert found is not None
    assert torch.equal(found[1]["x"], torch.ones(4))


def test_who_loses_a_race_answers_with_what_is_kept(root: Path) -> None:
    def work() -> tuple[dict[str, Any], dict[str, Tensor]]:
        store.put(store.key("f", {}), {"by": "the other"}, {})
        return {"by": "this one"}, {}

    assert store.remember("f", {}, work)[0] == {"by": "the other"}


ASKS = """
import json, os, sys, time
from pathlib import Path
from dipddpm_lib import store

def work():
    (Path(sys.argv[1]) / str(os.getpid())).touch()
    time.sleep(float(sys.argv[2]))
    return {"by": os.getpid()}, {}

print(json.dumps(store.remember("f", {}, work)[0]["by"]))
"""


def asks(begun: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", "-c", ASKS, str(begun), str(seconds)]
    root = Path(dipddpm_lib.__file__).parents[1]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)


def wait_for(begun: Path) -> None:
    limit = time.monotonic() + 60
    while not list(begun.iterdir()):
        assert time.monotonic() < limit
        time.sleep(0.01)


def test_of_two_processes_that_ask_for_a_result_one_computes(root: Path, tmp_path: Path) -> None:
    (begun := tmp_path / "begun").mkdir()
    with asks(begun, 1.0) as process:
        wait_for(begun)
        found = store.remember("f", {}, lambda: pytest.fail("both compute"))
        assert process.stdout is not None
        assert found[0] == {"by": json.loads(process.stdout.read())}
    assert not list(root.glob("unfinished/*")), "nothing is left behind"


def test_who_waits_for_a_process_that_is_killed_goes_on(tmp_path: Path) -> None:
    (begun := tmp_path / "begun").mkdir()
    with asks(begun, 60.0) as process:
        wait_for(begun)
        threading.Timer(0.5, process.kill).start()
        start = time.monotonic()
        assert store.remember("f", {}, lambda: ({"by": "this one"}, {}))[0] == {"by": "this one"}
        assert 0.3 < time.monotonic() - start < 30


def test_where_there_are_no_locks_both_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSYS, "this file system has no flock")

    monkeypatch.setattr(store.FileLock, "acquire", refuses)
    assert store.remember("f", {}, lambda: ({"n": 1}, {}))[0] == {"n": 1}


@pytest.mark.parametrize("forged", ["[]", '"x"', "null", '{"costs": "abc"}', '{"costs": {"k": 3}}'])
def test_a_forged_record_is_moved_aside(forged: str, root: Path) -> None:
    """Its sum is right, too."""
    store.put("k", RECORD, {})
    (root / "k" / "record.json").write_text(forged)
    sums = json.loads((root / "k" / "sums.json").read_text())
    sums["record.json"] = hashlib.sha256(forged.encode()).hexdigest()
    (root / "k" / "sums.json").write_text(json.dumps(sums))
    assert store.serve("k") is None
    assert len(list((root / "quarantine").iterdir())) == 1


@pytest.mark.parametrize(
    "cost", ['{"seconds": "x", "bytes": null}', '{"seconds": NaN, "bytes": 1}', '{"bytes": 1}', "{}"]
)
def test_a_forged_cost_is_not_told(cost: str, root: Path) -> None:
    text = f'{{"n": 1, "costs": {{"k": {cost}}}}}'
    store.put("k", RECORD, {})
    (root / "k" / "record.json").write_text(text)
    sums = json.loads((root / "k" / "sums.json").read_text())
    sums["record.json"] = hashlib.sha256(text.encode()).hexdigest()
    (root / "k" / "sums.json").write_text(json.dumps(sums))
    assert store.get("k") == ({"n": 1}, {})
    assert store.costs("k") == {}


def test_the_folder_is_what_the_environment_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store.folder() == tmp_path / "store"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DIPDDPM_STORE", "~/kept")
    assert store.folder() == tmp_path / "kept"
    monkeypatch.delenv("DIPDDPM_STORE")
    assert store.folder() == Path(dipddpm_lib.__file__).resolve().parents[1] / "results"
    monkeypatch.setattr(store, "__file__", str(tmp_path / "site-packages" / "dipddpm_lib" / "store.py"))
    assert store.folder() == tmp_path / ".cache" / "dipddpm"


# ---- unfinished work


def test_a_checkpoint_is_the_last_that_was_saved(root: Path) -> None:
    checkpoint = store.Checkpoint("a")
    assert checkpoint.load() is None
    checkpoint.save({"x": torch.zeros(2)})
    checkpoint.save(arrays())
    found = store.Checkpoint("a").load()
    assert found is not None
    assert same(found, arrays())
    assert store.Checkpoint("b").load() is None
    checkpoint.remove()
    assert checkpoint.load() is None
    assert not list((root / "unfinished").iterdir())
    checkpoint.remove()  # twice is no error


@pytest.mark.parametrize("harm", ["cut", "flip", "empty", "zeros"])
def test_a_damaged_checkpoint_is_put_aside(harm: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint = store.Checkpoint("a")
    checkpoint.save(arrays())
    data = bytearray(checkpoint.path.read_bytes())
    if harm == "flip":
        data[len(data) // 2] ^= 1
    shorter = {"cut": data[:-1], "flip": data, "empty": b"", "zeros": bytes(len(data))}[harm]
    checkpoint.path.write_bytes(shorter)
    assert checkpoint.load() is None
    assert not checkpoint.path.exists()
    assert len(list((root / "quarantine").iterdir())) == 1
    assert "failed its check" in capsys.readouterr().err


def test_a_checkpoint_that_cannot_be_written_leaves_the_one_before(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = store.Checkpoint("a")
    checkpoint.save(arrays())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(InputError, match="No space left on device"):
            checkpoint.save({"x": torch.zeros(2)})
    found = checkpoint.load()
    assert found is not None
    assert same(found, arrays())
    assert [path.name for path in (root / "unfinished").iterdir()] == ["a.checkpoint"]


def test_abandoned_checkpoints_are_collected_by_age(root: Path) -> None:
    now = time.time()
    for name, age in (("old", store.ABANDONED_SECONDS + 60), ("young", store.ABANDONED_SECONDS - 60), ("new", 0)):
        checkpoint = store.Checkpoint(name)
        checkpoint.save(arrays())
        os.utime(checkpoint.path, (now - age, now - age))
    left = root / "unfinished" / "tmp-left"
    left.write_bytes(b"half")
    os.utime(left, (0, 0))
    store.put("k", RECORD, {})
    assert sorted(path.name for path in (root / "unfinished").iterdir()) == ["new.checkpoint", "young.checkpoint"]


# ---- lists and notes


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.floats(0, 1), bit=st.integers(0, 7))
def test_no_bit_of_a_list_can_flip_unnoticed(where: float, bit: int, root: Path) -> None:
    store.write_list("numbers", {"psnr": 27.5})
    flip(root / "collections" / "numbers.json", where, bit)
    assert store.read_list("numbers") is None


def test_a_list_is_replaced_as_a_whole(root: Path) -> None:
    assert store.read_list("a") is None
    store.write_list("a", {"one": [1.5, None]})
    store.write_list("a", {"two": math.inf})
    assert store.read_list("a") == {"two": math.inf}
    assert [path.name for path in (root / "collections").iterdir()] == ["a.json"]


# ---- a store that somebody else made


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/etc/passwd", "a\nb", ".hidden", "a b", "x" * 201])
def test_a_name_leads_nowhere_but_into_the_store(name: str, root: Path) -> None:
    for call in (
        lambda: store.put(name, RECORD, {}),
        lambda: store.get(name),
        lambda: store.Checkpoint(f"{name}/"),
        lambda: store.write_list(f"{name}/", {}),
    ):
        with pytest.raises(InputError, match="store: expected a name of") as caught:
            call()
        assert "\n" not in str(caught.value)
    assert not root.exists()


def test_links_are_followed_nowhere(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A result that is a link, a file of one that is, and a folder for checkpoints that leads elsewhere."""
    store.put("k", RECORD, arrays())
    (root / "link").symlink_to(root / "k")
    assert store.get("link") is None
    assert "it is a link" in capsys.readouterr().err
    assert store.get("k") is not None
    (root / "k" / "record.json").rename(tmp_path / "record.json")
    (root / "k" / "record.json").symlink_to(tmp_path / "record.json")
    assert store.get("k") is None
    (tmp_path / "elsewhere").mkdir()
    (root / "unfinished").rmdir()
    (root / "unfinished").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="is a link"):
        store.Checkpoint("a").save(arrays())
    with pytest.raises(InputError, match="is a link"):
        store.put("l", RECORD, arrays())
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("file", FILES)
def test_what_is_no_file_is_not_read(file: str, root: Path) -> None:
    """A pipe would be waited at for ever, and a device has no end."""
    store.put("k", RECORD, arrays())
    (root / "k" / file).unlink()
    os.mkfifo(root / "k" / file)
    assert store.get("k") is None


@pytest.mark.parametrize("file", FILES)
def test_what_is_too_large_is_not_read(file: str, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file with a hole in it, which takes no room on the disk and would take all of the memory."""
    store.put("k", RECORD, arrays())
    os.truncate(root / "k" / file, store.LARGEST[file] + 1)
    with compute.peak_memory() as peak:
        assert store.get("k") is None
    assert peak.bytes < 2**26
    assert f"{file} is no file of at most {store.LARGEST[file]:,} bytes" in capsys.readouterr().err


def header(**tensors: Any) -> bytes:
    text = json.dumps(tensors).encode()
    return len(text).to_bytes(8, "little") + text


F32 = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
LIES = {
    "a header longer than the file": (2**62).to_bytes(8, "little") + header(x=F32)[8:] + bytes(16),
    "a header longer than any number": b"\xff" * 8 + header(x=F32)[8:] + bytes(16),
    "a shape larger than its bytes": header(x={**F32, "shape": [2**40]}) + bytes(16),
    "a shape that overflows": header(x={**F32, "shape": [2**33, 2**33]}) + bytes(16),
    "bytes beyond the end": header(x={**F32, "shape": [2**30], "data_offsets": [0, 2**32]}) + bytes(16),
    "bytes before the start": header(x={**F32, "data_offsets": [-16, 0]}) + bytes(16),
    "two that overlap": header(x=F32, y={**F32, "data_offsets": [8, 24]}) + bytes(24),
    "bytes that are nobody's": header(x=F32) + bytes(64),
    "a type that is none": header(x={**F32, "dtype": "OBJECT"}) + bytes(16),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_is_not_believed(lie: str, root: Path) -> None:
    """Its sum is right: whoever forges a file can forge that too."""
    store.put("k", RECORD, {"x": torch.zeros(4)})
    (root / "k" / "arrays.safetensors").write_bytes(LIES[lie])
    sums = json.loads((root / "k" / "sums.json").read_text())
    sums["arrays.safetensors"] = hashlib.sha256(LIES[lie]).hexdigest()
    (root / "k" / "sums.json").write_text(json.dumps(sums))
    with compute.peak_memory() as peak:
        assert store.get("k") is None
    assert peak.bytes < 2**26
    assert len(list((root / "quarantine").iterdir())) == 1
