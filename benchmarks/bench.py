"""Side by side, one row a claim: `make bench`, or `make bench QUICK=1` within three minutes.

What is compared runs in turn within this process, warmed up; the figure is the median of several rounds, with its
quartiles. Results are computed anew in a store of their own. The yardsticks' long fits are the one thing that is read
and not run: `published.json` holds their PSNR by iteration, `reference.py` computes it, and their iterations are timed
here. Writes benchmarks/results.json; the report's appendix shows it as a table.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from statistics import mean, median, quantiles
from typing import Any
from unittest import mock

import torch
from records import keep
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from dipddpm_lib import compute, ddpm, dip, experiment, images, networks, priors, store, workers
from dipddpm_lib.cells import Cell
from dipddpm_lib.ddpm import SampleConfig, TrainConfig
from dipddpm_lib.dip import DIPConfig
from dipddpm_lib.hybrid import HybridConfig
from dipddpm_lib.types import Measurement, Result

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
TOGETHER = dip.together
RUN = HERE / "run"  # the store and the pages of `report_rows`
TASK = "denoise_25"
YARDSTICKS = {"published": DIPConfig.published(), "snail": DIPConfig.snail(), "Deep Decoder": DIPConfig.deep_decoder()}


@dataclass(frozen=True)
class Row:
    """One claim: what was measured, its quartiles, and what it should reach (`at_least`, or at most).

    as_good: whether what is timed also got as far as what it is timed against; a faster way to less reaches nothing.
    """

    claim: str
    against: str
    value: float
    low: float
    high: float
    unit: str
    target: float
    at_least: bool = True
    note: str = ""
    as_good: bool = True

    @property
    def reached(self) -> bool:
        return self.as_good and (self.value >= self.target if self.at_least else self.value <= self.target)


def spread(values: list[float]) -> tuple[float, float, float]:
    """Median and quartiles."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return middle, low, high


def seconds(work: Callable[[], object]) -> float:
    start = compute.clock()
    work()
    return compute.clock() - start


