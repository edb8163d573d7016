"""The one decision about device, precision and threads; seeded generators; peak memory."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dipddpm_lib import compute
from dipddpm_lib.types import InputError

MIB = 2**20


@pytest.fixture
def decide(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., compute.Compute]]:
    """Decide afresh under the given environment; afterwards threads and the decision are as before."""
    threads = torch.get_num_threads()

    def decide(**environment: str) -> compute.Compute:
        for name in ("DIPDDPM_DEVICE", "DIPDDPM_DTYPE", "DIPDDPM_LAYOUT", "DIPDDPM_THREADS", "OMP_NUM_THREADS"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        compute.default.cache_clear()
        return compute.default()

    yield decide
    compute.default.cache_clear()
    torch.set_num_threads(threads)


def test_the_decision_is_made_once() -> None:
    assert compute.default() is compute.default()


def test_the_environment_overrides_precision_and_threads(decide: Callable[..., compute.Compute]) -> None:
    chosen = decide(DIPDDPM_DEVICE="cpu", DIPDDPM_DTYPE="float32", DIPDDPM_THREADS="1")
    assert chosen == compute.Compute("cpu", "float32", channels_last=True, threads=1)
    assert torch.get_num_threads() == 1
    chosen = decide(DIPDDPM_DEVICE="cpu", DIPDDPM_DTYPE="bfloat16", DIPDDPM_THREADS="1")
    assert chosen == compute.Compute("cpu", "bfloat16", channels_last=True, threads=1)


@pytest.mark.parametrize("dtype", [name for name in compute.DTYPES if name != "tf32"])
@pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
def test_another_process_that_is_given_the_decision_makes_it_without_a_trial(
    decide: Callable[..., compute.Compute], monkeypatch: pytest.MonkeyPatch, dtype: str, layout: str
) -> None:
    chosen = decide(DIPDDPM_DEVICE="cpu", DIPDDPM_DTYPE=dtype, DIPDDPM_LAYOUT=layout, DIPDDPM_THREADS="1")
    monkeypatch.setattr(compute, "seconds_of_convolution", lambda *_: pytest.fail("tried"))
    assert decide(**chosen.variables, DIPDDPM_THREADS="1") == chosen


def test_threads_follow_omp_but_our_own_variable_first(decide: Callable[..., compute.Compute]) -> None:
    assert decide(OMP_NUM_THREADS="1").threads == 1
    assert decide(OMP_NUM_THREADS="999999", DIPDDPM_THREADS="1").threads == 1
    assert decide(OMP_NUM_THREADS="1,2").threads == 1  # nested levels: the outermost counts


def test_threads_never_exceed_the_cores_that_this_process_may_use(
    decide: Callable[..., compute.Compute], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compute, "available_cores", lambda: 2)
    assert decide(DIPDDPM_THREADS="64").threads == 2
    assert decide().threads == 2


def test_the_environment_overrides_the_layout(decide: Callable[..., compute.Compute]) -> None:
    assert decide(DIPDDPM_DTYPE="float32").channels_last
    assert not decide(DIPDDPM_DTYPE="float32", DIPDDPM_LAYOUT="contiguous").channels_last


def test_empty_variables_count_as_unset(decide: Callable[..., compute.Compute]) -> None:
    assert decide(DIPDDPM_DEVICE="", DIPDDPM_DTYPE="", DIPDDPM_THREADS="") == decide()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DIPDDPM_DTYPE", "float16"),
        ("DIPDDPM_DTYPE", "bf16"),
        ("DIPDDPM_DTYPE", "tf32"),
        ("DIPDDPM_THREADS", "0"),
        ("DIPDDPM_THREADS", "-1"),
        ("DIPDDPM_THREADS", "two"),
        ("DIPDDPM_THREADS", "1.5"),
        ("OMP_NUM_THREADS", "all"),
        ("DIPDDPM_DEVICE", "gpu"),
        ("DIPDDPM_DEVICE", "meta"),
        ("DIPDDPM_DEVICE", "cuda:x"),
        ("DIPDDPM_LAYOUT", "nchw"),
    ],
)
def test_nonsense_in_the_environment_is_refused_in_one_line(
    decide: Callable[..., compute.Compute], name: str, value: str
) -> None:
    with pytest.raises(InputError) as caught:
        decide(**{name: value})
    assert "\n" not in str(caught.value)
    assert repr(value) in str(caught.value)
    assert name in str(caught.value)


def test_asking_for_a_gpu_where_none_is_says_so_at_once(
    decide: Callable[..., compute.Compute], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="cuda"):
        decide(DIPDDPM_DEVICE="cuda")


def test_a_gpu_is_taken_where_there_is_one(
    decide: Callable[..., compute.Compute], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for multiplies, dtype in ((True, "bfloat16"), (False, "float32")):  # the latter before Ampere
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, it=multiplies: it)
        chosen = decide()
        assert (chosen.device, chosen.dtype, chosen.channels_last) == ("cuda", dtype, True)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "tf32", ""])
def test_whoever_asks_a_gpu_for_float32_gets_it(
    dtype: str, decide: Callable[..., compute.Compute], monkeypatch: pytest.MonkeyPatch
) -> None:
    """TF32 keeps 10 bits of 23; the operators' transforms, which are matrix products, never take it."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    of_products, of_convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = of_products.allow_tf32, of_convolutions.allow_tf32
    of_products.allow_tf32 = True
    try:
        decide(DIPDDPM_DTYPE=dtype)
        assert of_convolutions.allow_tf32 == (dtype == "tf32")
        assert not of_products.allow_tf32
    finally:
        of_products.allow_tf32, of_convolutions.allow_tf32 = before


