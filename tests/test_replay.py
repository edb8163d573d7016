"""The replay of the reported numbers: every broken sampler against a closed form, and the quotations against both.

Tolerances are 5 standard deviations of the Monte Carlo error that each comparison has (a false alarm in 2 million),
derived where they are used; the seeds are fixed, so a test that passes once always passes.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio

import dipddpm_lib
from dipddpm_lib import compute, images, replay
from dipddpm_lib.types import Image, InputError

K = 5.0
BY_NAME = {bug.name: bug for bug in replay.BUGS}


def generator(seed: int = 0) -> torch.Generator:
    return compute.generator(seed, "test_replay")


def two_level(side: int, mean: float = 0.5004, std: float = 0.26) -> Image:
    """A target of the moments behind the table in the findings: E[x²] = 0.318, and mid-grey scores 11.7 dB."""
    signs = torch.randn(1, 3, side, side, generator=generator(99)).sign()
    return 2 * (mean + std * (signs - signs.mean()) / signs.std()) - 1


@pytest.fixture(scope="module")
def astronaut() -> Image:
    return images.load("astronaut", 64)


@pytest.fixture(scope="module")
def rows(astronaut: Image) -> dict[str, replay.Row]:
    return {row.bug: row for row in replay.replay(astronaut, generator())}


# ---- the score --------------------------------------------------------------------------------------------------


def test_score_is_scikit_images_at_peak_1_and_maps_the_target_only(astronaut: Image) -> None:
    unit = (astronaut + 1) / 2
    output = unit + 0.1 * torch.randn(unit.shape, generator=generator())
    psnr, ssim = replay.score(output, astronaut)
    assert psnr == pytest.approx(peak_signal_noise_ratio(unit.numpy(), output.numpy(), data_range=1.0), abs=1e-4)
    assert 0 < ssim < 1
    assert replay.score(unit, astronaut)[1] == pytest.approx(1.0)
    # the notebooks' own slip: the very target, left in [-1, 1], errs by (2x − 1) − x = x − 1
    slip = -10 * math.log10((unit.double() - 1).square().mean().item())
    assert replay.score(astronaut, astronaut)[0] == pytest.approx(slip, abs=1e-4)


def test_score_of_the_target_itself_is_infinite() -> None:
    target = torch.zeros(1, 3, 16, 16)
    assert replay.score(torch.full_like(target, 0.5), target)[0] == math.inf


def test_score_refuses_another_shape(astronaut: Image) -> None:
    with pytest.raises(InputError, match="shaped like its target"):
        replay.score(astronaut[..., :32, :32], astronaut[..., :32, :48])


# ---- what noise scores ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [64, 128])
def test_noise_scores_its_closed_form(side: int) -> None:
    target = images.load("astronaut", side)
    moment = ((target + 1) / 2).double().square().mean().item()
    closed_form = -10 * math.log10(1 + moment)
    assert replay.psnr_of_noise(target) == pytest.approx(closed_form, abs=1e-9)
    spread = replay.psnr_spread(replay.NOISE, moment, target.numel())
    psnr, _ = replay.score(torch.randn(target.shape, generator=generator()), target)
    assert abs(psnr - closed_form) < K * spread


def test_spread_of_noise_is_what_many_draws_have() -> None:
    draws, astronaut = 4000, images.load("astronaut", 32)
    g = generator()
    psnrs = [
        -10 * math.log10((torch.randn(astronaut.shape, generator=g) - (astronaut + 1) / 2).square().mean().item())
        for _ in range(draws)
    ]
    spread = replay.psnr_spread(replay.NOISE, replay.second_moment(astronaut), astronaut.numel())
    # the standard deviation of a standard deviation from N draws is s/√(2N): 1.1 % here
    assert abs(np.std(psnrs, ddof=1) / spread - 1) < K / math.sqrt(2 * draws)
    assert abs(np.mean(psnrs) - replay.psnr_of_noise(astronaut)) < K * spread / math.sqrt(draws)


def test_spread_needs_noise_of_mean_0() -> None:
    with pytest.raises(InputError, match="mean 0"):
        replay.psnr_spread(replay.Law(0.5, 1.0), 0.3, 100)


# ---- the textbook's chain ---------------------------------------------------------------------------------------


def _recursion(betas: list[float], variance: float) -> float:
    """v_{t−1} = v_t/α_t + σ_t², σ_t² = β_t but 0 at the end: written again here, summed from the other side."""
    growth, total = 1.0, 0.0
    for t, beta in enumerate(betas):
        total += growth * (beta if t > 0 else 0.0)
        growth /= 1 - beta
    return variance * growth + total


@pytest.mark.parametrize(("steps", "std"), [(100, 2.1), (300, 6.3), (1000, 222.0)])
def test_ancestral_chain_without_a_network_grows_as_its_recursion_says(steps: int, std: float) -> None:
    betas = replay.linear_betas(steps)
    variance = replay.ancestral_variance(replay.knows_nothing, betas)
    assert variance == pytest.approx(_recursion(betas.tolist(), 1.0), rel=1e-12)
    # 1/ᾱ_t − 1/ᾱ_{t−1} = β_t/ᾱ_t, so the sum of the added noise telescopes to 1/ᾱ_T − 1, less at most its largest β
    assert variance == pytest.approx(2 / (1 - betas).prod().item() - 1, rel=0.02)
    assert math.sqrt(variance) == pytest.approx(std, abs=0.5 if steps == 1000 else 0.05)
    x_t = torch.randn(1, 3, 64, 64, generator=generator())
    out = replay.ancestral(replay.knows_nothing, x_t, betas, generator(1)).double()
    # n Gaussian values: the mean square has standard deviation v√(2/n)
    assert abs(out.square().mean().item() / variance - 1) < K * math.sqrt(2 / out.numel())
    assert abs(out.mean().item()) < K * math.sqrt(variance / out.numel())


def test_mid_chain_start_uses_the_first_betas() -> None:
    whole, start = replay.linear_betas(1000), replay.linear_betas(1000)[:25]
    assert start.sum().item() == pytest.approx(sum(1e-4 + (0.02 - 1e-4) * i / 999 for i in range(25)))
    assert replay.ancestral_variance(replay.knows_nothing, start) == pytest.approx(_recursion(start.tolist(), 1.0))
    assert whole[0].item() == 1e-4
    assert whole[-1].item() == 0.02


def test_with_the_exact_network_of_gaussian_data_the_chain_samples_that_data() -> None:
    # data N(0, s²): E[ε | x_t] = √(1−ᾱ) x_t/(ᾱ s² + 1 − ᾱ); the sampler must end in s² but for its discretisation
    s = 0.1

    def exact(x_t: torch.Tensor, alpha_bar: float) -> torch.Tensor:
        return math.sqrt(1 - alpha_bar) / (alpha_bar * s**2 + 1 - alpha_bar) * x_t

    betas = replay.linear_betas(1000)
    variance = replay.ancestral_variance(exact, betas)
    # σ_t² = β_t is right for white unit data and too large for narrower (Ho et al. 2020, §3.2)
    assert s**2 < variance < 1.1 * s**2
    x_t = torch.randn(1, 3, 32, 32, generator=generator())
    out = replay.ancestral(exact, x_t, betas, generator(1))
    assert abs(out.square().mean().item() / variance - 1) < K * math.sqrt(2 / out.numel())
    # nothing of this data reaches ±1, so the posterior's form of the same step (eq. 7 for eq. 11) is the same chain;
    # each of 1000 float32 steps may differ by one rounding, 6e-8 of a state of size ≤ 4
    same = replay.clipped_posterior(exact, x_t, betas, generator(1))
    assert torch.allclose(same, out, atol=1000 * 6e-8 * 4, rtol=0)


def test_what_knows_only_the_noises_share_keeps_white_noise() -> None:
    betas = replay.linear_betas(1000)
    # v_{t−1} = α_t v_t + β_t keeps v = 1; the last step adds nothing, which leaves α_1
    assert replay.ancestral_variance(replay.weighs_input, betas) == pytest.approx(1 - 1e-4, rel=1e-12)


def test_an_untrained_network_says_zero_so_the_cheap_stand_in_gives_the_same_bits() -> None:
    x_t = torch.randn(1, 3, 16, 16, generator=generator())
    betas = replay.linear_betas(100)
    eps = replay.untrained(generator(1))
    assert torch.equal(eps(x_t, 0.5), torch.zeros_like(x_t))
    real = replay.ancestral(eps, x_t, betas, generator(2))
    assert torch.equal(real, replay.ancestral(replay.knows_nothing, x_t, betas, generator(2)))


def test_chains_leave_their_start_alone() -> None:
    x_t = torch.randn(1, 3, 16, 16, generator=generator())
    before = x_t.clone()
    betas = replay.linear_betas(10)
    replay.ancestral(replay.repeats_input, x_t, betas, generator(), lambda x: x.clamp_(-1, 1))
    replay.clipped_posterior(replay.knows_nothing, x_t, betas, generator())
    assert torch.equal(x_t, before)


def test_clipped_normal_variance_is_its_integral() -> None:
    for variance in (0.2, 1.0, 50.0):
        z = np.linspace(-12, 12, 400_001) * math.sqrt(variance)
        density = np.exp(-(z**2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)
        integral = np.trapezoid(np.clip(z, -1, 1) ** 2 * density, z)
        assert replay.clipped_normal_variance(variance) == pytest.approx(integral, abs=1e-6)


# ---- the bugs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bug", [bug for bug in replay.BUGS if bug.law], ids=lambda bug: bug.name)
def test_every_bug_with_a_law_scores_as_it_says(bug: replay.Bug, rows: dict[str, replay.Row], astronaut: Image) -> None:
    assert bug.law is not None
    law, row, n = bug.law(), rows[bug.name], astronaut.numel()
    output = row.output.double()
    # fourth moment ≤ 3v² (Gaussian; what is clipped has less): the variance is good to v√(2/n), the mean to √(v/n)
    assert abs(output.var().item() - law.variance) <= K * law.variance * math.sqrt(2 / n) + 1e-12
    assert abs(output.mean().item() - law.mean) <= K * math.sqrt(law.variance / n) + 1e-12
    assert row.std == pytest.approx(output.std().item())
    assert row.expected_psnr is not None
    about_mean = ((astronaut + 1) / 2 - law.mean).double().square().mean().item()
    # psnr_spread for the output less its mean, against the target less that mean
    spread = replay.psnr_spread(replay.Law(0.0, law.variance), about_mean, n)
    assert abs(row.psnr - row.expected_psnr) <= K * spread + 1e-6


def test_the_table_of_the_findings_comes_out_of_running_its_bugs() -> None:
    target = two_level(128)
    assert replay.second_moment(target) == pytest.approx(0.318, abs=5e-4)
    rows = {row.bug: row for row in replay.replay(target, generator(3))}
    noise = [
        "raw noise returned",
        "a loop that does nothing",
        "a network that learned only 'the input is noise'",
        "ε returned in place of the image",
        "saturated at ±1, never mapped to [0, 1]",
    ]
    # half of the last printed digit, and the spread of both draws: theirs and ours
    rounding, spread = 0.005, replay.psnr_spread(replay.NOISE, 0.318, target.numel()) * math.sqrt(2)
    for name in noise:
        assert rows[name].std == pytest.approx(1.00, abs=0.02)
        assert abs(rows[name].psnr - -1.20) < rounding + K * spread
        assert rows[name].like_noise
    for steps, std, psnr in ((100, 2.1, -6.8), (300, 6.3, -16.0), (1000, 222.0, -47.0)):
        row = rows[f"ancestral sampler, ε = 0, T = {steps}"]
        # half of the last printed digit, and the standard deviation of a standard deviation, s/√(2n)
        digit = 0.05 if steps < 1000 else 0.5
        assert row.std == pytest.approx(std, abs=digit + K * std / math.sqrt(2 * target.numel()))
        assert row.psnr == pytest.approx(psnr, abs=0.5 if steps > 100 else 0.1)  # printed to whole dB beyond 100
        assert not row.like_noise
    # printed to 0.01 and 0.1 dB; the chains' own spread is at most that of noise of their variance, 5·√2·0.02 dB
    clamped, posterior = rows["clamped to [−1, 1] at every step"], rows["posterior with x̂_0 clipped, ε = 0"]
    assert clamped.std == pytest.approx(0.63, abs=0.01)
    assert clamped.psnr == pytest.approx(1.4, abs=0.15)
    assert posterior.std == pytest.approx(0.78, abs=0.01)
    assert posterior.psnr == pytest.approx(0.4, abs=0.15)
    for name, row in rows.items():
        if "mapped to [0, 1]" in name and "never" not in name:
            assert 5 < row.psnr < 8, name
            assert row.output.min() >= 0
            assert row.output.max() <= 1
    assert rows["mid-grey image"].psnr == pytest.approx(11.7, abs=0.05)
    assert rows["mid-grey image"].std == 0


def test_a_chain_of_25_steps_costs_noise_a_twentieth_of_a_decibel() -> None:
    # the findings print −1.30 dB beside t₀ = 25; that is what t₀ = 34 gives, the t whose σ_t is DIP's error
    for t_start, psnr in ((25, -1.25), (34, -1.29)):
        variance = replay.ancestral_variance(replay.knows_nothing, replay.linear_betas(1000)[:t_start])
        assert -10 * math.log10(variance + 0.318) == pytest.approx(psnr, abs=0.006)


def test_no_bug_sees_more_of_the_target_than_its_shape(astronaut: Image) -> None:
    black = torch.full_like(astronaut, -1.0)
    for bug in replay.BUGS:
        assert torch.equal(bug.run(astronaut, generator(5)), bug.run(black, generator(5))), bug.name


def test_none_of_the_bugs_resembles_its_target(rows: dict[str, replay.Row]) -> None:
    for row in rows.values():
        # a constant image keeps SSIM's luminance term; what is noise rounds to the reported 0.00
        assert abs(row.ssim) < (0.2 if row.bug == "mid-grey image" else 0.02), row.bug


def test_names_are_unique_and_every_bug_is_explained() -> None:
    assert len(BY_NAME) == len(replay.BUGS) >= 13
    assert all(len(bug.explanation) > 40 for bug in replay.BUGS)


# ---- the quotations ---------------------------------------------------------------------------------------------


def test_reported_rows_are_the_writeups_own() -> None:
    quoted = [(row.method, row.psnr, row.ssim, row.seconds) for row in replay.REPORTED]
    assert quoted == [("DIP", 24.46, 0.93, 16.64), ("DDPM", -1.22, 0.0, 30.0), ("DIP+DDPM", -1.2, 0.0, 0.77)]


def test_both_diffusion_rows_lie_in_the_band_of_noise() -> None:
    # against one target of the moment between both, two draws of noise give both rows
    for side in (64, 128, 256):
        low, high = replay.noise_band(two_level(side, mean=0.5, std=math.sqrt(0.3213 - 0.25)))
        assert all(low < row.psnr < high for row in replay.REPORTED[1:])
        assert not low < replay.REPORTED[0].psnr < high
    # and a photograph has such a moment: the bundled ones span 0.01 … 0.5
    moments = [replay.second_moment(images.load(name, 64)) for name in ("astronaut", "camera", "page")]
    for row in replay.REPORTED[1:]:
        assert min(moments) < replay.implied_second_moment(row.psnr) < max(moments)


def test_implied_moment_inverts_the_score_of_noise(astronaut: Image) -> None:
    moment = replay.implied_second_moment(replay.psnr_of_noise(astronaut))
    assert moment == pytest.approx(replay.second_moment(astronaut), rel=1e-9)
    assert replay.implied_second_moment(-1.22) == pytest.approx(0.324, abs=5e-4)
    assert replay.implied_second_moment(-1.20) == pytest.approx(0.318, abs=5e-4)


def test_the_two_rows_differ_by_less_than_two_draws_do() -> None:
    # draws_apart ∝ side; up to 256² the difference is about one standard deviation or less, at 512² about two
    assert replay.draws_apart(512) == pytest.approx(2 * replay.draws_apart(256))
    assert replay.draws_apart(128) < 1
    assert replay.draws_apart(256) < 1.1
    assert replay.draws_apart(512) < 2.2
    g, n, moment = generator(), 3 * 64**2, 0.3213
    x = torch.full((n,), math.sqrt(moment))
    draws = 2000
    psnr = torch.stack([-10 * (torch.randn(n, generator=g) - x).square().mean().log10() for _ in range(2 * draws)])
    spread = (psnr[:draws] - psnr[draws:]).std().item()
    assert abs(0.02 / spread / replay.draws_apart(64) - 1) < K / math.sqrt(2 * draws)


def test_time_arithmetic() -> None:
    told = replay.time_arithmetic()
    assert round(told.steps) == 26
    assert told.total_seconds == pytest.approx(17.41)
    assert told.speed_up == pytest.approx(1.7, abs=0.05)
    assert told.claimed_speed_up == pytest.approx(39, abs=0.5)
    assert told.relative_to_dip == pytest.approx(17.41 / 16.64)
    assert told.relative_to_dip > 1


@pytest.mark.parametrize("renoise", [True, False])
def test_an_untrained_network_would_have_kept_most_of_dips_image(astronaut: Image, renoise: bool) -> None:
    told = replay.untrained_hand_off(astronaut, generator(), renoise=renoise)
    assert told.start == pytest.approx(24.46, abs=1e-3)  # float32 of the mapping
    if renoise:
        assert told.expected_end == pytest.approx(21, abs=0.2)
    # two independent errors of total variance v, all white: no wider than one Gaussian of that variance
    assert abs(told.end - told.expected_end) < K * 10 / math.log(10) * math.sqrt(2 / astronaut.numel())
    assert told.end > replay.REPORTED[2].psnr + 20


def test_hand_off_refuses_a_start_off_the_schedule(astronaut: Image) -> None:
    with pytest.raises(InputError, match="t_start"):
        replay.untrained_hand_off(astronaut, generator(), t_start=0)


# ---- the house's rules ------------------------------------------------------------------------------------------


def test_same_seed_same_bits_and_another_seed_other_bits() -> None:
    target = images.load("astronaut", 16)
    first, again, other = (replay.replay(target, generator(seed)) for seed in (7, 7, 8))
    for a, b, c in zip(first, again, other, strict=True):
        assert torch.equal(a.output, b.output)
        assert (a.psnr, a.ssim) == (b.psnr, b.ssim)
        assert torch.equal(a.output, c.output) == (a.bug == "mid-grey image")


def test_global_random_state_is_never_touched(random_state_guard: Callable[[], AbstractContextManager[None]]) -> None:
    target = images.load("astronaut", 16)
    with random_state_guard():
        replay.replay(target, generator())
        replay.untrained_hand_off(target, generator())


def test_nothing_else_in_the_library_imports_replay() -> None:
    package = Path(str(dipddpm_lib.__file__)).parent
    for path in package.rglob("*.py"):
        if path.name == "replay.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            elif isinstance(node, ast.Import):
                names = [part for alias in node.names for part in alias.name.split(".")]
            else:
                continue
            assert "replay" not in names, f"{path.name} imports replay"
