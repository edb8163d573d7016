"""Sampling against priors whose exact denoiser is known, and a training small enough to watch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import Tensor

from dipddpm_lib import compute, ddpm
from dipddpm_lib.ddpm import SIGMA_FLOOR, SampleConfig, TrainConfig, sample, train
from dipddpm_lib.networks import DenoisingUNet, build
from dipddpm_lib.schedules import NoiseSchedule, spacing
from dipddpm_lib.types import InputError, LinearOperator, Measurement, Step

U = 2.0**-24  # relative error of one rounding in float32


class Gaussian:
    """The exact denoiser E[x_0 | x_t] of data N(m, s² I), and what a linear sampler does with it, in float64."""

    def __init__(self, s: float, m: float = 0.0):
        self.s, self.m, self.calls = s, m, 0

    def gain(self, a: float) -> float:
        """x̂_0 − m = k (x_t − √ᾱ m), from the conditional mean of two jointly Gaussian variables."""
        return math.sqrt(a) * self.s**2 / (a * self.s**2 + 1 - a)

    def __call__(self, x_t: Tensor, sigma: float | Tensor) -> Tensor:
        self.calls += 1
        a = 1 / (1 + float(sigma) ** 2)
        return self.m + self.gain(a) * (x_t - math.sqrt(a) * self.m)

    def flow(self, x_t: Tensor, a: float) -> Tensor:
        """The probability flow's end at t = 0: it maps N(√ᾱ m, ᾱs² + 1 − ᾱ) monotonically onto N(m, s²)."""
        return self.m + self.s / math.sqrt(a * self.s**2 + 1 - a) * (x_t - math.sqrt(a) * self.m)


def recursion(prior: Gaussian, schedule: NoiseSchedule, ts: tuple[int, ...], eta: float) -> list[tuple[float, float]]:
    """(gain, variance) from t to s for each step: x_s − √ᾱ_s m = gain·(x_t − √ᾱ_t m) + √variance·z."""
    out = []
    for t, s in pairwise(ts):
        a, b = schedule.alpha_bar[t].item(), schedule.alpha_bar[s].item()
        k = prior.gain(a)
        variance = eta**2 * (1 - b) / (1 - a) * (1 - a / b)
        eps = (1 - math.sqrt(a) * k) / math.sqrt(1 - a)
        out.append((math.sqrt(b) * k + math.sqrt(1 - b - variance) * eps, variance))
    return out


