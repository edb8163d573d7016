"""Deep Image Prior: it fits, it stops, it estimates its own error, and it repeats."""

from __future__ import annotations

import math
import re
import threading
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from dipddpm_lib import compute, dip, images, metrics, operators
from dipddpm_lib.dip import DIPConfig, Fit
from dipddpm_lib.types import InputError, Measurement

TINY = DIPConfig(filters=(8, 8), skip=4, in_channels=4, iterations=30, stop="none", held_out=0.0, runs=1)


def _clean(size: int | tuple[int, int] = 32) -> Measurement:
    return Measurement(images.load("coffee", size), operators.Identity(), 0.0)


def _fits(y: Measurement, config: DIPConfig, seed: int = 0) -> list[Fit]:
    return list(dip.reconstruct(y, config, compute.generator(seed, "dip")))


def test_the_published_preset_is_the_published_network() -> None:
    config = DIPConfig.published()
    assert dip.parameters(config) == 2_217_831  # the original code's own count
    assert (config.lr, config.jitter, config.ema, config.float32) == (0.01, 1 / 30, 0.99, True)
    assert DIPConfig() == DIPConfig.fast()
    assert dip.parameters(DIPConfig.snail()) == 572_827
    assert dip.parameters(DIPConfig(runs=3)) == 3 * dip.parameters(DIPConfig(runs=1))
    with pytest.raises(InputError, match="skip: expected 2 numbers"):
        DIPConfig(filters=(8, 8), skip=(4, 4, 4))


@pytest.mark.parametrize(
    "config",
    [
        replace(DIPConfig.published(20), filters=(16, 16)),
        replace(DIPConfig.fast(20), filters=(8, 16)),
        replace(DIPConfig.deep_decoder(20), filters=(16, 16), in_channels=16),
        DIPConfig.shaped(3, 8, 20),
    ],
)
def test_every_preset_comes_nearer_to_its_target(config: DIPConfig) -> None:
    y = _clean((36, 50))  # neither square nor a multiple of anything
    first, *_, last = _fits(y, config)
    assert last.x0_hat.shape == y.y.shape
    assert metrics.psnr(last.x0_hat, y.y) > metrics.psnr(first.x0_hat, y.y) + 2
    assert last.x0_hat.abs().max() <= 1


def test_depth_and_filters_are_parameters() -> None:
    assert DIPConfig.shaped(4, 16).filters == (16,) * 4
    assert DIPConfig.shaped(4, 16).depth == 4
    counts = [dip.parameters(DIPConfig.shaped(d, c)) for d, c in ((2, 16), (3, 16), (3, 32))]
    assert counts == sorted(counts)
    assert len(set(counts)) == 3
    assert DIPConfig.shaped(1, 8).depth == 1, "one scale is an architecture too"


def test_one_step_an_iteration_numbered_from_zero_at_t_zero() -> None:
    fits = _fits(_clean(), TINY)
    assert [f.index for f in fits] == list(range(30))
    assert {f.t for f in fits} == {0}


def test_the_running_average_is_bias_corrected() -> None:
    fits = _fits(_clean(), replace(TINY, iterations=5, ema=0.9))
    weights = torch.tensor([0.9 ** (4 - i) for i in range(5)])
    expected = sum(w * f.x_t for w, f in zip(weights / weights.sum(), fits, strict=True))
    torch.testing.assert_close(fits[-1].x0_hat, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(fits[0].x0_hat, fits[0].x_t)


def test_without_an_average_the_output_itself_is_the_estimate() -> None:
    last = _fits(_clean(), replace(TINY, iterations=3, ema=0.0))[-1]
    torch.testing.assert_close(last.x0_hat, last.x_t)


def test_the_rate_rises_in_equal_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = []
    step = dip.Adam.step
    monkeypatch.setattr(dip.Adam, "step", lambda self, loss, lr: (rates.append(lr), step(self, loss, lr))[1])
    _fits(_clean(), replace(TINY, iterations=6, warmup=3, lr=0.04))
    assert rates == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.04, 0.04])