@pytest.mark.parametrize(
    ("capability", "flags", "dtype"),
    [
        ("AVX512", "flags : avx512f amx_bf16", "bfloat16"),
        ("AVX512", "flags : avx512f avx512_bf16", "bfloat16"),
        ("AVX512", "flags : avx512f", "float32"),
        ("AVX2", "flags : avx512f amx_bf16", "float32"),
        ("DEFAULT", "flags : avx512f amx_bf16", "float32"),
        ("AVX512", None, "float32"),  # macOS, Windows: no /proc
    ],
)
def test_bf16_is_chosen_only_where_the_processor_multiplies_in_it(
    decide: Callable[..., compute.Compute],
    monkeypatch: pytest.MonkeyPatch,
    capability: str,
    flags: str | None,
    dtype: str,
) -> None:
    def read_text(path: Path, *_: object, **__: object) -> str:
        if flags is None:
            raise FileNotFoundError(path)
        return flags

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(Path, "read_text", read_text)
    monkeypatch.setattr(compute, "seconds_of_convolution", lambda name, *_: {"bfloat16": 1, "float32": 2}[name])
    assert decide().dtype == dtype


def test_bf16_must_win_the_trial(decide: Callable[..., compute.Compute], monkeypatch: pytest.MonkeyPatch) -> None:
    """Instructions that are announced may be emulated: what counts is the clock."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(compute, "_multiplies_bf16", lambda: True)
    for seconds, dtype in (
        ({"bfloat16": 1.0, "float32": 2.0}, "bfloat16"),
        ({"bfloat16": 2.0, "float32": 1.0}, "float32"),
    ):
        monkeypatch.setattr(compute, "seconds_of_convolution", lambda name, *_, of=seconds: of[name])
        assert decide().dtype == dtype
        assert decide(DIPDDPM_DTYPE="bfloat16").dtype == "bfloat16", "what is asked for needs no trial"


def test_the_trial_runs_on_one_thread_and_leaves_the_number_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(compute, "_multiplies_bf16", lambda: True)
    monkeypatch.setattr(compute, "seconds_of_convolution", lambda *_: float(seen.append(torch.get_num_threads()) or 1))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert not compute._bf16_wins(), "as fast is not faster"
        assert set(seen) == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("quiet", "loaded"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_load_during_the_trial_does_not_decide_it(quiet: str, loaded: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All rounds but one of the faster type meet other work that makes them ten times slower."""
    calls = dict.fromkeys((quiet, loaded), 0)

    def seconds(dtype: str, *_: object) -> float:
        calls[dtype] += 1
        return 2.0 if dtype == loaded else (1.0 if calls[dtype] == 4 else 10.0)

    monkeypatch.setattr(compute, "_multiplies_bf16", lambda: True)
    monkeypatch.setattr(compute, "seconds_of_convolution", seconds)
    assert compute._bf16_wins() == (quiet == "bfloat16")


