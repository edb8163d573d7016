"""Where and in which precision things are computed: decided once, printed in every record."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import math
import os
import platform
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from .types import require

Network = TypeVar("Network", bound=torch.nn.Module)
Value = TypeVar("Value")

DTYPES = {"float32": torch.float32, "tf32": torch.float32, "bfloat16": torch.bfloat16}
"""tf32 is a GPU's: float32 whose convolutions round their factors to 10 bits."""


@dataclass(frozen=True)
class Compute:
    """One decision. Convolutions run in `dtype`; everything else stays float32 or float64."""

    device: str
    dtype: str
    channels_last: bool
    threads: int

    @property
    def memory_format(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def place(self, network: Network) -> Network:
        """The network on this device, its convolutions' weights in this number type and memory format.

        Networks take their input in any type and cast it themselves; norms keep float32 weights.
        """
        network.to(self.device, memory_format=self.memory_format)  # type: ignore[call-overload]
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.to(DTYPES[self.dtype])
        return network

    @property
    def variables(self) -> dict[str, str]:
        """The environment in which another process decides the same without a trial, but for its threads."""
        layout = "channels_last" if self.channels_last else "contiguous"
        return {"DIPDDPM_DEVICE": self.device, "DIPDDPM_DTYPE": self.dtype, "DIPDDPM_LAYOUT": layout}

    def float32(self) -> Compute:
        """The same place in plain float32: the yardstick (with TF32 where that was asked for)."""
        return Compute(self.device, "float32", False, self.threads)


def _multiplies_bf16() -> bool:
    """Does the processor have instructions for bf16 products (AMX or avx512_bf16)?

    ATen's capability variable is honoured, so an older processor can be imitated.
    """
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    wide = "AVX512" in torch.backends.cpu.get_cpu_capability()
    return wide and ("amx_bf16" in flags or "avx512_bf16" in flags)


def seconds_of_convolution(dtype: str, channels_last: bool, channels: int = 64, side: int = 64) -> float:
    """Seconds of a 3×3 convolution forward and backward: the least of several, since other work can only add to it."""
    where = Compute("cpu", dtype, channels_last, torch.get_num_threads())
    layer = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False, device="meta").to_empty(device="cpu")
    # every number is set: what the memory held may be denormal, and thirty times as slow
    torch.nn.init.constant_(layer.weight, 0.01)
    where.place(layer)
    x = torch.ones(1, channels, side, side, dtype=DTYPES[dtype]).to(memory_format=where.memory_format)
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        y = layer(x.requires_grad_())
        y.backward(y.detach())
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _bf16_wins() -> bool:
    """A trial of a fraction of a second: instructions that are there may still be emulated or starved.

    On one thread, in turn, and the least of all rounds counts: whatever else runs must not decide by chance. On a
    machine without matrix units a loaded moment once gave bf16 to one notebook of a report, at half the speed.
    """
    if not _multiplies_bf16():
        return False
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rounds = [[seconds_of_convolution(dtype, True) for dtype in ("bfloat16", "float32")] for _ in range(4)]
        bf16, float32 = map(min, zip(*rounds, strict=True))
        return bf16 < float32
    finally:
        torch.set_num_threads(threads)


def available_cores() -> int:
    """Cores that this process may use: more threads than this run ten times slower, not faster.

    Those of its affinity, or as many as its containers' share of time comes to.
    """
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        cores = os.cpu_count() or 1
    return max(1, min(cores, _whole_share()))


@functools.cache
def _whole_share() -> int:
    """The least of `_shares`, rounded up, as a number of cores."""
    return math.ceil(min(_shares(), default=sys.maxsize))


def memory() -> int:
    """Bytes that this machine has for computing: the GPU's where one is used, else `ram`."""
    if default().device == "cuda":
        return int(torch.cuda.get_device_properties(0).total_memory)
    return ram()


@functools.cache
def ram() -> int:
    """Bytes of RAM that this machine has for us, or less where a cgroup says so."""
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for place, unified in _cgroups("memory"):
        try:
            size = min(size, int((place / ("memory.max" if unified else "memory.limit_in_bytes")).read_text()))
        except (OSError, ValueError):  # no such cgroup; "max"
            continue
    return size


CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def _shares(table: Path = CGROUPS[0], root: Path = CGROUPS[1]) -> Iterator[float]:
    """Cores that the time of this process's cgroup, and of each that holds it, comes to, where it is limited."""
    for place, unified in _cgroups("cpu", table, root):
        try:
            if unified:
                quota, period = map(int, (place / "cpu.max").read_text().split())
            else:
                quota, period = (int((place / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        except (OSError, ValueError):  # no such cgroup; "max"
            continue
        if quota > 0 and period > 0:
            yield quota / period


def _cgroups(controller: str, table: Path = CGROUPS[0], root: Path = CGROUPS[1]) -> Iterator[tuple[Path, bool]]:
    """Where Linux may say what this process's cgroup, and each that holds it, is given; whether it is of version 2."""
    try:
        lines = table.read_text().splitlines()
    except OSError:  # not on Linux
        lines = []
    for line in ["0::/", f"0:{controller}:/", *lines]:  # a container sees its own cgroup as the root
        _, controllers, inside = line.split(":", 2)
        unified = controllers == ""
        if not unified and controller not in controllers.split(","):
            continue
        place = Path(os.path.normpath(inside.lstrip("/") or "."))
        start = root if unified else root / controller
        yield from ((start / each, unified) for each in (place, *place.parents))


@functools.cache
def default() -> Compute:
    """The decision for this machine: bf16 on a GPU that multiplies it, and on a CPU where a trial says that it wins.

    DIPDDPM_DEVICE, DIPDDPM_DTYPE, DIPDDPM_LAYOUT and DIPDDPM_THREADS override it, each for itself.
    """
    device = os.environ.get("DIPDDPM_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    require(
        device == "cpu" or (device == "cuda" and torch.cuda.is_available()),
        f"DIPDDPM_DEVICE: expected cpu, or cuda where PyTorch finds a GPU, got {device!r}",
    )
    layout = os.environ.get("DIPDDPM_LAYOUT") or "channels_last"
    require(
        layout in ("channels_last", "contiguous"),
        f"DIPDDPM_LAYOUT: expected channels_last or contiguous, got {layout!r}",
    )
    dtype = os.environ.get("DIPDDPM_DTYPE") or ""
    require(not dtype or dtype in DTYPES, f"DIPDDPM_DTYPE: expected one of {', '.join(DTYPES)}, got {dtype!r}")
    require(
        dtype != "tf32" or device == "cuda",
        f"DIPDDPM_DTYPE: expected float32 or bfloat16 on a CPU, got {dtype!r}, which is a GPU's",
    )
    variable = "DIPDDPM_THREADS" if os.environ.get("DIPDDPM_THREADS") else "OMP_NUM_THREADS"
    asked = (os.environ.get(variable) or str(available_cores())).split(",")[0]  # OpenMP's may name nested levels
    require(asked.isdecimal() and int(asked) > 0, f"{variable}: expected a whole number above 0, got {asked!r}")
    threads = min(int(asked), available_cores())
    torch.set_num_threads(threads)
    if not dtype:
        fast = torch.cuda.is_bf16_supported(including_emulation=False) if device == "cuda" else _bf16_wins()
        dtype = "bfloat16" if fast else "float32"
    if device == "cuda":
        # PyTorch's convolutions take TF32 unasked; the operators' transforms are matrix products, and never do
        torch.backends.cudnn.allow_tf32 = dtype == "tf32"
        torch.backends.cuda.matmul.allow_tf32 = False
    return Compute(device, dtype, layout == "channels_last", threads)


@contextmanager
def side_by_side(count: int) -> Iterator[Callable[[Sequence[Callable[[], Value]]], list[Value]]]:
    """A function that does `count` works at once and returns their values in order; the cores are shared among them.

    Small networks gain little from a second core and everything from a second network: two on a core each take about
    as long as one on both. On a GPU, or with one thread, the works run in turn.
    """
    where = default()
    at_once = min(count, where.threads)
    if at_once == 1 or where.device != "cpu":
        yield lambda works: [work() for work in works]
        return
    try:
        with ThreadPoolExecutor(at_once, "fit", torch.set_num_threads, (where.threads // at_once,)) as pool:

            def together(works: Sequence[Callable[[], Value]]) -> list[Value]:
                values = [done.result() for done in [pool.submit(work) for work in works]]
                # each thread keeps its number; the process's own, which threads born later get, is set right again
                torch.set_num_threads(where.threads)
                return values

            yield together
    finally:
        torch.set_num_threads(where.threads)


def generator(seed: int, stream: str) -> torch.Generator:
    """A generator of its own for each (seed, stream), so that no draw in one place shifts another's.

    It lives on the CPU whatever the device: the same seed gives the same draws everywhere.
    """
    digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))


def machine() -> dict[str, Any]:
    """What a record says of the machine."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    if default().device == "cuda":
        model = torch.cuda.get_device_name()
    return {"processor": model, "cores": available_cores(), "system": platform.system(), **asdict(default())}


def versions() -> dict[str, str]:
    import numpy
    import skimage

    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__).split("+")[0],
        "numpy": numpy.__version__,
        "scikit-image": str(skimage.__version__),  # type: ignore[attr-defined]
    }


def clock() -> float:
    """Seconds, after all work that was given to the device is done."""
    if default().device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


class Peak:
    """Peak memory of a stretch of work, in bytes above its start; read `.bytes` afterwards."""

    bytes: int = 0


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    return 0


def high_water() -> int:
    """The most bytes that this process has held, since its start or the last `peak_memory`."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Measure peak memory: CUDA's own count there; on Linux the kernel's high-water mark, reset first.

    Elsewhere the high-water mark of the process's life is all there is, and a stretch that stays below it reads 0.
    """
    peak = Peak()
    if default().device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield peak
        peak.bytes = torch.cuda.max_memory_allocated() - before
        return
    try:
        # freed blocks that the allocator keeps would hide the next run's needs
        ctypes.CDLL(None).malloc_trim(0)
        before, now = _status("VmRSS"), lambda: _status("VmHWM")
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        before, now = high_water(), high_water
    yield peak
    peak.bytes = max(0, now() - before)
