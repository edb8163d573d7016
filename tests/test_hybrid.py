"""DIP+DDPM: the hand-off's algebra, its limits, and that DIP's image reaches the output."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from dipddpm_lib import classical, compute, ddpm, dip, hybrid, images, metrics, operators
from dipddpm_lib.classical import ClassicalConfig
from dipddpm_lib.ddpm import SampleConfig
from dipddpm_lib.dip import DIPConfig, Fit
from dipddpm_lib.hybrid import HybridConfig
from dipddpm_lib.priors import GaussianPrior
from dipddpm_lib.schedules import NoiseSchedule, spacing
from dipddpm_lib.types import InputError, Measurement, Step

SCHEDULE = NoiseSchedule.cosine(100)
PRIOR = GaussianPrior.photograph_like(32)
FIT = DIPConfig(filters=(8, 8), skip=4, in_channels=4, iterations=6, stop="none", held_out=0.1)
CONFIG = HybridConfig(dip=FIT, sample=SampleConfig(steps=3), start="dip", again=0)


def _measured(task: str = "inpaint_50") -> tuple[torch.Tensor, Measurement]:
    x = images.load("coffee", 32)
    operator, sigma_y = operators.task(task, 32, 32, compute.generator(0, task))
    return x, operators.measure(operator, x, sigma_y, compute.generator(0, "n"))


def _run(config: HybridConfig, y: Measurement, seed: int = 0) -> list[Step]:
    return list(hybrid.reconstruct(y, PRIOR, SCHEDULE, config, compute.generator(seed, "hybrid")))


def test_the_calibrated_hand_off_scales_and_adds_nothing() -> None:
    x = images.load("coffee", 32)
    for t in (1, 40, 100):
        expected = math.sqrt(SCHEDULE.alpha_bar[t].item()) * x
        torch.testing.assert_close(hybrid.hand_off(x, SCHEDULE, t), expected)


def test_renoising_is_the_forward_process() -> None:
    x = images.load("coffee", 32).double()
    draw = compute.generator(0, "z")
    x_t = hybrid.hand_off(x, SCHEDULE, 40, "renoise", draw)
    z = (x_t - math.sqrt(SCHEDULE.alpha_bar[40].item()) * x) / math.sqrt(1 - SCHEDULE.alpha_bar[40].item())
    n = z.numel()
    # mean and variance of n standard normal draws: 1/√n and √(2/n)
    assert abs(z.mean()) < 5 / math.sqrt(n)
    assert abs(z.var() - 1) < 5 * math.sqrt(2 / n)
    with pytest.raises(InputError, match="give it a generator"):
        hybrid.hand_off(x, SCHEDULE, 40, "renoise")


@pytest.mark.parametrize("kind", ["calibrated", "renoise"])
def test_t_start_zero_returns_dips_image_exactly(kind: str) -> None:
    _, y = _measured()
    config = replace(CONFIG, t_start=0, kind=kind)  # type: ignore[arg-type]
    *fits, last = _run(config, y)
    assert last.t == 0
    torch.testing.assert_close(last.x0_hat, fits[-1].x0_hat, rtol=0, atol=0)
    assert torch.equal(hybrid.hand_off(last.x0_hat, SCHEDULE, 0, kind, compute.generator(0, "z")), last.x0_hat)  # type: ignore[arg-type]


def test_reconstruct_is_its_two_halves() -> None:
    """What the experiments compose from a stored fit is what `reconstruct` runs in one go."""
    _, y = _measured()
    whole = _run(CONFIG, y)[-1]
    seed = int(torch.randint(2**48, (), generator=compute.generator(0, "hybrid")))
    *_, fit = dip.reconstruct(y, FIT, compute.generator(seed, "dip"))
    *_, half = hybrid.denoise(fit, y, PRIOR, SCHEDULE, CONFIG, compute.generator(seed, "sample"))
    torch.testing.assert_close(whole.x0_hat, half.x0_hat, rtol=0, atol=0)
    of_fit, of_sample = (compute.generator(seed, stream) for stream in ("dip", "sample"))
    *_, given = hybrid.reconstruct(y, PRIOR, SCHEDULE, CONFIG, of_fit, of_sample)
    torch.testing.assert_close(given.x0_hat, half.x0_hat, rtol=0, atol=0)


def test_steps_run_on_through_both_halves() -> None:
    _, y = _measured()
    steps = _run(CONFIG, y)
    indices = [s.index for s in steps]
    # the fit's last image is shown once more where it is handed off
    assert indices == [0, 1, 2, 3, 4, 5, 5, 6, 7, 8]
    ts = [s.t for s in steps[7:]]
    assert ts == sorted(ts, reverse=True)
    assert ts[-1] == 0


@pytest.mark.parametrize("kind", ["calibrated", "renoise"])
def test_dips_image_reaches_the_output(kind: str) -> None:
    """Change DIP's image and nothing else: the output follows, and ever less the later the start."""
    x, y = _measured("denoise_25")
    config = replace(CONFIG, kind=kind, consistency=False)  # type: ignore[arg-type]
    ramp = torch.linspace(-0.3, 0.3, 32).expand(1, 3, 32, 32)
    moved = {}
    for t_start in (10, 50, 100):
        ends = [
            list(
                hybrid.denoise(
                    Fit(0, 0, start, start, None),
                    y,
                    PRIOR,
                    SCHEDULE,
                    replace(config, t_start=t_start),
                    compute.generator(0, "sample"),
                )
            )[-1].x0_hat
            for start in (x, x + ramp)
        ]
        moved[t_start] = float((ends[1] - ends[0]).norm() / ramp.norm())
    assert moved[10] > 0.9  # nearly all of the change is kept from a late start
    assert moved[10] > moved[50] > moved[100]
    assert moved[100] < 0.05  # from pure noise nothing of DIP is left


