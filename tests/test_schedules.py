"""Noise schedules against the papers' formulas, their algebra, and the spacing of steps."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dipddpm_lib.schedules import DATA_STD, NoiseSchedule, spacing
from dipddpm_lib.types import InputError

NAMES = ("linear", "cosine", "sigmoid")
KINDS = ("uniform", "quadratic", "karras", "adaptive")
U = 2.0**-53  # relative error of one rounding in float64

lengths = st.integers(2, 2000)
names = st.sampled_from(NAMES)


# ---- ᾱ


@given(names, lengths)
def test_alpha_bar_falls_strictly_from_one_and_stays_positive(name: str, T: int) -> None:
    schedule = NoiseSchedule.named(name, T)
    alpha_bar = schedule.alpha_bar
    assert (schedule.name, schedule.T, len(alpha_bar)) == (name, T, T + 1)
    assert alpha_bar.dtype == torch.float64
    assert alpha_bar[0] == 1
    assert (alpha_bar.diff() < 0).all()
    assert alpha_bar[-1] > 0, "σ_T must stay finite"


def test_linear_with_1000_steps_is_ho_et_al() -> None:
    published = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    ours = NoiseSchedule.linear(1000).alpha_bar[1:].numpy()
    # 1000 products, or 1000 sums of logarithms whose total is 10, then exp: relative error 1000·(1 + 10) roundings
    assert np.abs(ours / published - 1).max() < 11_000 * U
    assert NoiseSchedule.linear(1000).alpha_bar[0] == 1


@given(lengths)
def test_linear_ends_alike_whatever_the_number_of_steps(T: int) -> None:
    """β would have to grow beyond 1 for small T (Ho et al. scale by nothing); here the process is only cut coarser."""
    full, ours = NoiseSchedule.linear(1000).alpha_bar, NoiseSchedule.linear(T).alpha_bar
    assert math.isclose(ours[-1], full[-1], rel_tol=1e-12)
    for t in range(0, T + 1, max(1, T // 7)):
        position = t * 1000 / T
        low, high = full[math.ceil(position)], full[math.floor(position)]
        assert low * (1 - 1e-12) <= ours[t] <= high * (1 + 1e-12)
        if position == int(position):
            assert math.isclose(ours[t], full[int(position)], rel_tol=1e-12)


@given(lengths)
def test_cosine_is_nichol_and_dhariwal_equation_17(T: int) -> None:
    def f(t: int) -> float:
        return math.cos((t / T + 0.008) / 1.008 * math.pi / 2) ** 2

    ours = NoiseSchedule.cosine(T).alpha_bar
    # cos near π/2: the argument's rounding (2U) weighs 1/cos = about T at t = T − 1, twice for the square
    for t in range(0, T, max(1, T // 9)):
        assert math.isclose(ours[t], f(t) / f(0), rel_tol=8 * (T + 10) * U)
    beta_last = 1 - ours[-1] / ours[-2]
    assert math.isclose(beta_last, 0.999, rel_tol=1e-9), "β is clipped at 0.999, where ᾱ would be 0"


@given(lengths)
def test_sigmoid_is_jabri_et_al_algorithm_1(T: int) -> None:
    def s(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    def gamma(t: float, start: float = -3, end: float = 3, tau: float = 1.0, clip_min: float = 1e-9) -> float:
        v_start, v_end = s(start / tau), s(end / tau)
        out = (-s((t * (end - start) + start) / tau) + v_end) / (v_end - v_start)
        return min(max(out, clip_min), 1.0)

    ours = NoiseSchedule.sigmoid(T).alpha_bar
    for t in [*range(0, T, max(1, T // 9)), T]:
        # the difference of two sigmoids near 1: absolute error, a few roundings
        assert abs(ours[t].item() - gamma(t / T)) < 16 * U


# ---- algebra


@given(names, lengths, st.data())
def test_sigma_is_the_noise_to_signal_ratio_and_rises(name: str, T: int, data: st.DataObject) -> None:
    schedule = NoiseSchedule.named(name, T)
    t = data.draw(st.integers(0, T))
    a = schedule.alpha_bar[t].item()
    assert schedule.sigma(t) == pytest.approx(math.sqrt(1 / a - 1), rel=1e-9, abs=1e-12)
    assert schedule.sigma(0) == 0
    assert (schedule.sigmas.diff() > 0).all()
    assert schedule.sigmas[t].item() == pytest.approx(schedule.sigma(t), rel=1e-12)


@given(names, lengths, st.data())
def test_t_at_sigma_inverts_sigma(name: str, T: int, data: st.DataObject) -> None:
    schedule = NoiseSchedule.named(name, T)
    t = data.draw(st.integers(0, T))
    assert schedule.t_at_sigma(schedule.sigma(t)) == t


@given(names, lengths, st.floats(1e-6, 1e6))
def test_t_at_sigma_is_the_nearest_in_log(name: str, T: int, sigma: float) -> None:
    schedule = NoiseSchedule.named(name, T)
    t = schedule.t_at_sigma(sigma)
    if t == 0:
        assert sigma < schedule.sigma(1) / 2
        return
    assert sigma >= schedule.sigma(1) / 2
    chosen = abs(math.log(schedule.sigma(t) / sigma))
    for other in (t - 1, t + 1):
        if 1 <= other <= T:
            assert chosen <= abs(math.log(schedule.sigma(other) / sigma)) + 1e-12


def test_t_at_sigma_agrees_with_the_rulers_known_marks() -> None:
    """24.46 dB is an RMSE of 2·10^(−24.46/20) in [−1, 1]: t = 34 of 1000 linear steps, 69 cosine (findings, §3)."""
    rmse = 2 * 10 ** (-24.46 / 20)
    assert NoiseSchedule.linear(1000).t_at_sigma(rmse) == 34
    assert NoiseSchedule.cosine(1000).t_at_sigma(rmse) == 69


@given(names)
def test_t_at_sigma_saturates(name: str) -> None:
    schedule = NoiseSchedule.named(name, 50)
    assert schedule.t_at_sigma(0.0) == 0
    assert schedule.t_at_sigma(1e300) == 50
    assert schedule.t_at_sigma(math.inf) == 50, "nothing but noise is the end of the ruler"


@pytest.mark.parametrize("sigma", [-1e-9, -math.inf, math.nan])
def test_t_at_sigma_refuses_what_is_no_noise_level(sigma: float) -> None:
    with pytest.raises(InputError, match="sigma"):
        NoiseSchedule.linear(10).t_at_sigma(sigma)


@given(names, lengths, st.data())
@pytest.mark.parametrize(("dtype", "u"), [(torch.float64, U), (torch.float32, 2.0**-24)])
def test_predict_x0_inverts_q_sample(dtype: torch.dtype, u: float, name: str, T: int, data: st.DataObject) -> None:
    """x_t carries a rounding error of about u(√ᾱ|x_0| + √(1−ᾱ)|ε|); dividing by √ᾱ makes it u(|x_0| + σ_t|ε|).

    So the inverse is well conditioned while σ_t is small; at σ_T = 3·10⁴ float32 keeps nothing, float64 1e-10.
    """
    schedule = NoiseSchedule.named(name, T)
    t = data.draw(st.integers(0, T))
    generator = torch.Generator().manual_seed(t)
    x0 = torch.rand(1, 3, 8, 8, generator=generator, dtype=dtype) * 2 - 1
    noise = torch.randn(1, 3, 8, 8, generator=generator, dtype=dtype)
    back = schedule.predict_x0(schedule.q_sample(x0, t, noise), t, noise)
    # two products and a sum there, a product and a difference here, a division: 6 roundings of either term
    bound = 6 * u * (x0.abs() + schedule.sigma(t) * noise.abs())
    assert ((back - x0).abs() <= bound).all()
    if dtype == torch.float64:
        assert (back - x0).abs().max() < 1e-6


@given(names, lengths)
def test_q_sample_starts_at_the_image_and_keeps_unit_variance(name: str, T: int) -> None:
    schedule = NoiseSchedule.named(name, T)
    one, none = torch.ones(1, 3, 4, 4, dtype=torch.float64), torch.zeros(1, 3, 4, 4, dtype=torch.float64)
    assert torch.equal(schedule.q_sample(0.7 * one, 0, -1.3 * one), 0.7 * one)
    for t in (1, T):
        image, rest = schedule.q_sample(one, t, none), schedule.q_sample(none, t, one)
        # the coefficients' squares are ᾱ and 1 − ᾱ: the variance of unit-variance data is kept
        assert (image**2 / schedule.alpha_bar[t] - 1).abs().max() <= 8 * U
        assert (image**2 + rest**2 - 1).abs().max() <= 8 * U


# ---- spacing


@given(names, lengths, st.sampled_from(KINDS), st.data())
def test_a_spacing_falls_strictly_from_its_start_to_zero(name: str, T: int, kind: str, data: st.DataObject) -> None:
    schedule = NoiseSchedule.named(name, T)
    t_start = data.draw(st.integers(1, T))
    steps = data.draw(st.one_of(st.integers(1, min(T, 50)), st.integers(1, T)))
    ts = spacing(schedule, t_start, steps, kind)
    assert ts[0] == t_start
    assert ts[-1] == 0
    assert all(t > s for t, s in pairwise(ts))
    assert len(ts) == min(steps, t_start) + 1
    assert all(type(t) is int for t in ts)


@given(names, lengths, st.sampled_from(KINDS), st.data())
def test_a_single_step_goes_all_the_way_and_all_steps_visit_all(
    name: str, T: int, kind: str, data: st.DataObject
) -> None:
    schedule = NoiseSchedule.named(name, T)
    t_start = data.draw(st.integers(1, T))
    assert spacing(schedule, t_start, 1, kind) == (t_start, 0)
    assert spacing(schedule, t_start, T, kind) == tuple(range(t_start, -1, -1))


@pytest.mark.parametrize("kind", KINDS)
def test_from_zero_there_is_nowhere_to_go(kind: str) -> None:
    assert spacing(NoiseSchedule.cosine(100), 0, 10, kind) == (0,)


def test_uniform_is_equal_in_t_and_quadratic_in_its_root() -> None:
    schedule = NoiseSchedule.linear(1000)
    assert spacing(schedule, 1000, 10, "uniform") == tuple(range(1000, -1, -100))
    assert spacing(schedule, 1000, 10, "quadratic") == (1000, 810, 640, 490, 360, 250, 160, 90, 40, 10, 0)
    assert spacing(schedule, 300, 3, "uniform") == (300, 200, 100, 0)


@given(names, st.integers(800, 2000), st.integers(2, 12))
def test_karras_is_equal_in_the_seventh_root_of_sigma(name: str, T: int, steps: int) -> None:
    """Equation 5 of Karras et al. with ρ = 7, from σ_T to σ_1; each mark within one position of its exact place."""
    schedule = NoiseSchedule.named(name, T)
    ts = spacing(schedule, T, steps, "karras")
    high, low = schedule.sigma(T) ** (1 / 7), schedule.sigma(1) ** (1 / 7)
    for i, t in enumerate(ts[:-1]):
        wanted = (high + i / max(1, steps - 1) * (low - high)) ** 7
        free = ts[i - 1] - t > 1 and t > steps - i if i else True  # moved to stay strictly falling otherwise
        if free:
            assert schedule.sigma(max(t - 1, 0)) <= wanted * (1 + 1e-9)
            assert wanted <= schedule.sigma(min(t + 1, T)) * (1 + 1e-9)


@given(names, st.integers(800, 2000), st.integers(2, 12), st.data())
def test_adaptive_takes_equal_shares_of_the_expected_errors_fall(
    name: str, T: int, steps: int, data: st.DataObject
) -> None:
    """The optimal denoiser of N(0, σ_d²) at noise σ errs by σσ_d/√(σ² + σ_d²): the steps share its fall equally."""
    schedule = NoiseSchedule.named(name, T)
    t_start = data.draw(st.integers(T // 10, T))

    def error(t: int) -> float:
        sigma = schedule.sigma(t)
        return sigma * DATA_STD / math.hypot(sigma, DATA_STD)

    ts = spacing(schedule, t_start, steps, "adaptive")
    for i, t in enumerate(ts):
        wanted = error(t_start) * (1 - i / steps)
        free = ts[i - 1] - t > 1 and t > steps - i if i else True
        if free and 0 < i < steps:
            assert error(t - 1) <= wanted * (1 + 1e-9)
            assert wanted <= error(t + 1) * (1 + 1e-9)


def test_adaptive_begins_with_large_steps() -> None:
    """Where nearly all is noise the best guess hardly changes: those positions are passed quickly."""
    ts = spacing(NoiseSchedule.cosine(1000), 1000, 10, "adaptive")
    assert ts[0] - ts[1] > 2 * (ts[-2] - ts[-1])
    assert ts[0] - ts[1] > 1000 / 10


# ---- what is refused


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("T", [1, 0, -3, 10.0, True, "10", None])
@pytest.mark.parametrize("name", NAMES)
def test_a_length_that_is_none_is_refused(name: str, T: object) -> None:
    with pytest.raises(InputError, match=r"T counts the steps") as caught:
        NoiseSchedule.named(name, T)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_an_unknown_schedule_is_refused_and_the_known_ones_named() -> None:
    with pytest.raises(InputError, match="linear, cosine, sigmoid"):
        NoiseSchedule.named("quadratic", 10)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("t", [-1, 11, 2.0, True, "3", None])
def test_a_position_off_the_schedule_is_refused(t: object) -> None:
    schedule = NoiseSchedule.cosine(10)
    x = torch.zeros(1, 3, 4, 4)
    for call in (
        lambda: schedule.sigma(t),  # type: ignore[arg-type]
        lambda: schedule.q_sample(x, t, x),  # type: ignore[arg-type]
        lambda: schedule.predict_x0(x, t, x),  # type: ignore[arg-type]
        lambda: spacing(schedule, t, 3, "uniform"),  # type: ignore[arg-type]
    ):
        with pytest.raises(InputError, match="whole number from 0 to T = 10") as caught:
            call()
        assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("steps", [0, -1, 11, 2.5, 3.0, True, "3"])
def test_a_number_of_steps_that_is_none_is_refused(steps: object) -> None:
    with pytest.raises(InputError, match="steps") as caught:
        spacing(NoiseSchedule.cosine(10), 10, steps, "uniform")  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_spacing_is_refused_and_the_known_ones_named() -> None:
    for t_start in (10, 0):
        with pytest.raises(InputError, match="uniform, quadratic, karras or adaptive"):
            spacing(NoiseSchedule.cosine(10), t_start, 3, "geometric")  # type: ignore[arg-type]


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "alpha_bar",
    [
        torch.linspace(0.9, 0.1, 5, dtype=torch.float64),  # a cumulative product without its 1
        torch.linspace(1.0, 0.1, 5),
        torch.tensor([1.0, 0.2, 0.3], dtype=torch.float64),
        torch.tensor([1.0, 0.5, 0.0], dtype=torch.float64),
        torch.ones(1, dtype=torch.float64),
    ],
)
def test_a_schedule_that_is_none_is_refused(alpha_bar: torch.Tensor) -> None:
    with pytest.raises(InputError, match="alpha_bar: expected float64 numbers that fall from 1 at t = 0"):
        NoiseSchedule("own", alpha_bar)