def test_the_trial_times_what_it_is_asked_for() -> None:
    small, large = (compute.seconds_of_convolution("float32", True, 16, side) for side in (16, 256))
    assert 0 < small < large


def test_placing_casts_convolutions_alone() -> None:
    with torch.device("meta"):  # weights that are not drawn leave the global random state alone
        network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.GroupNorm(8, 8), torch.nn.Linear(4, 4))
        convolution = torch.nn.Conv2d(3, 8, 3)
    network, convolution = network.to_empty(device="cpu"), convolution.to_empty(device="cpu")
    placed = compute.Compute("cpu", "bfloat16", True, 1).place(network)
    assert placed is network
    assert [p.dtype for p in placed.parameters()] == [torch.bfloat16] * 2 + [torch.float32] * 4
    assert placed[0].weight.is_contiguous(memory_format=torch.channels_last)
    plain = compute.Compute("cpu", "float32", False, 1).place(convolution)
    assert plain.weight.dtype == torch.float32
    assert plain.weight.is_contiguous()


def test_the_yardstick_is_plain_float32_on_the_same_device() -> None:
    plain = compute.Compute("cuda", "bfloat16", True, 3).float32()
    assert plain == compute.Compute("cuda", "float32", channels_last=False, threads=3)
    assert plain.memory_format == torch.contiguous_format
    assert compute.Compute("cpu", "bfloat16", True, 1).memory_format == torch.channels_last


# ---- generators


@given(st.integers(0, 2**40), st.text(max_size=20))
def test_the_same_seed_and_stream_give_the_same_draws(seed: int, stream: str) -> None:
    first = torch.randn(8, generator=compute.generator(seed, stream))
    assert torch.equal(first, torch.randn(8, generator=compute.generator(seed, stream)))
    assert not torch.equal(first, torch.randn(8, generator=compute.generator(seed + 1, stream)))
    assert not torch.equal(first, torch.randn(8, generator=compute.generator(seed, stream + "x")))


def test_neighbouring_seeds_and_streams_are_uncorrelated() -> None:
    n = 20_000
    draws = [torch.randn(n, generator=compute.generator(s, name)) for s in range(4) for name in ("dip", "sample")]
    correlation = torch.corrcoef(torch.stack(draws)) - torch.eye(len(draws))
    # independent: N(0, 1/n) each; 28 pairs beyond 5σ once in 60 000 runs, and the seeds are fixed
    assert correlation.abs().max() < 5 / n**0.5


def test_a_generator_lives_on_the_cpu() -> None:
    assert compute.generator(0, "x").device.type == "cpu"


# ---- records


def test_what_a_record_says_of_the_machine_is_json() -> None:
    machine = json.loads(json.dumps(compute.machine()))
    assert set(machine) == {"processor", "cores", "system", "device", "dtype", "channels_last", "threads"}
    assert machine["processor"]
    assert 1 <= machine["threads"] <= machine["cores"]
    versions = compute.versions()
    assert versions["torch"] == torch.__version__.split("+")[0]
    assert all(part[0].isdigit() for part in versions.values())


# ---- memory