def test_a_coarse_start_leaves_the_finest_scale_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half the size first: what the finest scale computes with changes only afterwards."""
    config = replace(TINY, iterations=6, coarse=4)
    built: list[torch.nn.Module] = []
    make = dip._networks
    monkeypatch.setattr(dip, "_networks", lambda *a: (found := make(*a), built.append(found[0]))[0])
    finest = []
    for _ in dip.reconstruct(_clean(), config, compute.generator(0, "dip")):
        net = built[0]
        finest.append(
            torch.cat([p.detach().flatten().clone() for p in (*net.up[0].parameters(), *net.out.parameters())])
        )
    assert all(torch.equal(weights, finest[0]) for weights in finest[:4])
    assert not torch.equal(finest[4], finest[3])
    with pytest.raises(InputError, match="coarse: expected"):
        replace(DIPConfig.deep_decoder(), coarse=5)


def test_the_stop_waits_for_the_finest_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """A measure that says stop from the first iteration on ends the fit only once the coarse start is over."""
    config = replace(TINY, coarse=12, warmup=0, stop="held_out", held_out=0.1, patience=2, iterations=30)
    monkeypatch.setattr(dip._Watch, "over", lambda self, fit, residual: (setattr(self, "best", fit), True)[1])
    assert len(_fits(_clean(), config)) == 13


def _noisy(sigma: float = 0.8) -> tuple[torch.Tensor, Measurement]:
    x = images.load("coffee", 32)
    return x, operators.measure(operators.Identity(), x, sigma, compute.generator(0, "n"))


def test_the_stop_stops_and_keeps_its_best_moment() -> None:
    x, y = _noisy()
    config = DIPConfig(filters=(16, 32), iterations=900, stop="held_out", held_out=0.1, patience=60, ema=0.9)
    fits = _fits(y, config)
    assert len(fits) < 900
    last = fits[-1]
    # the result is one of the averages that were passed on the way, not the latest
    assert any(torch.equal(last.x0_hat, f.x0_hat) for f in fits[:-50])
    unstopped = _fits(y, replace(config, stop="none", iterations=600))[-1]
    assert metrics.psnr(last.x0_hat, x) > metrics.psnr(unstopped.x0_hat, x)


def test_the_moving_variance_stops_after_its_least() -> None:
    """Outputs that settle until iteration 120 and then wander: the least variance lies there, the stop 40 later."""
    watch = dip._Watch(DIPConfig(stop="emv", held_out=0.0, patience=40), noisy=True)
    draw = compute.generator(0, "outputs")
    for index in range(400):
        wander = abs(index - 120) / 120 + 0.01
        output = wander * torch.randn(1, 3, 16, 16, generator=draw)
        if watch.over(Fit(index, 0, output, output), None):
            break
    # the variance looks back over 1/α = 10 outputs, so its least comes up to so much later
    assert 120 <= watch.best.index <= 135
    assert index == watch.best.index + 40


@pytest.mark.parametrize("delay", [{"warmup": 100}, {"warmup": 0, "coarse": 60}])
def test_the_moving_variance_begins_where_the_stop_does(delay: dict[str, int]) -> None:
    """At its first outputs it is 0, which no later one undercuts: they do not count, wherever they lie."""
    config = replace(TINY, stop="emv", ema=0.9, patience=20, iterations=150, **delay)
    fitting = dip.reconstruct(_noisy()[1], config, compute.generator(0, "dip"))
    list(fitting)
    assert fitting.watch.best is not None
    assert fitting.watch.least > 0
    assert fitting.watch.best.index >= max(config.warmup // 2, config.coarse) + 50


@pytest.mark.parametrize(("noisy", "patience"), [(True, 10), (False, 30)])
def test_the_held_out_stop_keeps_the_last_fit_unless_it_collapsed(noisy: bool, patience: int) -> None:
    """The error falls until iteration 50; where it has risen by more than a tenth at the stop, iteration 50 is kept."""
    for slope, kept in ((0.09 / patience, 50 + patience), (0.2 / patience, 50)):
        watch = dip._Watch(DIPConfig(held_out=0.1, patience=10), noisy)
        for index in range(400):
            error = 1 + slope * max(0, index - 50) + 0.1 * max(0, 50 - index)
            fit = Fit(index, 0, torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2))
            if watch.over(fit, error):
                break
        assert index == 50 + patience
        assert watch.result(fit, error).index == kept


def test_the_moving_variance_is_the_papers() -> None:
    """M ← M + α(x − M) and V ← (1 − α)(V + α‖x − M‖²/n), from V = 0, against the weighted variance it stands for."""
    watch = dip._Watch(DIPConfig(stop="emv", held_out=0.0), noisy=True)
    outputs = torch.randn(80, 1, 3, 4, 4, generator=compute.generator(1, "outputs"))
    for i, x in enumerate(outputs):
        measured = watch._moving_variance(Fit(i, 0, x, x))
    weights = torch.tensor([0.9**79, *(0.1 * 0.9 ** (79 - i) for i in range(1, 80))]).reshape(-1, 1, 1, 1, 1)
    mean = (weights * outputs).sum(0)
    expected = float((weights * (outputs - mean) ** 2).sum(0).mean())
    assert measured == pytest.approx(expected, rel=1e-4)


def test_runs_are_fits_of_their_own_and_the_estimate_is_their_mean() -> None:
    """The same generators by hand: the first run draws from the caller's, the second from one seeded by it."""
    config = replace(TINY, runs=2, iterations=4)
    both = _fits(_clean(), config)[-1]
    draw = compute.generator(0, "dip")
    second = torch.Generator().manual_seed(int(torch.randint(2**48, (1,), generator=draw)))
    alone = [list(dip.reconstruct(_clean(), replace(config, runs=1), g))[-1] for g in (draw, second)]
    torch.testing.assert_close(both.x0_hat, torch.stack([f.x0_hat for f in alone]).mean(0), rtol=0, atol=1e-6)
    torch.testing.assert_close(both.x_t, torch.stack([f.x_t for f in alone]).mean(0), rtol=0, atol=1e-6)
    assert not torch.equal(alone[0].x0_hat, alone[1].x0_hat)


