"""What was done to break the library, counted: `make faults`, within fifteen minutes; `make faults QUICK=1`, in three.

Writers of one store are killed at random moments, files and configurations are mutated, `images.load` is fuzzed, and
what the store costs is timed. A wrong value, a lost result, or an answer that is neither a result nor an `InputError`
ends the run with an error. Writes benchmarks/faults.json; the report's appendix shows it as a table.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from statistics import median, quantiles
from typing import Any, get_type_hints

import numpy as np
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image as PIL_Image
from records import keep
from torch import Tensor

from dipddpm_lib import cells, compute, experiment, images, store
from dipddpm_lib.cells import Cell
from dipddpm_lib.classical import ClassicalConfig
from dipddpm_lib.ddpm import SampleConfig, TrainConfig
from dipddpm_lib.dip import DIPConfig
from dipddpm_lib.hybrid import HybridConfig
from dipddpm_lib.types import InputError

HERE = Path(__file__).resolve().parent

# ---- kill −9


def value(n: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A result that names itself; 4 bytes to a megabyte."""
    side = 2 ** (n % 10)
    return {"n": n}, {"x": torch.full((side, side), float(n))}


def is_value(n: int, found: tuple[dict[str, Any], dict[str, Tensor]]) -> bool:
    record, arrays = value(n)
    return found[0] == record and torch.equal(found[1]["x"], arrays["x"])


def writer(who: int, start: int, tell: int) -> None:
    """Results one after the other, each told once it is stored, and a checkpoint of how many there were."""
    checkpoint = store.Checkpoint(f"writer-{who}")
    before = checkpoint.load()
    step = int(before["step"]) if before else 0
    for n in range(start, sys.maxsize):
        if not is_value(n, store.remember("faults.value", {"n": n}, partial(value, n))):
            os.write(tell, f"wrong {n}\n".encode())
        os.write(tell, f"stored {n}\n".encode())
        step += 1
        checkpoint.save({"step": torch.tensor(step)})
        os.write(tell, f"step-{who} {step}\n".encode())