def test_the_gaussian_oracle_gains_from_a_white_error_and_loses_little_from_a_smooth_one() -> None:
    """At equal RMSE the calibrated hand-off helps where the error looks like noise (closed form: the Wiener filter)."""
    truth = PRIOR.draw(compute.generator(1, "truth"))
    errors = {
        "white": torch.randn(truth.shape, generator=compute.generator(1, "w")).double(),
        "smooth": PRIOR.draw(compute.generator(1, "s")),
    }
    t = SCHEDULE.t_at_sigma(0.15)
    sigma = SCHEDULE.sigma(t)
    after = {}
    for name, error in errors.items():
        start = truth + error * (sigma / error.pow(2).mean().sqrt())
        out = PRIOR(hybrid.hand_off(start, SCHEDULE, t), sigma)
        after[name] = metrics.psnr(out, truth)
        # one call of the oracle is the Wiener filter P/(P + σ²) on the start
        gain = PRIOR.power / (PRIOR.power + sigma**2)
        wiener = torch.fft.ifft2(torch.fft.fft2(start) * gain).real
        torch.testing.assert_close(out, wiener, rtol=1e-9, atol=1e-9)
    before = metrics.psnr(truth + sigma, truth)
    assert after["white"] > before + 1
    assert after["smooth"] < before + 0.3


def test_the_start_is_chosen_from_dips_own_error() -> None:
    fit = Fit(0, 0, torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8), 0.1)
    for rho in (0.5, 1.0, 4.0):
        t = hybrid.choose_t(fit, SCHEDULE, replace(CONFIG, rho=rho))
        assert t == SCHEDULE.t_at_sigma(rho * 0.1)
    assert hybrid.choose_t(fit, SCHEDULE, replace(CONFIG, t_start=7)) == 7
    with pytest.raises(InputError, match="no error estimate"):
        hybrid.choose_t(replace(fit, rmse_hat=None), SCHEDULE, CONFIG)


def test_data_consistency_keeps_what_was_measured() -> None:
    x, y = _measured("inpaint_50")
    last = _run(CONFIG, y)[-1]
    seen = y.operator.support
    # σ_y = 0 is trusted to the 8-bit rounding; the last steps leave little of the prior's own word
    assert (last.x0_hat - x)[..., seen].abs().max() < 0.05
    free = _run(replace(CONFIG, consistency=False), y)[-1]
    assert (free.x0_hat - x)[..., seen].abs().max() > 0.05


def test_the_same_seed_gives_the_same_bits_and_another_does_not() -> None:
    _, y = _measured()
    a, b, c = (_run(CONFIG, y, seed)[-1].x0_hat for seed in (0, 0, 1))
    torch.testing.assert_close(a, b, rtol=0, atol=0)
    assert not torch.equal(a, c)