def test_side_by_side_or_in_turn_the_bits_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads give each group of runs one; a group does not depend on what runs beside it."""
    before, found = torch.get_num_threads(), []
    where = replace(compute.default(), device="cpu", threads=2)
    monkeypatch.setattr(compute, "default", lambda: where)
    try:
        for in_turn in (False, True):
            torch.set_num_threads(1)
            if in_turn:
                monkeypatch.setattr(
                    compute, "side_by_side", lambda count: nullcontext(lambda works: [w() for w in works])
                )
            found.append(_fits(_clean(), replace(TINY, runs=3, iterations=5))[-1].x0_hat)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("runs", "side", "lanes", "groups"),
    [
        (4, 128, 1, [4]),
        (4, 128, 2, [2, 2]),
        (2, 128, 2, [1, 1]),
        (3, 64, 2, [2, 1]),
        (4, 128, 8, [1, 1, 1, 1]),
        (4, 192, 1, [3, 1]),
        (4, 512, 1, [2, 2]),
    ],
)
def test_networks_are_computed_together_as_threads_and_cache_allow(
    runs: int, side: int, lanes: int, groups: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    where = replace(compute.default(), device="cpu", threads=lanes)
    monkeypatch.setattr(compute, "default", lambda: where)
    monkeypatch.setattr(compute, "side_by_side", lambda count: nullcontext())  # no threads for what does not run
    x = torch.zeros(1, 3, side, side)
    y = operators.measure(operators.Identity(), x, 0.1, compute.generator(0, "measure"))
    fit = dip.reconstruct(y, replace(TINY, runs=runs), compute.generator(0, "dip"))
    fit.close()
    assert [len(group.generators) for group in fit.groups] == groups


@pytest.mark.parametrize("closed", [True, False])
def test_a_fit_that_is_abandoned_leaves_no_thread_behind(closed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    before, threads = threading.active_count(), torch.get_num_threads()
    where = replace(compute.default(), device="cpu", threads=2)
    monkeypatch.setattr(compute, "default", lambda: where)
    try:
        fits = dip.reconstruct(_clean(), replace(TINY, runs=2), compute.generator(0, "dip"))
        next(fits)
        assert before < threading.active_count() <= before + 2, "a thread that is idle again takes the second group too"
        if closed:
            fits.close()
            assert list(fits) == []
        del fits
        assert threading.active_count() == before
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("lift", [0, 1, 2])
def test_any_size_comes_out_of_any_lift(lift: int) -> None:
    y = _clean((37, 50))
    assert _fits(y, replace(TINY, filters=(8, 8, 8), lift=lift, iterations=2))[-1].x0_hat.shape == y.y.shape


def test_held_out_entries_do_not_reach_the_fit() -> None:
    """Spoil one held-out pixel: the fit does not change by a bit."""
    _, y = _noisy(0.1)
    config = replace(TINY, iterations=4, stop="held_out", held_out=0.2)  # with one run, which draws no seeds first
    # the mask is drawn after the network and its input, as reconstruct does
    draw = compute.generator(0, "dip")
    dip._networks(config, (32, 32), draw)
    held = y.operator.held_out(y.y, 0.2, draw)
    spoiled = torch.where(held, torch.full_like(y.y, 9.0), y.y)
    a, b = _fits(y, config), _fits(Measurement(spoiled, y.operator, y.sigma_y), config)
    assert held.any()
    torch.testing.assert_close(a[-1].x_t, b[-1].x_t, rtol=0, atol=0)
    assert a[-1].rmse_hat != b[-1].rmse_hat


@given(share=st.floats(0.001, 0.9), seed=st.integers(0, 1000))
@pytest.mark.parametrize("task", ["denoise_25", "inpaint_90", "super_x4", "compressive_10", "fourier_x4"])
def test_held_out_entries_are_observed_and_never_none(task: str, share: float, seed: int) -> None:
    operator, _ = operators.task(task, 32, 32, compute.generator(seed, task))
    y = operator.A(images.load("coffee", 32))
    held = operator.held_out(y, share, compute.generator(seed, "held"))
    observed = operator.support.expand(y.shape)[0, 0] > 0
    assert held.any()
    assert (observed[held.expand(observed.shape)]).all()
    places = int(observed.reshape(32, 32, -1)[..., 0].sum()) if y.ndim == 5 else int(observed.sum())
    count, expected = int(held.sum()), max(1, round(share * places))
    assert expected <= count <= 2 * expected  # Fourier takes each mirror image along


def test_fourier_hides_the_mirror_image_of_what_it_hides() -> None:
    """F(−k) is F(k)'s conjugate for a real image: one of the two would give the other away."""
    operator, _ = operators.task("fourier_x4", 32, 32, compute.generator(0, "f"))
    y = operator.A(images.load("coffee", 32))
    held = operator.held_out(y, 0.3, compute.generator(0, "held"))[..., 0]
    observed = operator.support[..., 0]
    fitted = observed & ~held
    assert not (fitted & held.flip(0, 1).roll((1, 1), (0, 1))).any()