def noise(seed: int = 0, size: int = 16, batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def run(
    denoiser: object, schedule: NoiseSchedule, x_t: Tensor, t_start: int, config: SampleConfig, **more: object
) -> list[Step]:
    return list(sample(denoiser, schedule, x_t, t_start, config, compute.generator(0, "test"), **more))


# ---- DDIM


@pytest.mark.parametrize("name", ["linear", "cosine", "sigmoid"])
@pytest.mark.parametrize("kind", ["uniform", "quadratic", "karras", "adaptive"])
@pytest.mark.parametrize("m", [0.0, 0.3])
def test_ddim_with_a_gaussian_prior_is_the_analytic_recursion(name: str, kind: str, m: float) -> None:
    schedule = NoiseSchedule.named(name, 500)
    prior = Gaussian(0.4, m)
    config = SampleConfig(steps=25, spacing=kind, clip=False)
    x = noise()
    steps = run(prior, schedule, x, 500, config)
    deviation = x.double() - math.sqrt(schedule.alpha_bar[-1].item()) * m
    ts = spacing(schedule, 500, 25, kind)
    for step, s, (gain, _) in zip(steps, ts[1:], recursion(prior, schedule, ts, 0.0), strict=True):
        deviation = gain * deviation
        exact = deviation + math.sqrt(schedule.alpha_bar[s].item()) * m
        # every step rounds its few terms, of size |x| at most 5, ten times; no step amplifies (gains stay near 1)
        assert step.t == s
        assert (step.x_t - exact).abs().max() <= (step.index + 1) * 10 * U * 5


def flow_error(config: SampleConfig) -> float:
    """Relative distance from the exact probability flow halfway, t = 1600 → 800 of 2000, for data of spread 0.5.

    Halfway, because the last step onto t = 0 adds an error of its own that may cancel the solver's.
    """
    schedule = NoiseSchedule.cosine(2000)
    prior = Gaussian(0.5, 0.1)
    x = noise()
    state = next(step for step in run(prior, schedule, x, 1600, config) if step.t == 800)
    a, b = schedule.alpha_bar[1600].item(), schedule.alpha_bar[800].item()
    deviation = prior.flow(x.double(), a) - prior.m
    exact = math.sqrt(b) * prior.m + math.sqrt(b * prior.s**2 + 1 - b) / prior.s * deviation
    return ((state.x_t - exact).norm() / exact.norm()).item()


def test_ddim_converges_to_the_probability_flow_at_first_order() -> None:
    errors = [flow_error(SampleConfig(steps=n, clip=False)) for n in (20, 40, 80, 160)]
    for coarse, fine in pairwise(errors):
        assert 1.8 < coarse / fine < 2.2, errors  # twice the steps, half the error
    schedule, prior, x = NoiseSchedule.cosine(2000), Gaussian(0.5, 0.1), noise()
    *_, last = run(prior, schedule, x, 1600, SampleConfig(steps=1600, clip=False))
    exact = prior.flow(x.double(), schedule.alpha_bar[1600].item())
    # first order all the way down: 160 steps err by 0.001 halfway, 1600 by far less
    assert (last.x_t - exact).norm() < 0.002 * exact.norm()


def test_dpm_solver_2m_converges_at_second_order_and_so_beats_ddim() -> None:
    sizes = (20, 40, 80)
    errors = [flow_error(SampleConfig(steps=n, solver="dpmpp_2m", clip=False)) for n in sizes]
    for coarse, fine in pairwise(errors):
        assert 3.5 < coarse / fine < 4.5, errors  # twice the steps, a quarter of the error
    for n, error in zip(sizes, errors, strict=True):
        assert error < 0.2 * flow_error(SampleConfig(steps=n, clip=False))


def test_dpm_solvers_first_step_is_ddims_and_its_last_is_the_estimate() -> None:
    schedule = NoiseSchedule.cosine(100)
    prior = Gaussian(0.4, 0.2)
    multistep = run(prior, schedule, noise(), 100, SampleConfig(steps=10, solver="dpmpp_2m", clip=False))
    ddim = run(prior, schedule, noise(), 100, SampleConfig(steps=10, clip=False))
    # two forms of one update; terms of size 5, a few roundings
    assert (multistep[0].x_t - ddim[0].x_t).abs().max() <= 10 * U * 5
    assert (multistep[1].x_t - ddim[1].x_t).abs().max() > 100 * U, "from the second step on they differ"
    for steps in (multistep, ddim):
        assert torch.allclose(steps[-1].x_t, steps[-1].x0_hat, rtol=0, atol=4 * U)


# ---- ancestral


def test_ancestral_sampling_is_ho_et_als_posterior() -> None:
    """x_s = μ̃(x_t, x̂_0) + √β̃ z with equations 6 and 7 of Ho et al. 2020, written in β and α."""
    schedule = NoiseSchedule.linear(40)
    a = schedule.alpha_bar.tolist()
    x, target = noise(), noise(1).clamp(-1, 1)
    states = [x, *(step.x_t for step in run(lambda *_: target, schedule, x, 40, SampleConfig.ancestral(40)))]
    draws = compute.generator(0, "test")
    for index, t in enumerate(range(40, 0, -1)):
        beta = 1 - a[t] / a[t - 1]
        mean = math.sqrt(a[t - 1]) * beta / (1 - a[t]) * target
        mean = mean + math.sqrt(1 - beta) * (1 - a[t - 1]) / (1 - a[t]) * states[index]
        variance = (1 - a[t - 1]) / (1 - a[t]) * beta
        z = torch.randn(x.shape, generator=draws) if t > 1 else 0.0
        # near t = 1 ε̂ divides by √(1 − ᾱ) what it is multiplied with at once; terms of size 5
        assert (states[index + 1] - (mean + math.sqrt(variance) * z)).abs().max() <= 20 * U * 5


def test_ancestral_samples_of_a_gaussian_have_the_recursions_moments_and_the_priors() -> None:
    """1000 steps, clip off. n pixels: the mean's standard error is √(V/n), the variance's V√(2/n); 5 of each."""
    T, s, m = 1000, 0.35, 0.2
    schedule = NoiseSchedule.cosine(T)
    prior = Gaussian(s, m)
    config = SampleConfig(steps=T, eta=1.0, clip=False)
    x = noise(size=64, batch=4)
    *_, last = run(prior, schedule, x, T, config)
    variance = 1.0
    gain = 1.0
    for g, v in recursion(prior, schedule, spacing(schedule, T, T, "uniform"), 1.0):
        variance = g**2 * variance + v
        gain *= g
    n = x.numel()
    mean = m + gain * (0 - math.sqrt(schedule.alpha_bar[-1].item()) * m)
    assert abs(last.x_t.mean().item() - mean) < 5 * math.sqrt(variance / n)
    assert abs(last.x_t.var().item() - variance) < 5 * variance * math.sqrt(2 / n)
    # and the recursion itself approaches the prior: β̃ is the smaller variance, exact only for small steps
    assert abs(variance / s**2 - 1) < 0.02
    assert abs(mean - m) < 1e-3


def test_fewer_ancestral_steps_are_further_from_the_prior() -> None:
    schedule = NoiseSchedule.cosine(1000)
    prior = Gaussian(0.35)

    def variance(n: int) -> float:
        out = 1.0
        for g, v in recursion(prior, schedule, spacing(schedule, 1000, n, "uniform"), 1.0):
            out = g**2 * out + v
        return out

    x = noise(size=64, batch=4)
    for n in (5, 20):
        *_, last = run(prior, schedule, x, 1000, SampleConfig(steps=n, eta=1.0, clip=False))
        assert abs(last.x_t.var().item() / variance(n) - 1) < 5 * math.sqrt(2 / x.numel())
    assert abs(variance(5) - 0.35**2) > 2 * abs(variance(20) - 0.35**2) > 4 * abs(variance(200) - 0.35**2)


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_noise_comes_from_the_generator_alone(eta: float) -> None:
    schedule = NoiseSchedule.cosine(50)
    config = SampleConfig(steps=5, eta=eta)

    def last(seed: int) -> Tensor:
        return list(sample(Gaussian(0.4), schedule, noise(), 50, config, compute.generator(seed, "s")))[-2].x_t

    assert torch.equal(last(0), last(0))
    assert not torch.equal(last(0), last(1))


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
def test_deterministic_samplers_draw_nothing(solver: str) -> None:
    generator = compute.generator(0, "s")
    before = generator.get_state()
    list(sample(Gaussian(0.4), NoiseSchedule.cosine(50), noise(), 50, SampleConfig(steps=5, solver=solver), generator))
    assert torch.equal(generator.get_state(), before)


# ---- the iterator


def test_from_zero_the_image_comes_back_exactly_and_nothing_is_called() -> None:
    prior = Gaussian(0.4)
    x = 3 * noise()  # out of range: not even clipped
    (step,) = run(prior, NoiseSchedule.linear(100), x, 0, SampleConfig(steps=10))
    assert torch.equal(step.x_t, x)
    assert torch.equal(step.x0_hat, x)
    assert (step.index, step.t, prior.calls) == (0, 0, 0)


@pytest.mark.parametrize(("t_start", "steps", "calls"), [(100, 10, 10), (100, 1, 1), (37, 10, 10), (4, 10, 4)])
@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
def test_the_denoiser_is_called_once_a_step(t_start: int, steps: int, calls: int, solver: str) -> None:
    prior = Gaussian(0.4)
    out = run(prior, NoiseSchedule.linear(100), noise(), t_start, SampleConfig(steps=steps, solver=solver))
    assert prior.calls == len(out) == calls
    assert [step.index for step in out] == list(range(calls))
    assert [step.t for step in out] == list(spacing(NoiseSchedule.linear(100), t_start, steps, "uniform"))[1:]
    assert out[-1].t == 0


def test_steps_are_computed_as_they_are_asked_for() -> None:
    prior = Gaussian(0.4)
    steps = sample(prior, NoiseSchedule.linear(100), noise(), 100, SampleConfig(steps=10), compute.generator(0, "s"))
    assert isinstance(steps, Iterator)
    next(steps)
    next(steps)
    assert prior.calls == 2


def test_the_denoiser_is_told_sigma_and_no_gradient_is_kept() -> None:
    schedule = NoiseSchedule.sigmoid(30)
    told = []

    def denoiser(x_t: Tensor, sigma: float) -> Tensor:
        told.append(sigma)
        assert not torch.is_grad_enabled()
        return x_t

    run(denoiser, schedule, noise(), 30, SampleConfig(steps=3))
    assert told == [schedule.sigma(t) for t in (30, 20, 10)]


def test_the_start_is_left_as_it_was() -> None:
    x = noise()
    before = x.clone()
    run(Gaussian(0.4), NoiseSchedule.cosine(20), x, 20, SampleConfig(steps=5, eta=1.0))
    assert torch.equal(x, before)


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
def test_clipping_keeps_estimates_in_range_and_can_be_left_off(solver: str) -> None:
    def loud(x_t: Tensor, sigma: float) -> Tensor:
        return torch.full_like(x_t, 5.0)

    clipped = run(loud, NoiseSchedule.cosine(20), noise(), 20, SampleConfig(steps=5, solver=solver))
    assert all((step.x0_hat == 1).all() for step in clipped)
    assert torch.allclose(clipped[-1].x_t, torch.ones(1), atol=4 * U)
    free = run(loud, NoiseSchedule.cosine(20), noise(), 20, SampleConfig(steps=5, solver=solver, clip=False))
    assert all((step.x0_hat == 5).all() for step in free)


# ---- data consistency


class Identity(LinearOperator):
    """y = x: prox is the weighted mean of x and y."""

    support = torch.ones(1)

    def A(self, x: Tensor) -> Tensor:
        return x

    def A_adjoint(self, y: Tensor) -> Tensor:
        return y

    def prox(self, x: Tensor, y: Tensor, rho: float) -> Tensor:
        assert rho > 0
        return (y + rho * x) / (1 + rho)

    def image_size(self, y: Tensor) -> tuple[int, int]:
        return y.shape[-2], y.shape[-1]


@pytest.mark.parametrize("sigma_y", [0.0, 0.02, 0.5, 100.0])
def test_each_estimate_moves_towards_the_measurement_as_diffpir_says(sigma_y: float) -> None:
    """x̂_0 ← (y + ρx̂_0)/(1 + ρ), ρ = λσ_y²/σ_t², for the identity (Zhu et al. 2023, equation 13)."""
    schedule = NoiseSchedule.cosine(100)
    y, estimate = noise(1).clamp(-1, 1), noise(2).clamp(-1, 1)
    config = SampleConfig(steps=10, clip=False, lam=3.0)
    measurement = Measurement(y, Identity(), sigma_y)
    ts = spacing(schedule, 100, 10, "uniform")
    for t, step in zip(
        ts, run(lambda *_: estimate, schedule, noise(), 100, config, measurement=measurement), strict=False
    ):
        rho = 3.0 * max(sigma_y, SIGMA_FLOOR) ** 2 / schedule.sigma(t) ** 2
        exact = (y.double() + rho * estimate.double()) / (1 + rho)
        assert (step.x0_hat - exact).abs().max() <= 8 * U


def test_the_noise_beside_moved_estimates_is_the_denoisers_own() -> None:
    """x_s = √ᾱ_s prox(x̂_0) + √(1 − ᾱ_s) ε̂ with ε̂ from x̂_0 itself (Wang et al. 2023, algorithm 1)."""
    schedule = NoiseSchedule.cosine(100)
    y, estimate, x_t = noise(1).clamp(-1, 1), noise(2).clamp(-1, 1), noise(3)
    config = SampleConfig(steps=2, clip=False)
    first = run(lambda *_: estimate, schedule, x_t, 90, config, measurement=Measurement(y, Identity(), 0.5))[0]
    t, s, _ = spacing(schedule, 90, 2, "uniform")
    a_t, a_s = schedule.alpha_bar[t], schedule.alpha_bar[s]
    eps = (x_t - a_t.sqrt() * estimate) / (1 - a_t).sqrt()
    expected = a_s.sqrt() * first.x0_hat + (1 - a_s).sqrt() * eps
    assert (first.x_t - expected).abs().max() <= 32 * U


def test_zeta_is_the_share_of_the_noise_that_is_drawn_anew() -> None:
    """1 forgets x_t but for the estimate; 0 is DDIM; between, the variances add up to 1 − ᾱ_s."""
    schedule = NoiseSchedule.cosine(100)
    estimate = torch.zeros(1, 3, 64, 64)

    def state(zeta: float | None, seed: int) -> Tensor:
        x_t = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
        return run(lambda *_: estimate, schedule, x_t, 90, SampleConfig(steps=2, zeta=zeta))[0].x_t

    assert torch.equal(state(1.0, 5), state(1.0, 6)), "only the fresh draw is left"
    assert torch.equal(state(0.0, 5), state(None, 5))
    s = spacing(schedule, 90, 2, "uniform")[1]
    # the input has x_t = √(1 − ᾱ_t) ε for ε ~ N(0, 1/(1 − ᾱ_t)): at t = 90 within 3 % of 1; 12288 draws: another 2 %
    for zeta in (0.0, 0.3, 1.0):
        assert state(zeta, 5).var().item() == pytest.approx(1 - schedule.alpha_bar[s].item(), rel=0.06)


def test_the_limits_of_data_consistency() -> None:
    """An exact measurement is obeyed while σ_t is large; a worthless one is ignored while σ_t is small beside σ_y."""
    schedule = NoiseSchedule.cosine(100)
    y, estimate = noise(1).clamp(-1, 1), noise(2).clamp(-1, 1)

    def first(sigma_y: float) -> Tensor:
        measurement = Measurement(y, Identity(), sigma_y)
        return run(lambda *_: estimate, schedule, noise(), 90, SampleConfig(), measurement=measurement)[0].x0_hat

    # ρ = 7·(0.0023/6.2)² = 1e-6, or 7·(1e4/6.2)² = 2e7; the images differ by 2 at most
    assert (first(0.0) - y).abs().max() < 1e-5
    assert (first(1e4) - estimate).abs().max() < 1e-5


def test_the_floor_is_the_rounding_of_eight_bits() -> None:
    """Uniform rounding errors on a grid of width 2/255 have this standard deviation."""
    levels = torch.linspace(-1, 1, 200_001, dtype=torch.float64)
    rounded = (levels * 127.5 - 0.5).round() / 127.5 + 0.5 / 127.5
    assert math.isclose((levels - rounded).std().item(), SIGMA_FLOOR, rel_tol=1e-3)


def test_a_measurement_sharpens_a_gaussian_prior_towards_the_truth() -> None:
    """σ_y ≪ s: the result lies nearer to the truth than the prior's mean, by far more than noise could do."""
    prior = Gaussian(0.5)
    truth = 0.5 * noise(3)
    measurement = Measurement(truth + 0.1 * noise(4), Identity(), 0.1)
    *_, last = run(
        prior, NoiseSchedule.cosine(200), noise(), 200, SampleConfig(steps=50, clip=False), measurement=measurement
    )
    assert (last.x0_hat - truth).square().mean().sqrt() < 0.3


def test_the_eight_symmetries_differ_and_are_undone() -> None:
    x = torch.arange(36.0).reshape(1, 3, 3, 4)
    found = [ddpm.symmetry(x, place) for place in range(8)]
    assert torch.equal(found[0], x)
    assert len({(tuple(y.shape), tuple(y.flatten().tolist())) for y in found}) == 8
    assert all(torch.equal(ddpm.symmetry(y, place, back=True), x) for place, y in enumerate(found))


def test_turning_shows_the_denoiser_one_symmetry_after_the_other_and_turns_its_estimate_back() -> None:
    """A denoiser that only scales does not care, but for rounding; one that knows left from right is told apart."""
    schedule, x = NoiseSchedule.cosine(100), noise()
    config = SampleConfig(steps=9, clip=False)
    plain, turned = (run(Gaussian(0.5), schedule, x, 100, replace(config, turn=turn)) for turn in (False, True))
    assert torch.allclose(plain[-1].x_t, turned[-1].x_t, rtol=1e-5, atol=1e-5)
    seen: list[Tensor] = []

    def sided(x_t: Tensor, sigma: float) -> Tensor:
        seen.append(x_t)
        return x_t * torch.linspace(0, 1, x_t.shape[-1])

    steps = run(sided, schedule, x, 100, replace(config, turn=True))
    for place, (before, step) in enumerate(zip([x, *(s.x_t for s in steps[:-1])], steps, strict=True)):
        assert torch.equal(seen[place], ddpm.symmetry(before, place % 8))
        falls = torch.linspace(0, 1, x.shape[-1]).expand(x.shape)
        assert torch.allclose(step.x0_hat, before * ddpm.symmetry(falls, place % 8, back=True), atol=1e-6)


def test_a_steps_estimate_is_the_mean_of_its_views_and_each_call_is_a_step() -> None:
    """Three steps of eight views: the mean over a denoiser's whole orbit, with the running mean on the way there."""
    schedule, x = NoiseSchedule.cosine(100), noise()
    falls = torch.linspace(0, 1, x.shape[-1])
    config = SampleConfig(steps=3, turn=True, views=8, clip=False)
    steps = run(lambda x_t, sigma: x_t * falls, schedule, x, 100, config)
    assert [s.index for s in steps] == list(range(24))
    shares = [ddpm.symmetry(falls.expand(x.shape), place, back=True) for place in range(8)]
    ts, before = spacing(schedule, 100, 3, "uniform"), x
    for n, (t, s) in enumerate(pairwise(ts)):
        of_step = steps[8 * n : 8 * n + 8]
        assert [step.t for step in of_step] == [t] * 7 + [s]
        for view, step in enumerate(of_step, 1):
            assert torch.allclose(step.x0_hat, before * torch.stack(shares[:view]).mean(0), atol=1e-6)
        assert all(torch.equal(step.x_t, before) for step in of_step[:-1])
        before = of_step[-1].x_t
    clipped = run(lambda x_t, sigma: 5 * x_t, schedule, x, 100, replace(config, clip=True))
    assert max(float(step.x0_hat.abs().max()) for step in clipped) <= 1


# ---- what is refused


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    "arguments",
    [
        {"steps": 0},
        {"steps": -3},
        {"turn": True, "views": 0},
        {"turn": True, "views": 9},
        {"views": 2},
        {"eta": -0.1},
        {"eta": 1.1},
        {"eta": math.nan},
        {"solver": "heun"},
        {"solver": "dpmpp_2m", "eta": 1.0},
        {"solver": "dpmpp_2m", "zeta": 1.0},
        {"zeta": -0.1},
        {"zeta": 1.1},
        {"zeta": math.nan},
        {"zeta": 0.5, "eta": 0.5},
        {"lam": 0.0},
        {"lam": -1.0},
    ],
)
def test_a_setting_of_the_sampler_that_makes_no_sense_is_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(InputError) as caught:
        SampleConfig(**arguments)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("t_start", "steps"), [(11, 5), (-1, 5), (10, 11)])