def test_a_start_beyond_T_is_refused_before_the_fit() -> None:
    _, y = _measured()
    with pytest.raises(InputError, match="t_start is a position"):
        next(hybrid.reconstruct(y, PRIOR, SCHEDULE, replace(CONFIG, t_start=101), compute.generator(0, "h")))


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"kind": "sudden"}, "kind: expected"),
        ({"start": "noise"}, "start: expected auto, dip, classical or measurement, got 'noise'"),
        ({"rho": 0.0}, "rho: expected"),
        ({"rho": float("nan")}, "rho: expected"),
        ({"t_start": -1}, "t_start: expected"),
        ({"again": -1}, "again: expected 0 or more"),
        ({"dip": replace(FIT, held_out=0.0)}, "needs DIP's error"),
    ],
)
@pytest.mark.usefixtures("unchecked")
def test_bad_settings_are_answered_in_one_line(change: dict[str, object], part: str) -> None:
    with pytest.raises(InputError) as caught:
        replace(CONFIG, **change)  # type: ignore[arg-type]
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_recommended_setting_and_the_quick_one_differ_in_the_fit_alone() -> None:
    usual, quick = HybridConfig(), HybridConfig.quick()
    assert (usual.kind, usual.t_start, usual.consistency, usual.again) == ("calibrated", None, True, None)
    assert replace(quick, dip=usual.dip) == usual
    assert quick.dip.iterations < usual.dip.iterations / 3
    assert quick.dip.runs == usual.dip.runs


@pytest.mark.parametrize(
    ("task", "start"), [("denoise_25", "measurement"), ("inpaint_90", "classical"), ("deblur", "dip")]
)
def test_the_start_is_settled_by_the_measurement_alone(task: str, start: str) -> None:
    _, y = _measured(task)
    usual = replace(CONFIG, start="auto")
    assert hybrid.settle(y, usual).start == start
    # who names a start, a t_start, or no consistency, has decided
    assert hybrid.settle(y, CONFIG) == CONFIG
    assert hybrid.settle(y, replace(usual, t_start=7)) == replace(CONFIG, t_start=7)
    assert hybrid.settle(y, replace(usual, consistency=False)) == replace(CONFIG, consistency=False)


def test_the_result_is_handed_over_again_where_t_start_follows_and_y_is_not_the_image() -> None:
    left_open = replace(CONFIG, again=None)
    for task, change, expected in (
        ("deblur", {}, hybrid.AGAIN),
        ("inpaint_90", {"start": "auto"}, hybrid.AGAIN),
        ("denoise_25", {}, 0),
        ("denoise_25", {"start": "auto"}, 0),
        ("deblur", {"t_start": 7}, 0),
        ("deblur", {"consistency": False}, 0),
        ("denoise_25", {"again": 5}, 5),  # who gives a number has decided
    ):
        _, y = _measured(task)
        settled = hybrid.settle(y, replace(left_open, **change))  # type: ignore[arg-type]
        assert settled.again == expected, (task, change)
        assert settled.calls == settled.sample.steps * (1 + expected)
        if settled.start == "dip":  # one hand-off under noise starts where the last of three would
            halved = task == "denoise_25" and settled.again == 0 and "again" not in change
            assert settled.rho == left_open.rho / (2 if halved else 1), (task, change)
        assert hybrid.settle(y, settled) == settled


def test_a_second_hand_off_is_the_first_one_from_its_result_at_half_the_noise() -> None:
    _, y = _measured()
    once, twice = (_run(replace(CONFIG, again=n), y) for n in (0, 1))
    assert [s.index for s in twice] == [*(s.index for s in once), 9, 10, 11]
    assert torch.equal(twice[len(once) - 1].x0_hat, once[-1].x0_hat)
    t_start = hybrid.choose_t(once[5], SCHEDULE, CONFIG)  # type: ignore[arg-type]
    half = SCHEDULE.t_at_sigma(SCHEDULE.sigma(t_start) / 2)
    assert 0 < half < t_start
    found = replace(CONFIG, t_start=half)
    fit = Fit(0, 0, once[-1].x0_hat, once[-1].x0_hat, None)
    *_, last = hybrid.denoise(fit, y, PRIOR, SCHEDULE, found, compute.generator(0, "unused: the steps draw nothing"))
    assert torch.equal(twice[-1].x0_hat, last.x0_hat)
    assert not torch.equal(twice[-1].x0_hat, once[-1].x0_hat)


def test_the_noise_of_further_hand_offs_falls_by_one_factor_to_half() -> None:
    _, y = _measured()
    config = replace(CONFIG, again=4)
    steps = _run(config, y)
    t_start = hybrid.choose_t(steps[5], SCHEDULE, config)  # type: ignore[arg-type]
    ts = [SCHEDULE.t_at_sigma(SCHEDULE.sigma(t_start) * share) for share in (1, 2**-0.25, 2**-0.5, 2**-0.75, 0.5)]
    assert len(set(ts)) == 5
    kinds = [spacing(SCHEDULE, t, 3, "uniform")[1:] for t in ts]
    assert [s.t for s in steps[len(steps) - 15 :]] == [t for each in kinds for t in each]