def kills(count: int) -> dict[str, int]:
    """Two processes store the same results side by side; one of them, drawn at random, is killed, and starts again.

    They are forked from this process, which must not have computed on several threads.
    """
    draw, (ear, tell) = random.Random(0), os.pipe()
    os.set_blocking(ear, False)
    stored: set[int] = set()
    steps = {0: 0, 1: 0}
    store.key("faults.value", {})  # what takes a second at the first call is done before the first fork
    heard, out = b"", Counter(wrong=0, lost=0)

    def start(who: int) -> int:
        pid = os.fork()
        if pid == 0:
            try:
                # behind the other, so that they meet on the same keys
                writer(who, max(0, max(stored, default=0) - draw.randrange(8)), tell)
            finally:
                os._exit(1)
        return pid

    def kill(pid: int) -> None:
        nonlocal heard
        os.kill(pid, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL, "a writer ended by itself"
        with suppress(BlockingIOError):
            heard += os.read(ear, 2**20)
        *lines, heard = heard.split(b"\n")
        for what, number in (line.decode().split() for line in lines):
            if what == "stored":
                stored.add(int(number))
            elif what == "wrong":
                out["wrong"] += 1
            else:
                steps[int(what[-1])] = int(number)

    running = {who: start(who) for who in steps}
    for n in range(count):
        time.sleep(0.01 + 0.1 * draw.random())
        who = draw.choice(list(running))
        kill(running.pop(who))
        found = store.Checkpoint(f"writer-{who}").load()
        out["lost"] += (int(found["step"]) if found else 0) < steps[who]
        if n + 2 < count:  # the last two are not replaced
            running[who] = start(who)
    for pid in running.values():
        kill(pid)
    for n in range(max(stored) + 10):
        kept = store.get(store.key("faults.value", {"n": n}))
        out["lost"] += kept is None and n in stored
        out["wrong"] += kept is not None and not is_value(n, kept)
    return {"kills": count, "results": len(stored), "checkpoints": sum(steps.values()), **out}


# ---- inputs


def outcome(work: Callable[[], object]) -> str:
    """What came of it: a result, or an `InputError` of one line; everything else goes through."""
    try:
        work()
    except InputError as error:
        if "\n" in str(error):
            raise AssertionError(f"more than one line: {error}") from error
        return "refused"
    return "results"


def drawn(strategy: st.SearchStrategy[Any], count: int, trial: Callable[[Any], str]) -> dict[str, int]:
    """Outcomes of `count` inputs that Hypothesis draws; the same at each run."""
    out = Counter({"results": 0, "refused": 0})  # what did not happen is told too

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=True,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    @given(strategy)
    def each(example: Any) -> None:
        out[trial(example)] += 1

    each()
    return {"tried": out.total(), **out}


@cache
def files() -> tuple[bytes, ...]:
    """Small images of every format and of every kind of pixel that is read."""
    array = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    grey = array[..., 0]
    made = {mode: PIL_Image.fromarray(array).convert(mode) for mode in ("RGB", "P", "L", "LA", "RGBA", "1", "CMYK")}
    made |= {
        "I;16": PIL_Image.fromarray(grey.astype(np.uint16) * 257),
        "F": PIL_Image.fromarray(grey / np.float32(255)),
    }
    exif = PIL_Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    # and what cameras add: text, whole numbers, fractions, folders of tags
    exif.update({0x010F: "maker", 0x0100: 32, 0x011A: 72.5})
    exif.get_ifd(0x8769).update({0x9003: "2026:11:26 12:00:00", 0x829A: 0.01})
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 8.0, 1.5)})
    kinds: list[tuple[str, str, dict[str, Any]]] = [
        *(("PNG", mode, {"exif": exif}) for mode in ("RGB", "P", "L", "LA", "RGBA", "1", "I;16")),
        *(("JPEG", mode, {"exif": exif}) for mode in ("RGB", "L", "CMYK")),
        *(("TIFF", mode, {"exif": exif}) for mode in ("RGB", "L", "1", "CMYK", "I;16", "F")),
        *(("TIFF", "RGB", {"compression": kind}) for kind in ("tiff_lzw", "tiff_deflate", "packbits", "jpeg")),
        *(("WEBP", mode, {"exif": exif, "lossless": True}) for mode in ("RGB", "RGBA")),
        *(("BMP", mode, {}) for mode in ("RGB", "P", "1")),
    ]
    out = []
    for kind, mode, options in kinds:
        buffer = io.BytesIO()
        made[mode].save(buffer, kind, **options)
        out.append(buffer.getvalue())
    return tuple(out)