def test_a_walk_off_the_schedule_is_refused(t_start: int, steps: int) -> None:
    with pytest.raises(InputError):
        run(Gaussian(0.4), NoiseSchedule.linear(10), noise(), t_start, SampleConfig(steps=steps))


# ---- training


def picture(size: int = 16) -> Tensor:
    """Smooth, coloured, in range; (1, 3, size, size)."""
    i, j = torch.meshgrid(torch.linspace(0, 1, size), torch.linspace(0, 1, size), indexing="ij")
    return torch.stack([torch.sin(5 * i), torch.cos(4 * j), 1.6 * i * j - 0.8])[None] * 0.9


@given(size=st.integers(1, 600), steps=st.integers(1, 9))
def test_the_single_prior_halves_its_image_to_about_eight_pixels(size: int, steps: int) -> None:
    config = TrainConfig.single(size, steps)
    assert config.steps == steps
    assert config.crop is None
    coarsest = size / 2 ** (len(config.channels) - 1)
    assert 8 / 2**0.5 <= coarsest <= 8 * 2**0.5 or (size < 16 and len(config.channels) == 2)
    parts = TrainConfig.crops(size, steps)
    assert parts.crop == max(1, size // 2)
    assert parts.channels == TrainConfig.single(max(1, size // 2)).channels


TINY = TrainConfig(channels=(8, 8), batch=4, steps=120, lr=4e-3, warmup=10, ema=0.98)


@pytest.fixture(scope="module")
def trained() -> tuple[list[float], DenoisingUNet]:
    losses = []
    for step in train([picture()], TINY, compute.generator(0, "train")):
        losses.append(step.loss)
        assert step.index == len(losses) - 1
    return losses, step.denoiser


def test_the_loss_falls(trained: tuple[list[float], DenoisingUNet]) -> None:
    losses, _ = trained
    assert len(losses) == TINY.steps
    assert sum(losses[-20:]) < 0.5 * sum(losses[:20])


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_the_averaged_denoiser_beats_the_shrunken_input(
    trained: tuple[list[float], DenoisingUNet], sigma: float
) -> None:
    """√ᾱ x_t is what an untrained network returns."""
    _, denoiser = trained
    x0 = picture().expand(8, -1, -1, -1)
    a = 1 / (1 + sigma**2)
    x_t = math.sqrt(a) * x0 + math.sqrt(1 - a) * noise(5, batch=8)
    with torch.no_grad():
        x0_hat = denoiser(x_t, sigma)
    assert (x0_hat - x0).square().mean() < 0.5 * (math.sqrt(a) * x_t - x0).square().mean()


def test_the_averaged_weights_carry_no_gradient(trained: tuple[list[float], DenoisingUNet]) -> None:
    _, denoiser = trained
    assert not any(p.requires_grad for p in denoiser.parameters())
    assert all(p.is_leaf for p in denoiser.parameters())


def test_training_moves_every_weight(trained: tuple[list[float], DenoisingUNet]) -> None:
    _, denoiser = trained
    start = build(DenoisingUNet, compute.generator(0, "train"), channels=TINY.channels)
    # convolutions and linear layers; a bias before a norm of one channel a group moves nothing, so it may stay
    pairs = zip(denoiser.parameters(), start.parameters(), strict=True)
    assert not any(torch.equal(a.cpu(), b) for a, b in pairs if b.dim() > 1)


def again(
    stop: int, dtype: str, monkeypatch: pytest.MonkeyPatch, forget: str | None = None
) -> tuple[Tensor, list[float]]:
    """The averaged weights and losses of six steps; after `stop` of them another process's run takes over."""
    where = replace(compute.default(), dtype=dtype)
    monkeypatch.setattr(compute, "default", lambda: where)
    config = TrainConfig(channels=(8, 8), batch=2, steps=6, warmup=3)
    training = train([picture(24)], config, compute.generator(0, "train"))
    losses = [next(training).loss for _ in range(stop)]
    if stop:
        state = training.state()
        next(training)  # what is done after the state was taken is lost
        training = train([picture(24)], config, compute.generator(5, "another start"))
        if forget is not None:
            fresh = training.generator.get_state() if forget == "generator" else torch.zeros_like(state[forget])
            state[forget] = fresh
        training.restore(state)
    losses += [step.loss for step in training]
    return torch.cat([p.cpu().flatten() for p in training.averaged.parameters()]), losses


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("stop", [1, 4])
def test_a_training_taken_up_is_the_same_to_the_bit(dtype: str, stop: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, losses = again(0, dtype, monkeypatch)
    resumed, found = again(stop, dtype, monkeypatch)
    assert found == losses
    assert torch.equal(whole, resumed)


@pytest.mark.parametrize("forget", ["generator", "exp_avg", "exp_avg_sq", "average", "step"])
def test_a_state_without_one_of_its_parts_goes_elsewhere(forget: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = again(0, "float32", monkeypatch)
    resumed, _ = again(4, "float32", monkeypatch, forget)
    assert not torch.equal(whole, resumed)


def test_a_state_beyond_the_end_is_refused() -> None:
    config = TrainConfig(channels=(8, 8), batch=1, steps=2)
    training = train([picture(24)], config, compute.generator(0, "train"))
    list(training)
    shorter = train([picture(24)], replace(config, steps=1), compute.generator(0, "train"))
    with pytest.raises(InputError, match="state: expected at most 1 steps"):
        shorter.restore(training.state())


def test_training_goes_on_from_given_weights() -> None:
    config = TrainConfig(channels=(8, 8), batch=2, steps=1, lr=1e-9)
    start = build(DenoisingUNet, torch.Generator().manual_seed(3), channels=(8, 8))
    given = torch.cat([p.detach().flatten() for p in start.parameters()])
    (step,) = train([picture(24)], config, compute.generator(0, "train"), start)
    found = torch.cat([p.cpu().flatten() for p in step.denoiser.parameters()])
    torch.testing.assert_close(found, given, rtol=0, atol=1e-7)
    with pytest.raises(InputError, match="channels: expected"):
        train([picture(24)], replace(config, channels=(8,)), compute.generator(0, "train"), start)


def weights(seed: int, steps: int = 3, **changes: object) -> Tensor:
    config = TrainConfig(channels=(8, 8), batch=2, steps=steps, **changes)  # type: ignore[arg-type]
    *_, last = train([picture(24), picture(24).flip(1)], config, compute.generator(seed, "train"))
    return torch.cat([p.cpu().flatten() for p in last.denoiser.parameters()])


@pytest.mark.parametrize("changes", [{}, {"crop": 16, "flips": True, "colours": True}])
def test_the_same_seed_gives_the_same_bits_and_another_gives_others(changes: dict[str, object]) -> None:
    first = weights(0, **changes)
    assert torch.equal(first, weights(0, **changes))
    assert not torch.equal(first, weights(1, **changes))


def test_the_first_loss_is_min_snr_weighted() -> None:
    """Untrained, v̂ = 0, so the first loss is the mean of w·v² with w = min(SNR, γ)/(SNR + 1), SNR = 1/σ².

    Its expectation over the cosine schedule's σ = tan(πu/2) and over the noise is an integral; u is stratified
    over the batch, so what is left is the noise's own error: v² over d pixels scatters by √(2/d), over the batch
    by √(1/b) less; 6 of these, and the strata's width.
    """
    x0, batch = picture(), 256
    for gamma in (1.0, 5.0, 1e9):
        config = TrainConfig(channels=(8,), batch=batch, steps=1, gamma=gamma)
        (step,) = train([x0], config, compute.generator(0, "train"))
        u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
        snr = 1 / torch.tan(math.pi / 2 * u) ** 2
        a = snr / (1 + snr)
        weight = snr.clamp(max=gamma) / (snr + 1)
        expected = (weight * (a + (1 - a) * x0.double().square().mean())).mean().item()
        scatter = expected * math.sqrt(2 / x0.numel()) * math.sqrt(1 / batch)
        assert abs(step.loss - expected) < 6 * scatter + expected / batch, gamma


def test_crops_come_from_inside_the_images_and_every_place_is_reached() -> None:
    image = torch.arange(20 * 30, dtype=torch.float32).reshape(1, 1, 20, 30).expand(1, 3, 20, 30)
    config = TrainConfig(crop=16, batch=600)
    crops = ddpm._crops([image], config, compute.generator(0, "crops"))
    assert crops.shape == (600, 3, 16, 16)
    corner = crops[:, 0, 0, 0].long()
    rows, columns = corner // 30, corner % 30
    # 5 × 15 places, 8 crops each: one that is never met has odds of 75·e^-8 = 1/40, and the seed is fixed
    assert set(rows.tolist()) == set(range(5))
    assert set(columns.tolist()) == set(range(15))
    for crop, row, column in zip(crops[:20], rows, columns, strict=False):
        assert torch.equal(crop, image[0, :, row : row + 16, column : column + 16])


def test_augmentation_only_moves_pixels_and_permutes_channels() -> None:
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    config = TrainConfig(crop=16, batch=200, flips=True, colours=True)
    crops = ddpm._crops([image], config, compute.generator(0, "crops"))
    assert torch.equal(crops.flatten(1).sort(1).values, image.flatten(1).sort(1).values.expand(200, -1))
    assert len({crop.numpy().tobytes() for crop in crops}) > 20
    upright = sum(
        any(torch.equal(c.sort(0).values, v.sort(0).values) for v in (image[0], image[0].flip(-1))) for c in crops
    )
    # three quarters are not turned: binomial, 200 draws, 5σ
    assert abs(upright / 200 - 0.75) < 5 * math.sqrt(0.75 * 0.25 / 200)


@pytest.mark.usefixtures("unchecked")  # one Sequence[Image] binds h and w for all of its images
@pytest.mark.parametrize(
    ("pictures", "config", "words"),
    [
        ([], TrainConfig(), "at least one image"),
        ([picture(16)], TrainConfig(crop=17), "at most 16"),
        ([picture(32), picture(16)], TrainConfig(crop=24), "at most 16"),
        ([picture(16), picture(24)], TrainConfig(), "need a crop"),
        ([picture(16)[..., :8]], TrainConfig(flips=True), "square images"),
    ],
)
def test_images_that_cannot_be_trained_on_are_refused(pictures: list[Tensor], config: TrainConfig, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        next(train(pictures, config, compute.generator(0, "train")))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        {"steps": 0},
        {"batch": 0},
        {"ema": 1.0},
        {"ema": -0.1},
        {"channels": ()},
        {"channels": (12,)},
        {"channels": (0,)},
    ],
)
def test_a_setting_of_training_that_makes_no_sense_is_refused(arguments: dict[str, object]) -> None:
    with pytest.raises(InputError) as caught:
        TrainConfig(**arguments)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 1, 16, 16)])
def test_states_that_are_no_colour_images_are_refused(shape: tuple[int, ...]) -> None:
    begun = ddpm.sample(
        lambda x, sigma: x, NoiseSchedule.cosine(10), torch.zeros(shape), 5, SampleConfig(2), torch.Generator()
    )
    with pytest.raises(InputError, match=r"x_t: expected images \(b, 3, h, w\), got shape"):
        next(begun)