def test_a_known_target_is_no_start() -> None:
    """Protocol A: y is the image itself, and handing it over would be the answer."""
    clean = Measurement(images.load("coffee", 32), operators.Identity(), 0.0)
    assert hybrid.settle(clean, replace(CONFIG, start="auto")).start == "dip"


@pytest.mark.parametrize("turn", [False, True])
def test_under_white_noise_the_result_is_one_step_of_the_denoiser(turn: bool) -> None:
    x, y = _measured("denoise_25")
    asked = replace(CONFIG, start="auto", sample=replace(CONFIG.sample, turn=turn))
    steps = _run(asked, y)
    views = 8 if turn else 1
    assert hybrid.settle(y, asked).calls == views == len(steps) - 2  # the start comes twice
    start, last = steps[0], steps[-1]
    sigma = SCHEDULE.sigma(SCHEDULE.t_at_sigma(y.sigma_y))
    assert torch.equal(start.x0_hat, operators.pseudo_inverse(y))  # y to one part in 10⁴
    x_t = start.x0_hat / math.sqrt(1 + sigma**2)
    seen = [ddpm.symmetry(PRIOR(ddpm.symmetry(x_t, n), sigma), n, back=True) for n in range(views)]
    torch.testing.assert_close(last.x0_hat, torch.stack(seen).mean(0).clamp(-1, 1))
    assert metrics.psnr(last.x0_hat, x) > metrics.psnr(y.y, x) + 1


def test_a_noisy_image_that_is_its_own_start_gets_no_second_noise() -> None:
    _, y = _measured("denoise_25")
    usual, renoised = (_run(replace(CONFIG, start="auto", kind=kind), y)[-1] for kind in ("calibrated", "renoise"))
    assert torch.equal(usual.x0_hat, renoised.x0_hat)


def test_steps_that_do_not_fit_the_schedule_are_refused_before_the_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    _, y = _measured("deblur")
    monkeypatch.setattr(dip, "reconstruct", lambda *_: pytest.fail("DIP was fitted first"))
    with pytest.raises(InputError, match="steps: expected at most T = 2, got 3"):
        next(hybrid.reconstruct(y, PRIOR, NoiseSchedule.cosine(2), CONFIG, compute.generator(0, "solve")))


def test_a_classical_start_is_the_restorers_image() -> None:
    _, y = _measured("inpaint_50")
    steps = _run(replace(CONFIG, start="auto"), y)
    (restored,) = classical.reconstruct(y, ClassicalConfig())
    assert torch.equal(steps[0].x0_hat, restored.x0_hat)
    assert [step.index for step in steps] == [0, 0, 1, 2, 3]
    assert steps[2].t > 0


def test_a_start_without_an_error_estimate_asks_for_t_start() -> None:
    _, y = _measured("super_x4")
    for start in ("classical", "measurement"):
        with pytest.raises(InputError, match="give t_start"):
            _run(replace(CONFIG, start=start), y)  # type: ignore[arg-type]
        assert _run(replace(CONFIG, start=start, t_start=20), y)[-1].t == 0  # type: ignore[arg-type]


def test_a_named_start_from_a_noisy_image_is_the_chosen_one() -> None:
    _, y = _measured("denoise_25")
    chosen = hybrid.settle(y, replace(CONFIG, start="auto"))
    assert hybrid.settle(y, replace(CONFIG, start="measurement")) == chosen
    assert hybrid.settle(y, chosen) == chosen
    assert (chosen.sample.steps, chosen.sample.views) == (1, 8 if CONFIG.sample.turn else 1)
    by_hand = replace(CONFIG, start="measurement", t_start=20)
    assert hybrid.settle(y, by_hand) == by_hand


def test_a_classical_start_brings_the_error_that_its_held_out_pixels_show() -> None:
    _, y = _measured("inpaint_50")
    config = hybrid.settle(y, replace(CONFIG, start="auto"))
    (fit,) = hybrid.begin(y, config, compute.generator(0, "begin"))
    share = config.dip.held_out
    expected = classical.held_out_rmse(y, ClassicalConfig(), share, compute.generator(0, "begin"))
    assert fit.rmse_hat == expected
    assert expected != classical.held_out_rmse(y, ClassicalConfig(), 5 * share, compute.generator(0, "begin"))