def test_the_error_estimate_sees_no_target_and_comes_near_it() -> None:
    x, y = _noisy(0.2)
    last = _fits(y, DIPConfig(filters=(16, 32), iterations=150, stop="none", held_out=0.2))[-1]
    true = float((last.x0_hat - x).pow(2).mean().sqrt())
    # 600 held-out values: their mean square has a relative spread of √(2/600) = 6 %; noise taken off, and half again
    # for pixels that are harder to guess than to fit
    assert last.rmse_hat is not None
    assert 0.7 * true < last.rmse_hat < 1.8 * true


class _Dimmed(operators.Identity):
    """A x = x/2: what is measured shows half of every error."""

    def A(self, x: torch.Tensor) -> torch.Tensor:
        return x / 2


def test_the_runs_tell_how_much_the_measurement_hides() -> None:
    """Adam does not see the scale of its loss, so both fits are one; only the held-out error is halved."""
    x = images.load("coffee", 32)
    estimates = {}
    for runs in (1, 2):
        config = replace(DIPConfig.fast(60), runs=runs, held_out=0.1, stop="none")
        for operator in (operators.Identity(), _Dimmed()):
            y = operators.measure(operator, x, 0.0, compute.generator(0, "n"))
            *_, last = dip.reconstruct(y, config, compute.generator(0, "dip"))
            estimates[runs, type(operator)] = last.rmse_hat
    # ε = 1e-8 in Adam's denominator is what tells the two fits apart
    assert estimates[1, _Dimmed] == pytest.approx(estimates[1, operators.Identity] / 2, rel=0.15)
    # two runs share what held-out pixels show worst, so their factor is below 2, but well above 1
    assert 0.6 < estimates[2, _Dimmed] / estimates[2, operators.Identity] < 1.15


class _EachAlone(operators.Fourier):
    """As if real and imaginary part were coefficients of their own."""

    parts = 1


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_real_and_imaginary_part_count_together(share: float) -> None:
    """They share a coefficient's variance. The disagreement of two runs tells so by itself, but for the floor of 1."""
    x = images.load("coffee", 32)
    mask = torch.rand(32, 32, generator=compute.generator(0, "mask")) < share
    for runs in (1, 2):
        config = replace(DIPConfig.fast(40), runs=runs, held_out=0.1, stop="none")
        found, factors = [], []
        for kind in (operators.Fourier, _EachAlone):
            operator = kind(mask)
            y = operators.measure(operator, x, 0.0, compute.generator(0, "n"))
            fitting = dip.reconstruct(y, config, compute.generator(2, "dip"))
            *_, last = fitting
            residual = (fitting.held * (operator.A(last.x0_hat) - y.y) ** 2).sum() / fitting.count
            found.append(last.rmse_hat)
            factors.append(last.rmse_hat / float(residual.sqrt()))
        above = factors[1] if runs > 1 else 0.0  # how much the runs disagree beyond what the entries show
        expected = math.sqrt(2) * max(1, above / math.sqrt(2)) / max(1, above)
        assert found[0] == pytest.approx(expected * found[1], rel=1e-4), (runs, factors)
        if runs == 2 and share < 1:
            assert above > 1.1, "this setting tells the two apart"