def touched(mib: int) -> torch.Tensor:
    """A tensor whose pages are really there."""
    return torch.full((mib * MIB // 4,), 1.0)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the exact count is Linux's")
def test_peak_memory_sees_what_was_freed_again_and_not_what_was_there_before() -> None:
    kept = touched(80)
    del kept
    with compute.peak_memory() as large:
        x = touched(64)
        del x
    with compute.peak_memory() as small:
        x = touched(16)
        del x
    # besides the tensor the interpreter's own pages: a few MiB
    assert 64 * MIB * 0.95 <= large.bytes <= 80 * MIB
    assert 16 * MIB * 0.9 <= small.bytes <= 32 * MIB, "an earlier peak is counted again"


@pytest.mark.parametrize("error", [OSError, AttributeError, ValueError, KeyboardInterrupt])
def test_peak_memory_lets_an_error_of_the_work_through(error: type[BaseException]) -> None:
    with pytest.raises(error, match="the work's own"), compute.peak_memory():
        raise error("the work's own")


def test_the_memory_of_every_cgroup_around_this_process_counts(tmp_path: Path) -> None:
    table, root = tmp_path / "cgroup", tmp_path / "sys"
    table.write_text("0::/slurm/job_7/step_0\n")
    found = list(compute._cgroups("memory", table, root))
    for place in ("", "slurm", "slurm/job_7", "slurm/job_7/step_0"):
        assert (root / place, True) in found
    table.write_text("12:cpu,cpuacct:/a\n5:memory:/a/b\n")
    found = list(compute._cgroups("memory", table, root))
    assert {(root / "memory" / p, False) for p in ("", "a", "a/b")} <= set(found)
    assert not any("cpu" in str(path) for path, _ in found)
    assert list(compute._cgroups("memory", tmp_path / "none", root)) == [(root, True), (root / "memory", False)]


def test_the_share_of_time_of_every_cgroup_around_this_process_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, root = tmp_path / "cgroup", tmp_path / "sys"
    table.write_text("0::/pod/box\n4:cpu,cpuacct:/old\n")
    for place, name, text in (
        ("", "cpu.max", "max 100000"),
        ("pod", "cpu.max", "250000 100000"),
        ("pod/box", "cpu.max", "of another form"),
        ("cpu/old", "cpu.cfs_quota_us", "-1"),  # no limit
        ("cpu/old", "cpu.cfs_period_us", "100000"),
        ("cpu", "cpu.cfs_quota_us", "50000"),
        ("cpu", "cpu.cfs_period_us", "100000"),
    ):
        (root / place).mkdir(parents=True, exist_ok=True)
        (root / place / name).write_text(text)
    assert sorted(set(compute._shares(table, root))) == [0.5, 2.5]
    assert list(compute._shares(tmp_path / "none", tmp_path / "none")) == []
    for shares, cores in (([2.5], 3), ([0.5, 2.5], 1), ([], 7), ([64.0], 7)):
        monkeypatch.setattr(compute, "_shares", lambda shares=shares: iter(shares))
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(7))
        compute._whole_share.cache_clear()
        assert compute.available_cores() == cores
    compute._whole_share.cache_clear()


def test_peak_memory_falls_back_to_the_high_water_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the kernel's mark cannot be reset, a new record is still counted."""

    def denied(*_: object) -> None:
        raise PermissionError(13, "no")

    monkeypatch.setattr(Path, "write_text", denied)
    with compute.peak_memory() as peak:
        x = touched(8)
        del x
    assert peak.bytes >= 0


def test_works_run_side_by_side_share_the_threads_and_keep_their_order(decide: Callable[..., compute.Compute]) -> None:
    where = decide(DIPDDPM_DEVICE="cpu")
    barrier = threading.Barrier(min(2, where.threads), timeout=20)

    def work(value: int) -> tuple[int, int]:
        barrier.wait()  # passes only where the works run at once
        return value, torch.get_num_threads()

    with compute.side_by_side(2) as at_once:
        found = at_once([partial(work, 1), partial(work, 2)])
    assert found == [(value, max(1, where.threads // 2)) for value in (1, 2)]
    assert torch.get_num_threads() == where.threads


def test_a_work_that_fails_is_heard_and_with_one_thread_works_run_in_turn(
    decide: Callable[..., compute.Compute],
) -> None:
    for threads in ("1", ""):
        decide(DIPDDPM_DEVICE="cpu", DIPDDPM_THREADS=threads)
        with pytest.raises(ZeroDivisionError), compute.side_by_side(2) as at_once:
            at_once([lambda: 1, lambda: 1 // 0])
    order: list[str] = []
    decide(DIPDDPM_DEVICE="cpu", DIPDDPM_THREADS="1")
    with compute.side_by_side(3) as at_once:
        at_once([partial(order.append, name) for name in "abc"])
    assert order == ["a", "b", "c"]


def test_a_thread_that_is_born_while_works_wait_gets_all_threads(decide: Callable[..., compute.Compute]) -> None:
    """A panel or a cluster starts threads of its own while a fit is suspended between two iterations."""
    where = decide(DIPDDPM_DEVICE="cpu")
    with compute.side_by_side(2) as at_once, ThreadPoolExecutor(1) as other:
        at_once([lambda: torch.ones(8).sum(), lambda: torch.ones(8).sum()])
        # a first parallel operation makes a thread take over the process's number
        other.submit(lambda: torch.ones(100_000).sum()).result()
        assert other.submit(torch.get_num_threads).result() == where.threads
