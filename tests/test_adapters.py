"""`adapters`: a randomly initialised model of diffusers, held to diffusers' own sampler step by step."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from dipddpm_lib import ddpm, hybrid, images, operators
from dipddpm_lib.adapters import DiffusersDenoiser
from dipddpm_lib.ddpm import SampleConfig
from dipddpm_lib.hybrid import HybridConfig
from dipddpm_lib.types import Denoiser, InputError


@pytest.fixture(scope="module")
def diffusers() -> Any:
    import diffusers  # here: it takes seconds, and the library itself does not need it

    return diffusers


@pytest.fixture(scope="module")
def model(diffusers: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return diffusers.UNet2DModel(
            sample_size=16,
            layers_per_block=1,
            block_out_channels=(8, 16),
            norm_num_groups=4,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
        ).eval()


def noise(seed: int = 0) -> Tensor:
    return torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("betas", ["linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("clip", [False, True])
def test_every_step_is_that_of_diffusers(diffusers: Any, model: Any, prediction: str, betas: str, clip: bool) -> None:
    scheduler = diffusers.DDIMScheduler(
        beta_schedule=betas, prediction_type=prediction, clip_sample=clip, timestep_spacing="trailing"
    )
    scheduler.set_timesteps(10)
    denoiser = DiffusersDenoiser(model, scheduler)
    assert isinstance(denoiser, Denoiser)
    theirs = x = noise()
    config = SampleConfig(steps=10, clip=clip)
    for step, t in zip(
        ddpm.sample(denoiser, denoiser.schedule, x, 1000, config, torch.Generator()), scheduler.timesteps, strict=True
    ):
        with torch.no_grad():
            # ours takes ε̂ from the clipped x̂_0, which is their option
            out = scheduler.step(model(theirs, t).sample, t, theirs, use_clipped_model_output=clip)
        theirs = out.prev_sample
        scale = 1 + float(theirs.abs().max())
        # both in float32; ours takes ᾱ in float64, theirs in float32, and the last ᾱ are as small as 1e-5
        torch.testing.assert_close(step.x_t, theirs, rtol=0, atol=2e-3 * scale)
        torch.testing.assert_close(
            step.x0_hat, out.pred_original_sample, rtol=0, atol=2e-3 * (1 + float(out.pred_original_sample.abs().max()))
        )


def test_the_ruler_is_the_models_and_continuous_between_its_marks(diffusers: Any, model: Any) -> None:
    denoiser = DiffusersDenoiser(model, diffusers.DDPMScheduler())
    sigma = denoiser.schedule.sigma
    for t in (1, 2, 500, 1000):
        assert denoiser.timestep(sigma(t)) == t - 1
        assert denoiser.timestep(float(torch.tensor(sigma(t)))) == t - 1, "as float32 gives it"
    between = math.sqrt(sigma(400) * sigma(401))
    assert denoiser.timestep(between) == pytest.approx(399.5, abs=1e-6)
    for outside in (0.0, sigma(1) / 1.01, sigma(1000) * 1.01):
        with pytest.raises(InputError, match="sigma: expected"):
            denoiser(noise(), outside)


def test_one_level_of_noise_is_asked_for_all_images(diffusers: Any, model: Any) -> None:
    denoiser = DiffusersDenoiser(model, diffusers.DDPMScheduler())
    both = torch.cat([noise(0), noise(1)])
    torch.testing.assert_close(denoiser(both, torch.full((2, 1, 1, 1), 0.5)), denoiser(both, 0.5), rtol=0, atol=0)
    with pytest.raises(InputError, match="sigma: expected one noise level"):
        denoiser(both, torch.tensor([0.5, 0.6]))


def test_a_scheduler_without_a_ruler_is_refused(diffusers: Any, model: Any) -> None:
    with pytest.raises(InputError, match="got FlowMatchEulerDiscreteScheduler"):
        DiffusersDenoiser(model, diffusers.FlowMatchEulerDiscreteScheduler())


def test_a_hybrid_runs_on_it(diffusers: Any, model: Any) -> None:
    denoiser = DiffusersDenoiser(model, diffusers.DDPMScheduler())
    x = images.load("coffee", 16)
    operator, sigma_y = operators.task("inpaint_50", 16, 16, torch.Generator().manual_seed(0))
    y = operators.measure(operator, x, sigma_y, torch.Generator().manual_seed(1))
    config = replace(HybridConfig.quick(), start="dip")
    *_, last = hybrid.reconstruct(y, denoiser, denoiser.schedule, config, torch.Generator().manual_seed(2))
    assert last.x0_hat.shape == x.shape
    assert last.index > config.sample.steps


def fake(prediction: str = "epsilon", channels: tuple[int, int] = (3, 3), last: float = 0.01) -> tuple[Any, Any]:
    model = SimpleNamespace(config=SimpleNamespace(in_channels=channels[0], out_channels=channels[1]))
    model.eval = lambda: model
    alphas = torch.linspace(0.99, last, 50)
    return model, SimpleNamespace(config=SimpleNamespace(prediction_type=prediction), alphas_cumprod=alphas)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"prediction": "flow"}, "prediction_type: expected one of epsilon"),
        ({"channels": (4, 4)}, "expected 3 channels"),
        ({"channels": (3, 6)}, "expected 3 channels"),
        ({"last": 0.0}, "zero terminal SNR"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(change: dict[str, Any], part: str) -> None:
    with pytest.raises(InputError) as caught:
        DiffusersDenoiser(*fake(**change))
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)