def in_turn(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each work in each round: one after the other, so that a slow moment of the machine meets all."""
    for work in works.values():
        for _ in range(2):
            work()
    out: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            out[name].append(seconds(work))
    return out


def ratio(slow: list[float], fast: list[float]) -> tuple[float, float, float]:
    """Of paired rounds."""
    return spread([a / b for a, b in zip(slow, fast, strict=True)])


def iterations(config: DIPConfig, size: int, together: int = 0) -> Callable[[], object]:
    """One iteration a call, of a fit that does not end; together: networks that are computed as one, 0 as usual."""
    endless = replace(config, iterations=10**6, stop="none")
    y = Cell("coffee", size, 0, endless, TASK).measurement(images.load("coffee", size))
    with mock.patch.object(dip, "together", lambda *usual: together or TOGETHER(*usual)):
        fits = dip.reconstruct(y, endless, compute.generator(0, "dip"))
    return lambda: next(fits)


def denoiser_call(network: Callable[..., Tensor], size: int, where: compute.Compute) -> Callable[[], object]:
    x = torch.zeros(1, 3, size, size, device=where.device).contiguous(memory_format=where.memory_format)

    def call() -> Tensor:
        with torch.no_grad():
            return network(x, 0.5)

    return call


# ---- DIP


def dip_rows(quick: bool) -> Iterator[Row]:
    """`fast`, stopped by itself, against the best that the yardsticks ever reach."""
    known = json.loads((HERE / "published.json").read_text())["fits"]
    known = [fit for fit in known if not quick or (fit["image"], fit["seed"]) == ("coffee", 0)]
    works = {name: iterations(config, 128) for name, config in YARDSTICKS.items()}
    # a few of the yardsticks' iterations after each fit of `fast`: a slow moment of the machine meets both
    times: dict[str, list[float]] = {name: [] for name in works}
    mine = {}
    for image, seed in dict.fromkeys((fit["image"], fit["seed"]) for fit in known):
        mine[image, seed] = experiment.run(Cell(image, 128, seed, DIPConfig.fast(), TASK))
        for name, found in in_turn(works, 3).items():
            times[name] += found
    ms = {name: 1e3 * median(times[name]) for name in works}
    for name in YARDSTICKS:
        fits = [fit for fit in known if fit["name"] == name]
        if not fits:
            continue
        rows = [_against(fit, ms[name] / 1e3, mine[fit["image"], fit["seed"]]) for fit in fits]
        gains, ratios = [gain for gain, _ in rows], [value for _, value in rows]
        seconds_of_fast = mean(mine[fit["image"], fit["seed"]].total_seconds for fit in fits)
        yield Row(
            "DIP `fast`, whole fit with its own stop: time to that PSNR",
            f"{name}, float32, up to its best iteration, chosen with the target",
            *spread(ratios),
            "× faster",
            20.0 if name == "published" else 1.0,
            note=f"a fit that ends below counts 0: {sum(gain >= 0 for gain in gains)} of {len(fits)} end at or above; "
            f"`fast` takes {seconds_of_fast:.1f} s, {name} {ms[name]:.0f} ms an iteration",
        )
        yield Row(
            "DIP `fast`: PSNR where it stops",
            f"{name}'s best over its fit",
            mean(gains),
            min(gains),
            max(gains),
            "dB",
            0.0,
            note="mean, least and most over the fits",
        )


def _against(fit: dict[str, Any], second: float, result: Result) -> tuple[float, float]:
    """Gain in dB, and how many times faster, against a yardstick of `second` seconds an iteration.

    A fit that never comes to the yardstick's best is not faster there: 0.
    """
    best = max(fit["psnr"])
    gain = result.psnr - best
    return gain, (fit["psnr"].index(best) + 1) * second / result.total_seconds if gain >= 0 else 0.0


# ---- shares of the machine's rate


BEFORE = replace(DIPConfig.fast(), filters=(24, 48, 96, 128), in_channels=32, lift=0, jitter=1 / 30, runs=1)


def step_rows(quick: bool) -> Iterator[Row]:
    """What each step towards speed brings by itself: an iteration without it against one with it."""
    fast, rounds = DIPConfig.fast(), 5 if quick else 15
    one, y = replace(fast, runs=1), Cell("coffee", 128, 0, fast, TASK).measurement(images.load("coffee", 128))

    def stepwise(config: DIPConfig, at_once: bool) -> Callable[[], object]:
        group = dip._Group(config, y.image_size, compute.default(), compute.generator(0, "dip"))
        for module in group.network.modules():
            if isinstance(module, networks._Up):
                module.at_once = at_once
        return lambda: group.iterate(0, lambda output: torch.nn.functional.mse_loss(output, y.y))

    alone, together, singly = iterations(one, 128), iterations(fast, 128), iterations(fast, 128, together=1)
    averages = torch.rand(fast.runs, 3, 128, 128, generator=compute.generator(0, "averages"))

    def with_variances() -> None:  # beside the sums, which cost next to nothing
        together()
        averages.var(0), averages.var(0)

    each = dip.together(fast.runs, 128**2, compute.default().threads)
    pairs = {
        f"{fast.runs} networks side by side on {compute.default().threads} threads, not in turn on all": (
            lambda: [alone() for _ in range(fast.runs)],
            singly,
        ),
        f"{each} networks as one, not one by one": (singly, together),
        f"how far {fast.runs} networks disagree by sums of squares, not by PyTorch's variance": (
            with_variances,
            together,
        ),
        "upsampling and convolving at once (24 to 128 wide)": (stepwise(BEFORE, False), stepwise(BEFORE, True)),
        "upsampling and convolving at once (16 to 64 wide)": (stepwise(one, False), stepwise(one, True)),
        "16 to 64 wide with 16 channels of z at half the size, not 24 to 128 wide with 32 at the whole": (
            iterations(BEFORE, 128),
            alone,
        ),
    }
    for name, (without, with_it) in pairs.items():
        times = in_turn({"without": without, "with": with_it}, rounds)
        yield Row(f"DIP iteration, 128²: {name}", "the same without", *ratio(times["without"], times["with"]),
                  "× faster", 1.0)  # fmt: skip
    # in processes of their own, which are told before they begin
    environments: dict[str, Mapping[str, str | None]] = {"handed back": dict.fromkeys(KEPT), "kept": KEPT}
    found: dict[str, list[float]] = {blocks: [] for blocks in environments}
    for _ in range(1 if quick else 5):
        for blocks, environment in environments.items():
            times = json.loads(_python(str(HERE / "bench.py"), "--fast", str(3 * rounds), **environment))
            found[blocks].append(median(times))
    yield Row("DIP iteration, 128²: blocks that are freed stay with the process", "the same without",
              *ratio(found["handed back"], found["kept"]), "× faster", 1.0)  # fmt: skip


KEPT = {"MALLOC_TRIM_THRESHOLD_": "268435456", "MALLOC_MMAP_THRESHOLD_": "33554432"}  # as `make` has it, for glibc


def interpreters_row(quick: bool) -> Iterator[Row]:
    """What the threads of one interpreter, and all that is not the networks', add to an iteration of `fast`."""
    fast, rounds = DIPConfig.fast(), 5 if quick else 15
    where = compute.default()
    together = [1e3 * t for t in in_turn({"fast": iterations(fast, 128)}, rounds)["fast"]]
    # a divisor of the networks, so that the interpreters hold them all, in the same groups
    apart = max(n for n in range(1, fast.runs + 1) if fast.runs % n == 0 and n <= where.threads)
    answers = at_once(apart, "--networks", str(fast.runs // apart), str(rounds), DIPDDPM_THREADS="1")
    alone = [1e3 * t for answer in answers for t in json.loads(answer)]
    value, low, high = spread([t / median(alone) for t in together])
    yield Row(
        "DIP iteration, 128², `fast`: all of it",
        f"its networks alone, in {apart} interpreters of one thread",
        value, low, high,
        "× its time",
        1.1,
        at_least=False,
        note=f"{median(together):.1f} and {median(alone):.1f} ms; the rest is the wait of the threads for one "
        "interpreter and for each other, the averages and the held-out error",
    )  # fmt: skip


def networks_alone(count: int, rounds: int) -> None:
    """Seconds of an iteration of `count` networks as one, on one thread; prints JSON."""
    y = Cell("coffee", 128, 0, DIPConfig.fast(), TASK).measurement(images.load("coffee", 128))
    draws = [compute.generator(seed, "dip") for seed in range(count)]
    group = dip._Group(DIPConfig.fast(), y.image_size, compute.default(), *draws)

    def work() -> None:
        group.iterate(0, lambda output: (output - y.y).square().mean((1, 2, 3)).sum())

    work()
    wait_for_the_others()
    print(json.dumps(in_turn({"alone": work}, rounds)["alone"]))


def at_once(count: int, *arguments: str, **environment: str) -> list[str]:
    """What `count` processes of this script print that measure at the same time: none begins before all are ready."""
    run = [sys.executable, str(HERE / "bench.py"), *arguments]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(run, env={**os.environ, **environment}, cwd=ROOT, **pipes) for _ in range(count)]
    for process in started:
        assert process.stdout is not None
        process.stdout.readline()
    for process in started:  # the word is given to all before any is waited for
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.write("\n")
            process.stdin.flush()
    answers = [process.communicate()[0] for process in started]  # all of them, before any failure is told
    for process in started:
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, run)
    return answers


def wait_for_the_others() -> None:
    """Say that what is measured can begin, and wait for `at_once` to say so too."""
    print("ready", flush=True)
    sys.stdin.readline()


KINDS = {
    "convolutions": ("conv", "addmm", "aten::mm"),
    "jitter": ("normal_",),
    "norms": ("norm",),
    "activations": ("silu", "leaky_relu", "sigmoid"),
    "padding and interpolation": ("pad", "upsample"),
    "optimiser": ("Optimizer", "adam", "_foreach"),
    "copies, casts, sums": ("copy_", "cat", "add", "mul", "sub", "fill_", "zero_", "clone"),
}


def profile(work: Callable[[], object], rounds: int = 10) -> dict[str, float]:
    """Milliseconds of a call by kind of work; an operation counts for the first kind it fits."""
    for _ in range(5):
        work()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        for _ in range(rounds):
            work()
    out = dict.fromkeys((*KINDS, "rest"), 0.0)
    for event in profiler.key_averages():
        kind = next((kind for kind, parts in KINDS.items() if any(part in event.key for part in parts)), "rest")
        out[kind] += event.self_cpu_time_total / 1e3 / rounds
    return out


def one_network(config: DIPConfig) -> Callable[[], object]:
    """An iteration of one of its networks: the profiler sees the thread that it runs in."""
    return iterations(replace(config, runs=1), 128)


def one_thread(config: DIPConfig) -> Callable[[], object]:
    """An iteration of as many of its networks as one thread computes as one."""
    count = dip.together(config.runs, 128**2, compute.default().threads)
    return iterations(replace(config, runs=count), 128, together=count)


def largest_parts(work: Callable[[], object]) -> str:
    parts = profile(work)
    most = sorted(parts, key=lambda kind: -parts[kind])[:4]
    return ", ".join(f"{kind} {100 * parts[kind] / sum(parts.values()):.0f} %" for kind in most)


@cache
def limit() -> float:
    """FLOP/s of a 3×3 convolution 128 → 128 at 128², forward, in the machine's best precision: the best of 30."""
    where = compute.default()
    layer = where.place(networks.build(torch.nn.Conv2d, torch.Generator(), in_channels=128, out_channels=128,
                                       kernel_size=3, padding=1))  # fmt: skip
    x = torch.zeros(1, 128, 128, 128, dtype=layer.weight.dtype, device=where.device)
    x = x.contiguous(memory_format=where.memory_format)

    def call() -> Tensor:
        with torch.no_grad():
            return layer(x)

    return flops(call) / min(in_turn({"layer": call}, 30)["layer"])


def flops(work: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def share_rows(quick: bool) -> Iterator[Row]:
    where = compute.default()
    training = ddpm.train([images.load("hubble", 128)], TrainConfig.bundled(), compute.generator(0, "bench"))
    fast = DIPConfig.fast()
    fitted = {"DIP iteration, 128², `fast`": fast, "DIP iteration, 128², 4 scales of 64": DIPConfig.shaped(4, 64)}
    works = {name: iterations(config, 128) for name, config in fitted.items()} | {
        "DDPM training step, bundled, 16 crops of 64²": lambda: next(training),
        "DDPM call, bundled, 128²": denoiser_call(priors.load_fold(1), 128, where),
    }
    times = in_turn(works, 5 if quick else 15)
    # the counter sees its own thread alone, and `fast` runs its networks in several
    operations = {name: flops(work) for name, work in works.items() if name not in fitted}
    operations |= {n: c.runs * flops(one_network(c)) for n, c in fitted.items()}
    for name, work in works.items():
        parts = largest_parts(one_thread(fitted[name]) if name in fitted else work)
        shares = [100 * operations[name] / t / limit() for t in times[name]]
        yield Row(
            f"{name}: share of the rate of a convolution 128 → 128",
            f"{limit() / 1e9:.0f} GFLOP/s in {where.dtype}",
            *spread(shares),
            "%",
            30.0,
            note=f"{1e3 * median(times[name]):.1f} ms, {operations[name] / 1e9:.1f} GFLOP; by the profile {parts}",
        )


def ddpm_call_row(quick: bool) -> Iterator[Row]:
    where, plain = compute.default(), compute.default().float32()
    slow = plain.place(priors.load_fold(1).float())
    works = {
        "slow": denoiser_call(slow, 128, plain),
        "fast": denoiser_call(priors.load_fold(1), 128, where),
    }
    times = in_turn(works, 7 if quick else 21)
    alone = compute.seconds_of_convolution("float32", False) / compute.seconds_of_convolution(where.dtype, True)
    yield Row(
        "DDPM call, bundled, 128²",
        "float32, contiguous, the same weights",
        *ratio(times["slow"], times["fast"]),
        "× faster",
        4.0,
        note=f"{1e3 * median(times['fast']):.1f} ms; a single convolution 64 → 64 gains {alone:.1f}× on this processor",
    )


# ---- the hybrid


def hybrid_rows(quick: bool) -> Iterator[Row]:
    """End to end, the fit included. Protocol B: bundled prior, y only. Protocol A: y is the target, single prior."""
    tasks = ("compressive_10",) if quick else ("denoise_50", "inpaint_50", "super_x4", "compressive_10")
    pictures = ("coffee",) if quick else ("astronaut", "chelsea")
    pairs = [(task, pictures[i % len(pictures)]) for i, task in enumerate(tasks)]
    # from DIP in every task: what `HybridConfig` would start from elsewhere is no claim about DIP
    quickly = replace(HybridConfig.quick(), start="dip")
    restoration = [Cell(picture, 128, 0, quickly, task) for task, picture in pairs]
    usual = [replace(cell, config=replace(HybridConfig(), start="dip")) for cell in restoration]
    yield _against_dip(usual, "DIP+DDPM", 300 if quick else 1000)
    yield _against_dip(restoration, "DIP+DDPM, quick", 300 if quick else 1000)
    yield _against_ddpm(restoration, "B", 50 if quick else 1000)
    # as 03_hybrid has it
    known = replace(HybridConfig.quick(), consistency=False, rho=2.0, sample=SampleConfig(steps=5))
    training = TrainConfig.single(128, 40 if quick else 600)
    memory = [Cell(picture, 128, 0, known, prior="single", training=training) for picture in pictures]
    yield _against_ddpm(memory, "A", 50 if quick else 1000)


def _against_dip(cells: list[Cell], who: str, iterations: int) -> Row:
    """How much sooner the hybrid is done than DIP is at its best."""
    ratios, hybrids, reached = [], [], 0
    alone_config = replace(DIPConfig.fast(iterations), stop="none", held_out=0.0)
    for cell in cells:
        hybrid, alone = experiment.run(cell), experiment.run(replace(cell, config=alone_config))
        _, when, best, _ = max(alone.trace, key=lambda row: row[2])
        ratios.append(when / hybrid.total_seconds)
        hybrids.append(hybrid)
        reached += hybrid.psnr >= best
    return Row(
        f"{who}, fit included, protocol B: time",
        f"DIP `fast`, {DIPConfig.fast().runs} networks, up to the best of {iterations} iterations, by the target",
        *spread(ratios),
        "× faster",
        10.0,
        note=f"at or above that best in {reached} of {len(cells)}; {_stages(hybrids)}",
        as_good=reached == len(cells),
    )


def _against_ddpm(cells: list[Cell], protocol: str, steps: int) -> Row:
    """How much sooner the quick hybrid is done than DDPM with 1000 ancestral steps; `steps` of them are run."""
    ratios, hybrids, better = [], [], 0
    for cell in cells:
        hybrid = experiment.run(cell)
        ancestral = experiment.run(replace(cell, config=SampleConfig(steps=steps, eta=1.0)))
        ratios.append(ancestral.total_seconds * 1000 / steps / hybrid.total_seconds)  # as long as so many of them
        hybrids.append(hybrid)
        better += hybrid.psnr > ancestral.psnr and hybrid.ssim > ancestral.ssim
    training = " (training, the same for both, left out)" if protocol == "A" else ""
    return Row(
        f"DIP+DDPM, quick, fit included, protocol {protocol}: time{training}",
        "DDPM, 1000 ancestral steps" + (f", time and scores from {steps} of them" if steps < 1000 else ""),
        *spread(ratios),
        "× faster",
        39.0,
        note=f"higher PSNR and SSIM in {better} of {len(cells)}; {_stages(hybrids)}",
        as_good=better == len(cells),
    )


def _stages(results: list[Result]) -> str:
    fit, sampling = (mean(result.seconds[stage] for result in results) for stage in ("fit", "sample"))
    return f"the fit takes {fit:.1f} s, sampling {sampling:.1f} s"


# ---- growth, start-up, the report


def growth_rows(quick: bool) -> Iterator[Row]:
    """From 64² to 512² (256² in the quick form): seconds and bytes a pixel, as multiples."""
    large = 256 if quick else 512
    prior, where = priors.load_fold(1), compute.default()
    makers: dict[str, Callable[[int], Callable[[], object]]] = {
        "DIP iteration": lambda size: iterations(DIPConfig.fast(), size),
        "DDPM call": lambda size: denoiser_call(prior, size, where),
    }
    for name, make in makers.items():
        times = in_turn({str(size): make(size) for size in (64, large)}, 5 if quick else 11)
        by_pixel = (large / 64) ** 2
        yield Row(
            f"{name}: time from 64² to {large}²",
            "linear in pixels",
            *spread([a / b / by_pixel for a, b in zip(times[str(large)], times["64"], strict=True)]),
            "× linear",
            1.3,
            at_least=False,
        )
        memory = {}
        for size in (64, large):
            work = make(size)
            with compute.peak_memory() as peak:
                work()
            memory[size] = peak.bytes
        growth = memory[large] / max(memory[64], 1) / by_pixel
        note = f"{memory[64] / 2**20:.1f} and {memory[large] / 2**20:.0f} MiB"
        yield Row(f"{name}: memory from 64² to {large}²", "linear in pixels", growth, growth, growth, "× linear", 1.3,
                  at_least=False, note=note)  # fmt: skip


IMPORT = """
import time, torch
start = time.perf_counter()
import dipddpm_lib.hybrid, dipddpm_lib.images, dipddpm_lib.metrics, dipddpm_lib.priors
print(time.perf_counter() - start)
"""


def import_row(quick: bool) -> Iterator[Row]:
    found = [float(_python("-c", IMPORT)) for _ in range(3 if quick else 7)]
    yield Row("import of the methods, beyond torch", "–", *spread(found), "s", 0.3, at_least=False)


def _python(*arguments: str, **environment: str | None) -> str:
    """What a process prints in this environment but for `environment`, whose None takes a variable away."""
    run = [sys.executable, *arguments]
    names = {**os.environ, **environment}
    given = {name: value for name, value in names.items() if value is not None}
    return subprocess.run(run, env=given, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout


OLD = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}


def old_processor_row(quick: bool) -> Iterator[Row]:
    """An iteration of `fast` without bf16 against the same written plainly, on an imitated older processor."""
    found = json.loads(_python(str(HERE / "bench.py"), "--plain", "5" if quick else "15", **OLD))
    yield Row(
        f"DIP iteration on a processor without bf16 ({found['dtype']})",
        "float32 written plainly",
        *ratio(found["fast"], found["plain"]),
        "× its time",
        1.05,
        at_least=False,
    )


def plain(rounds: int) -> None:
    """What `old_processor_row` measures; prints JSON."""
    config = DIPConfig.fast()
    y = Cell("coffee", 128, 0, config, TASK).measurement(images.load("coffee", 128))
    where = compute.default()  # sets the threads
    works = {"fast": iterations(config, 128), "plain": _written_plainly(config, y)}
    print(json.dumps({"dtype": where.dtype, **in_turn(works, rounds)}))


def _written_plainly(config: DIPConfig, y: Measurement) -> Callable[[], object]:
    """The same fit as anybody would write it down: float32, PyTorch's own layout and optimiser, one run at a time."""
    draw = compute.generator(0, "dip")
    networks, inputs = zip(*(dip._networks(config, y.image_size, draw) for _ in range(config.runs)), strict=True)
    optimisers = [torch.optim.Adam(network.parameters(), config.lr) for network in networks]
    averages = [torch.zeros_like(y.y) for _ in networks]

    def iteration() -> None:
        for run, (network, z, optimiser) in enumerate(zip(networks, inputs, optimisers, strict=True)):
            optimiser.zero_grad()
            output = network(z + config.jitter * torch.randn(z.shape, generator=draw))
            torch.nn.functional.mse_loss(output, y.y).backward()
            optimiser.step()
            averages[run] = config.ema * averages[run] + (1 - config.ema) * output.detach()

    return iteration


# ---- sweeps on several processes


def sweep_rows(quick: bool) -> Iterator[Row]:
    """The same work on two workers as on one, both started and warm; what handing out a cell costs."""
    if compute.available_cores() < 2:
        return
    count, rounds = (8, 1) if quick else (40, 3)
    config = replace(DIPConfig.fast(100), stop="none")
    wall: dict[int, list[float]] = {1: [], 2: []}
    empty: list[float] = []
    with workers._local(1) as one, workers._local(2) as two:
        for turn in range(rounds + 1):  # the first warms up
            for number, client in ((1, one), (2, two)):
                seeds = range(1000 * turn + 100 * number, 1000 * turn + 100 * number + (count if turn else 2 * number))
                cells = [Cell("coffee", 64, seed, config, TASK) for seed in seeds]
                taken = seconds(partial(experiment.sweep, cells, client))
                if turn:
                    wall[number].append(taken)
            if turn:
                handed = range(50 if quick else 500)
                empty.append(1e3 * seconds(partial(_pass, handed, two)) / len(handed))
    yield Row(
        f"sweep of {count} cells on 2 workers",
        "on 1 worker, one thread each",
        *ratio(wall[1], wall[2]),
        "× faster",
        1.8,
        note=f"{median(wall[1]):.1f} and {median(wall[2]):.1f} s",
    )
    yield Row("handing out a cell and taking back its result: time on 2 workers", "cells without work", *spread(empty),
              "ms", 20.0, at_least=False)  # fmt: skip


def _nothing(item: int) -> int:
    return item


def _pass(items: Sequence[int], client: Any, work: Callable[[int], object] = _nothing) -> None:
    for _ in workers.outcomes(work, items, client):
        pass


CELL_SECONDS = 30.0  # of a short cell on one thread: with 1000 workers, 33 cells end in a second
CELL_BYTES = 800_000  # of a result at 128²: image, film, record


def scale_rows(quick: bool) -> Iterator[Row]:
    """What a scheduler, the process that collects, and the store pass on in a second, against what N workers finish."""
    for number in (10,) if quick else (10, 100):
        cells = 10 * number
        for size in (0, CELL_BYTES):
            found = float(_python(str(HERE / "bench.py"), "--scale", str(number), str(cells), str(size)))
            yield Row(
                f"scheduler and collector, {number} workers: cells of {size / 1e6:.1f} MB passed on",
                f"what 1000 workers end, a cell in {CELL_SECONDS:.0f} s",
                *spread([cells / found]),
                "a second",
                1000 / CELL_SECONDS,
                note="all workers in one process, which they share with the scheduler and the collector",
            )
    for writers, beside in ((1, 0), (2, 0), (1, 1000 if quick else 100_000)):
        rates = [float(rate) for rate in at_once(writers, "--writes", "10" if quick else "100", str(beside))]
        yield Row(
            f"store: results of {CELL_BYTES / 1e6:.1f} MB written beside {beside} others, {writers} at once",
            f"what 1000 workers end, a cell in {CELL_SECONDS:.0f} s",
            *spread([sum(rates)]),
            "a second",
            1000 / CELL_SECONDS,
        )


def pass_on(number: int, cells: int, size: int) -> None:
    """Seconds in which `cells` of `size` bytes and no work go to `number` workers and come back; prints them."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=number,
            threads_per_worker=1,
            processes=False,
            memory_limit=0,  # each would count this whole process as its own
            protocol="tcp://",  # as between machines: what is sent is packed and unpacked
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            silence_logs="CRITICAL",
        ) as cluster,
        Client(cluster) as client,
    ):
        work = partial(_payload, size)
        _pass(range(number), client, work)
        print(seconds(partial(_pass, range(cells), client, work)))


def _payload(size: int, item: int) -> Tensor:
    return torch.zeros(size, dtype=torch.uint8)


def write_results(count: int, beside: int) -> None:
    """Results of `CELL_BYTES` that this process writes in a second beside so many others; prints them."""
    for index in range(beside):
        (store.folder() / f"{index}").mkdir(parents=True, exist_ok=True)
    arrays = {"frames": torch.zeros(CELL_BYTES, dtype=torch.uint8)}

    def write() -> None:
        for index in range(count):
            store.put(f"{os.getpid()}-{index}", {}, arrays)

    wait_for_the_others()
    print(count / seconds(write))


def report_rows(quick: bool) -> Iterator[Row]:
    """`make report`, quick, from nothing and again; and what of it is neither a cell's work nor the page's."""
    if quick:
        return
    shutil.rmtree(RUN, ignore_errors=True)
    build = (str(ROOT / "report" / "build.py"), "--preset", "quick", "--output", str(RUN / "report"))
    wall, cells = [], []
    for _ in range(2):
        wall.append(seconds(lambda: _python(*build, DIPDDPM_STORE=str(RUN / "store"))))
        cells.append({path.stem: _seconds_of_cells(path) for path in (RUN / "report" / "executed").glob("*.ipynb")})
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)
    slowest = sorted(cells[0], key=lambda stem: -cells[0][stem])[:4]
    yield Row("`make report`, quick: peak memory of the largest process", "–", memory, memory, memory, "GiB", 2.5,
              at_least=False)  # fmt: skip
    yield Row("`make report`, quick, from nothing", "–", *spread(wall[:1]), "s", 480, at_least=False,
              note="longest: " + ", ".join(f"{stem} {cells[0][stem]:.0f} s" for stem in slowest))  # fmt: skip
    yield Row("`make report` again", "–", *spread(wall[1:]), "s", 45, at_least=False,
              note=f"cells take {sum(cells[1].values()):.0f} s of it, imports included")  # fmt: skip
    share = 100 * (wall[1] - sum(cells[1].values())) / wall[0]
    yield Row("papermill, nbconvert and the PDF: share of `make report`", "–", share, share, share, "%", 10,
              at_least=False, note="all that is not a cell's own time")  # fmt: skip


def _seconds_of_cells(notebook: Path) -> float:
    found = (
        cell["metadata"].get("papermill", {}).get("duration") for cell in json.loads(notebook.read_text())["cells"]
    )
    return sum(duration or 0.0 for duration in found)


ROWS = (
    dip_rows,
    step_rows,
    interpreters_row,
    share_rows,
    ddpm_call_row,
    hybrid_rows,
    growth_rows,
    import_row,
    old_processor_row,
    sweep_rows,
    scale_rows,
    report_rows,
)


def table(rows: list[Row]) -> str:
    lines = []
    for row in rows:
        sign = "≥" if row.at_least else "≤"
        verdict = "reached" if row.reached else "SHORT"
        lines.append(
            f"{verdict:8} {row.value:8.2f} [{row.low:.2f}, {row.high:.2f}] {row.unit}, to reach {sign} {row.target:g}"
            f" | {row.claim} | against {row.against} | {row.note}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds and pictures; within three minutes")
    kinds = [make.__name__ for make in ROWS]
    parser.add_argument("--only", metavar="ROWS", choices=kinds, nargs="+", help="these kinds, in place of the old")
    parser.add_argument("--output", type=Path, default=HERE / "results.json")
    parser.add_argument("--networks", type=int, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--fast", type=int, metavar="ROUNDS", help=argparse.SUPPRESS)
    parser.add_argument("--plain", type=int, metavar="ROUNDS", help=argparse.SUPPRESS)
    parser.add_argument("--scale", type=int, nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--writes", type=int, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.networks:
        networks_alone(*arguments.networks)
        return
    if arguments.fast:
        print(json.dumps(in_turn({"fast": iterations(DIPConfig.fast(), 128)}, arguments.fast)["fast"]))
        return
    if arguments.plain:
        plain(arguments.plain)
        return
    if arguments.scale:
        pass_on(*arguments.scale)
        return
    if arguments.writes:
        write_results(*arguments.writes)
        return
    record: dict[str, Any] = {"quick": arguments.quick, "machine": compute.machine(), "versions": compute.versions()}
    rows: list[dict[str, Any]] = []
    if arguments.only:
        before = json.loads(arguments.output.read_text())
        other = [name for name in record if before[name] != record[name]]
        if other:
            parser.error(f"{arguments.output} has another {' and '.join(other)}: run all rows, or give --output")
        rows = [row for row in before["rows"] if row["kind"] not in arguments.only]
    profiled = {"published": DIPConfig.published(), "24 to 128 wide": BEFORE, "fast": DIPConfig.fast()}
    works = {name: one_network(config) for name, config in profiled.items()}
    works["fast, two as one"] = iterations(replace(DIPConfig.fast(), runs=2), 128, together=2)
    record["profile"] = {name: profile(work) for name, work in works.items()}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["DIPDDPM_STORE"] = folder  # timings are taken, never read
        for make in ROWS:
            if not arguments.only or make.__name__ in arguments.only:
                fresh = list(make(arguments.quick))
                print(table(fresh), flush=True)
                environment = {name: os.environ.get(name, "") for name in ("GOMP_SPINCOUNT", *KEPT)}
                made = {"kind": make.__name__, "source": store.source_digest(), "environment": environment}
                rows += [{**made, **asdict(row), "reached": row.reached} for row in fresh]
                record["rows"] = sorted(rows, key=lambda row: kinds.index(row["kind"]))
                keep(arguments.output, json.dumps(record, indent=1, ensure_ascii=False))  # what follows may fail


if __name__ == "__main__":
    main()