@st.composite
def mutated_files(draw: st.DrawFn) -> bytes:
    """One of `files`, changed in a few places: bytes overwritten, taken out or put in, its head above all."""
    data = bytearray(draw(st.sampled_from(files())))
    for _ in range(draw(st.integers(1, 4))):
        last = max(0, len(data) - 1)
        at = draw(st.integers(0, min(last, 200)) | st.integers(0, last))
        numbers = [bytes(4), b"\xff" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\1", b"\1\0\0\0"]
        new = draw(st.sampled_from(numbers) | st.binary(min_size=0, max_size=4))
        data[at : at + draw(st.sampled_from([len(new), 0, 1, 40]))] = new
    return bytes(data)


@contextmanager
def silent() -> Iterator[None]:
    """Without what libtiff says on stderr of every file that it does not like."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def check_file(data: bytes, path: Path) -> None:
    """`images.load` of these bytes: what comes is an image, if anything comes."""
    path.write_bytes(data)
    image = images.load(path)
    assert image.shape[:2] == (1, 3)
    assert bool(torch.isfinite(image).all())
    assert float(image.abs().max()) <= 1


def mutated_images(count: int) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as folder, silent():
        path = Path(folder) / "image"
        return drawn(mutated_files(), count, lambda data: outcome(lambda: check_file(data, path)))


SHORT: dict[type, dict[str, Any]] = {
    DIPConfig: {"filters": (8, 8), "skip": 4, "in_channels": 8, "iterations": 4, "held_out": 0.1, "warmup": 1},
    SampleConfig: {"steps": 2},
    TrainConfig: {"channels": (8,), "steps": 2, "batch": 2, "warmup": 1},
    ClassicalConfig: {"tv_iterations": 2},
    HybridConfig: {},
}
"""What makes a configuration end soon; everything else is drawn."""

WORDS = ("", "single", "bundled", "linear", "karras", "ddim", "dpmpp_2m", "emv", "held_out", "none", "deep_decoder")
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 40),
    st.integers(),
    st.floats(0, 1),
    st.floats(),
    st.sampled_from((*WORDS, "bilinear", "renoise", "leaky_relu", "\n", "1e-3", "../x")),
    st.lists(st.integers(-1, 20), max_size=3),
    st.lists(st.integers(-1, 20), max_size=3).map(tuple),
)


def _likely(hint: Any) -> st.SearchStrategy[Any]:
    """Values of a field's own type, small enough to be run."""
    small = {
        int: st.integers(0, 8),
        float: st.floats(0, 1),
        tuple[int, ...]: st.lists(st.just(8), max_size=4).map(tuple),
    }
    return ODD if hint in (DIPConfig, SampleConfig) else small.get(hint) or st.from_type(hint)


@st.composite
def mutated_cells(draw: st.DrawFn) -> Callable[[], Cell]:
    """What makes a cell of a short run, or fails at it: one or two of its fields, or of its parts' fields, are odd."""
    parts: dict[str, dict[str, Any]] = {kind.__name__: dict(values) for kind, values in SHORT.items()}
    tasks = [None, "denoise_25", "inpaint_50", "super_x4", "deblur", "fourier", "compressive_10"]
    parts["Cell"] = {"image": "coffee", "size": 32, "seed": 0, "task": draw(st.sampled_from(tasks)), "T": 10}
    parts["Cell"]["prior"] = draw(st.sampled_from(["single", "bundled"]))
    method = draw(st.sampled_from([DIPConfig, SampleConfig, HybridConfig, ClassicalConfig]))
    read = [Cell, method, *([DIPConfig, SampleConfig] if method is HybridConfig else []), TrainConfig]
    hints = {(kind.__name__, name): hint for kind in read for name, hint in get_type_hints(kind).items()}
    places = [place for place in hints if place[1] not in ("config", "training")]
    for part, name in draw(st.lists(st.sampled_from(places), min_size=1, max_size=2)):
        parts[part][name] = draw(_likely(hints[part, name]) if draw(st.integers(0, 3)) else ODD)

    def make() -> Cell:
        values = dict(parts[method.__name__])
        if method is HybridConfig:
            halves = {"dip": DIPConfig(**parts["DIPConfig"]), "sample": SampleConfig(**parts["SampleConfig"])}
            values = {**halves, **values}
        return Cell(**parts["Cell"], config=method(**values), training=TrainConfig(**parts["TrainConfig"]))

    return make


def is_short(cell: Cell) -> bool:
    """Does it end within a fraction of a second? Others are only checked."""
    found = asdict(cell)
    parts = [found["config"], found["config"].get("dip") or {}, found["config"].get("sample") or {}, found["training"]]
    names = ("iterations", "tv_iterations", "steps", "runs", "batch")
    counts = [part.get(name, 1) for part in parts if part for name in names]
    return max([*counts, cell.size // 8]) <= 8 and cells.bytes_needed(cell.config, cell.size, cell.training) < 2**26


def mutated_configurations(count: int) -> dict[str, int]:
    """Each is made and checked, and where it ends soon, run."""
    long = "accepted, too long to run"

    def trial(make: Callable[[], Cell]) -> str:
        ran = [False]

        def work() -> None:
            cell = make()
            cell.check()
            if is_short(cell):
                experiment.run(cell)
                ran[0] = True

        found = outcome(work)
        return found if found == "refused" or ran[0] else long

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {long: 0, **drawn(mutated_cells(), count, trial)}


# ---- fuzzing


def fuzzing(seconds: int) -> dict[str, Any]:
    if seconds == 0 or importlib.util.find_spec("atheris") is None:
        print("faults: Atheris is not here (pip install '.[fuzz]'): nothing is fuzzed", file=sys.stderr)
        return {"engine": None, "inputs": 0}
    with tempfile.TemporaryDirectory() as folder:
        done = _alone("fuzz.py", str(seconds), folder, timeout=seconds + 120)
        found = re.search(r"stat::number_of_executed_units: (\d+)", done.stderr)
        if done.returncode != 0 or found is None:
            sys.exit(f"faults: the fuzzer ended with {done.returncode}:\n{done.stderr[-3000:]}")
        left = Counter(path.name.rpartition("-")[0] for path in Path(folder).glob("*-*") if path.is_file())
    slow = left.pop("slow-unit", 0)  # ten seconds and more, as a large image takes beside other work; no fault
    engine = f"Atheris {importlib.metadata.version('atheris')}"
    # crash-…, timeout-…, oom-…, after which libFuzzer ends
    return {"engine": engine, "inputs": int(found[1]), "crashes": left.total(), "slow": slow}


# ---- what the store costs


def overhead(count: int) -> dict[str, float]:
    """Milliseconds of the store for a new result of `experiment.run` at 128², and for one that is there.

    Median and 95th percentile; whole calls of `store.remember`, whose work takes no time.
    """
    draw = torch.Generator().manual_seed(0)
    arrays = {
        "x0_hat": torch.rand(1, 3, 128, 128, generator=draw),
        "frames": torch.randint(256, (13, 3, 128, 128), generator=draw, dtype=torch.uint8),
    }
    record = {"trace": [[n, 0.1 * n, 25.0, 0.8] for n in range(41)], "machine": compute.machine()}
    times: dict[str, list[float]] = {"put": [], "get": []}
    with tempfile.TemporaryDirectory(dir=HERE) as folder, _environment(DIPDDPM_STORE=folder):
        for n in range(count):
            for name in times:  # first it is not there, then it is
                start = time.perf_counter()
                store.remember("faults.overhead", {"n": n}, lambda: (record, arrays))
                times[name].append(1e3 * (time.perf_counter() - start))
    return {
        key: round(number, 3)
        for name, found in times.items()
        for key, number in ((f"{name}_ms", median(found)), (f"{name}_ms_95", quantiles(found, n=20)[-1]))
    } | {"results": count}


# ---- all of it


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, old in before.items():
            os.environ.pop(name) if old is None else os.environ.update({name: old})


def _alone(script: str, *arguments: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
    """One of these scripts in a process of its own, on one thread."""
    command = [sys.executable, str(HERE / script), *arguments]
    environment = {**os.environ, "DIPDDPM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout, check=False)


def killing(count: int) -> dict[str, int]:
    """`kills` in a process of its own, in a store of its own."""
    with tempfile.TemporaryDirectory(dir=HERE) as folder, _environment(DIPDDPM_STORE=folder):
        done = _alone("faults.py", "--kill-here", str(count))
        if done.returncode != 0:
            sys.exit(f"faults: the writers ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def configurations(count: int) -> dict[str, int]:
    """`mutated_configurations` in a store of its own."""
    with tempfile.TemporaryDirectory() as folder, _environment(DIPDDPM_STORE=folder):
        return mutated_configurations(count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--inputs", type=int, default=10_000, help="four fifths are files, the others configurations")
    parser.add_argument("--fuzz", type=int, default=600, metavar="SECONDS")
    parser.add_argument("--output", type=Path, default=HERE / "faults.json")
    parser.add_argument("--kill-here", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.kill_here is not None:
        print(json.dumps(kills(arguments.kill_here)))
        return
    record: dict[str, Any] = {"machine": compute.machine(), "versions": compute.versions()}
    record["source"] = store.source_digest()  # of the library that it was done to
    works: dict[str, Callable[[], dict[str, Any]]] = {
        "overhead": lambda: overhead(200),
        "kills": lambda: killing(arguments.kills),
        "images": lambda: mutated_images(arguments.inputs * 4 // 5),
        "configurations": lambda: configurations(arguments.inputs - arguments.inputs * 4 // 5),
        "fuzzing": lambda: fuzzing(arguments.fuzz),
    }
    for name, work in works.items():
        start = time.perf_counter()
        record[name] = work() | {"seconds": round(time.perf_counter() - start, 1)}
        print(name, json.dumps(record[name]), flush=True)
    if record["kills"]["lost"] or record["kills"]["wrong"]:
        sys.exit("faults: the store lost a result or served a wrong one")
    keep(arguments.output, json.dumps(record, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