def test_the_stop_waits_for_half_of_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the rate is near 0 the held-out error may rise for longer than any patience."""
    asked: list[int] = []
    monkeypatch.setattr(dip._Watch, "over", lambda self, fit, residual: asked.append(fit.index) or False)
    config = replace(DIPConfig.fast(12), warmup=8)
    list(dip.reconstruct(_clean(), config, compute.generator(0, "dip")))
    assert asked == list(range(4, 12))


@pytest.mark.parametrize("task", ["inpaint_50", "super_x4", "deblur", "compressive_10", "fourier_x4"])
def test_every_operator_can_be_fitted(task: str) -> None:
    x = images.load("coffee", 32)
    operator, sigma_y = operators.task(task, 32, 32, compute.generator(0, task))
    y = operators.measure(operator, x, sigma_y, compute.generator(0, "n"))
    fits = _fits(y, replace(TINY, stop="held_out", held_out=0.1, iterations=25))
    first, last = (((operator.A(f.x0_hat) - y.y) ** 2).sum() for f in (fits[0], fits[-1]))
    assert last < first
    assert fits[-1].rmse_hat is not None


def test_the_same_seed_gives_the_same_bits_and_another_does_not() -> None:
    a, b, c = (_fits(_clean(), replace(TINY, iterations=4), seed)[-1].x0_hat for seed in (0, 0, 1))
    torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert not torch.equal(a, c)


RESUMED = {
    "held_out": (replace(TINY, stop="held_out", held_out=0.1, warmup=4, patience=5, runs=3, iterations=24), 14),
    "emv": (replace(TINY, stop="emv", warmup=0, patience=5, iterations=200), 58),  # it watches from iteration 50 on
    "none": (replace(TINY, warmup=0, coarse=5, growing=True, lr_end=0.1, runs=3, iterations=10), 4),
    "float32": (replace(TINY, float32=True, runs=3, iterations=5), 2),
}


def _again(kind: str, forget: str | None = None, later: int = 0) -> list[Fit]:
    """What is left of a fit that another process's takes over; what it did after its state was taken is lost."""
    config, stop = RESUMED[kind]
    first = dip.reconstruct(_noisy(0.3)[1], config, compute.generator(0, "dip"))
    for _ in range(stop + later):
        next(first)
    state = first.state()
    next(first)
    again = dip.reconstruct(_noisy(0.3)[1], config, compute.generator(0, "dip"))
    if forget is not None:
        group, draw = (int(word) for word in re.findall(r"\d+", forget)) if "generator" in forget else (0, 0)
        fresh = again.groups[group].generators[draw].get_state() if "generator" in forget else None
        state[forget] = torch.ones_like(state[forget]) if fresh is None else fresh
    again.restore(load_tensors(save_tensors(state)))
    return list(again)


@pytest.fixture
def pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two networks a group, as on two threads."""
    monkeypatch.setattr(dip, "together", lambda runs, pixels, lanes: 2)


@pytest.mark.usefixtures("pairs")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", RESUMED)
def test_a_fit_taken_up_is_the_same_to_the_bit(kind: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if compute.default().device == "cuda":
        pytest.skip("CUDA takes the sums of some gradients in no fixed order")
    where = replace(compute.default(), dtype=dtype)
    monkeypatch.setattr(compute, "default", lambda: where)
    config, stop = RESUMED[kind]
    whole, rest = _fits(_noisy(0.3)[1], config), _again(kind)
    assert [fit.index for fit in rest] == [fit.index for fit in whole[stop:]]
    for resumed, fit in zip(rest, whole[stop:], strict=True):
        assert torch.equal(resumed.x_t, fit.x_t)
        assert torch.equal(resumed.x0_hat, fit.x0_hat)
        assert resumed.rmse_hat == fit.rmse_hat


@pytest.mark.parametrize(
    "forget",
    [
        *("group 0, generator 0", "group 0, generator 1", "group 1, generator 0", "group 0, weights"),
        *("group 1, exp_avg", "group 0, exp_avg_sq", "group 1, step", "averages", "unseen"),
    ],
)
@pytest.mark.usefixtures("pairs")
def test_a_fit_without_a_part_of_its_state_goes_elsewhere(forget: str) -> None:
    assert not torch.equal(_again("held_out", forget)[-1].x0_hat, _again("held_out")[-1].x0_hat)


def test_what_the_watch_remembers_decides_the_end() -> None:
    whole = _again("emv")
    assert len(whole) < RESUMED["emv"][0].iterations - RESUMED["emv"][1], "the stop stopped it"
    for forget in ("watch, mean", "watch, measures"):
        rest = _again("emv", forget)
        assert len(rest) != len(whole) or not torch.equal(rest[-1].x0_hat, whole[-1].x0_hat)
    later = len(whole) - 2  # the best moment is past, the end still to come
    assert not torch.equal(_again("emv", "watch, best x0_hat", later)[-1].x0_hat, whole[-1].x0_hat)


def test_a_state_from_beyond_the_end_is_refused() -> None:
    fits = dip.reconstruct(_clean(), replace(TINY, iterations=5), compute.generator(0, "dip"))
    for _ in range(3):
        next(fits)
    shorter = dip.reconstruct(_clean(), replace(TINY, iterations=3), compute.generator(0, "dip"))
    with pytest.raises(InputError, match="state: expected at most 2 steps"):
        shorter.restore(fits.state())


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"iterations": 0}, "iterations: expected 1"),
        ({"filters": ()}, "filters: expected"),
        ({"filters": (8, 0)}, "filters: expected"),
        ({"runs": 0}, "runs: expected 1"),
        ({"lift": 2}, "lift: expected 0 … 1"),
        ({"lift": -1}, "lift: expected 0 … 1"),
        ({"lr": 0.0}, "lr: expected"),
        ({"lr": float("nan")}, "lr: expected"),
        ({"ema": 1.0}, "ema: expected"),
        ({"jitter": -1.0}, "jitter: expected"),
        ({"warmup": -1}, "warmup: expected"),
        ({"coarse": -1}, "coarse: expected"),
        ({"coarse": 30}, "coarse: expected fewer than the 30"),
        ({"held_out": 1.0}, "held_out: expected"),
        ({"stop": "held_out", "held_out": 0.0}, "held_out above 0"),
        ({"stop": "sometimes"}, "stop: expected"),
        ({"network": "unet"}, "network: expected"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_settings_are_answered_in_one_line(change: dict[str, object], part: str) -> None:
    with pytest.raises(InputError) as caught:
        replace(TINY, **change)  # type: ignore[arg-type]
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


# ---- an operator of one's own


class Bayer(operators.Identity):
    """One colour a pixel is seen, as behind a camera's filters."""

    def __init__(self, size: int, colours: tuple[int, ...] = (0, 1, 1, 2)):
        self.support = torch.zeros(1, 3, size, size)
        for n, colour in enumerate(colours):
            self.support[:, colour, n // 2 :: 2, n % 2 :: 2] = 1

    def A(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.support.to(x)

    def prox(self, x: torch.Tensor, y: torch.Tensor, rho: float) -> torch.Tensor:
        return torch.where(self.support.to(x) > 0, (y + rho * x) / (1 + rho), x)


@pytest.mark.parametrize("colours", [(0, 1, 1, 2), (1, 1, 1, 2)])
def test_what_is_held_out_was_observed_though_the_channels_differ(colours: tuple[int, ...]) -> None:
    """The first channel may have nothing, and no entry that was never seen counts as one that is right."""
    x = images.load("coffee", 32)
    y = operators.measure(Bayer(32, colours), x, 0.0, compute.generator(0, "y"))
    fits = dip.reconstruct(y, replace(DIPConfig.fast(12), held_out=0.2, runs=1), compute.generator(0, "dip"))
    support = y.operator.support
    assert (fits.held <= support.to(fits.held)).all()
    assert fits.count == int((fits.held > 0).sum()) == pytest.approx(0.2 * 32 * 32, abs=1)
    assert not ((fits.weight > 0) & (fits.held > 0)).any()
    fit = next(fits)
    error = ((fit.x0_hat - x) * fits.held.to(x))[fits.held.to(x) > 0]
    assert fit.rmse_hat == pytest.approx(float(error.square().mean().sqrt()), rel=1e-4)
