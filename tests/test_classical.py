"""The classical restorers: each repairs its own kind of damage, and sees nothing but the measurement."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from skimage import restoration

from dipddpm_lib import classical, compute, images, metrics, operators
from dipddpm_lib.classical import ClassicalConfig
from dipddpm_lib.types import InputError, LinearOperator


@pytest.mark.parametrize("task", [t for t in operators.TASKS if t != "fourier_x4"])
def test_every_task_is_improved_on_its_pseudo_inverse(task: str) -> None:
    x = images.load("coffee", 48)
    operator, sigma_y = operators.task(task, 48, 48, compute.generator(0, task))
    y = operators.measure(operator, x, sigma_y, compute.generator(0, "n"))
    (step,) = classical.reconstruct(y, ClassicalConfig(tv_iterations=30))
    # the Wiener filter has the pseudo-inverse's noise to beat, all others its missing entries
    assert metrics.psnr(step.x0_hat, x) > metrics.psnr(operators.pseudo_inverse(y).clamp(-1, 1), x)
    assert step.x0_hat.abs().max() <= 1
    assert (step.index, step.t) == (0, 0)


def test_fourier_rows_are_improved_by_total_variation() -> None:
    x = images.load("chelsea", 48)
    operator, _ = operators.task("fourier_x4", 48, 48, compute.generator(0, "f"))
    y = operators.measure(operator, x, 0.0, compute.generator(0, "n"))
    (step,) = classical.reconstruct(y, ClassicalConfig())
    assert metrics.psnr(step.x0_hat, x) > metrics.psnr(operators.pseudo_inverse(y), x)


def test_biharmonic_is_scikit_images() -> None:
    x = images.load("coffee", 32)
    mask = torch.rand(32, 32, generator=compute.generator(0, "m")) < 0.6
    y = operators.measure(operators.Inpainting(mask), x, 0.0, compute.generator(0, "n"))
    (step,) = classical.reconstruct(y, ClassicalConfig())
    array = (y.y[0].permute(1, 2, 0).double().numpy() + 1) / 2
    expected = restoration.inpaint_biharmonic(array, ~mask.numpy(), channel_axis=-1) * 2 - 1
    np.testing.assert_allclose(step.x0_hat[0].permute(1, 2, 0).numpy(), expected.clip(-1, 1), atol=1e-5)


def test_names_and_refusals() -> None:
    assert classical.name_for(operators.Identity()) == "non-local means"

    class Own(operators.Identity):
        pass

    y = operators.measure(Own(), images.load("coffee", 32), 0.1, compute.generator(0, "n"))
    (own,) = classical.reconstruct(y, ClassicalConfig())
    (usual,) = classical.reconstruct(replace(y, operator=operators.Identity()), ClassicalConfig())
    assert torch.equal(own.x0_hat, usual.x0_hat), "what is derived from an operator is restored as that is"

    class Grey(LinearOperator):
        A = A_adjoint = prox = image_size = None  # type: ignore[assignment]

    y = replace(y, operator=Grey())
    line = r"no restorer for Grey; expected one of Identity, Inpainting, .*, or derived from one$"
    for asks in (lambda: list(classical.reconstruct(y, ClassicalConfig())), lambda: classical.name_for(Grey())):
        with pytest.raises(InputError, match=line):
            asks()
    with pytest.raises(InputError, match="tv_iterations"):
        ClassicalConfig(tv_iterations=0)


def test_the_held_out_error_is_that_of_pixels_the_restorer_was_not_shown() -> None:
    """By hand: biharmonic inpainting without the held pixels, scored on them alone."""
    x = images.load("coffee", 48)
    operator, _ = operators.task("inpaint_50", 48, 48, compute.generator(0, "m"))
    y = operators.measure(operator, x, 0.0, compute.generator(0, "n"))
    found = classical.held_out_rmse(y, ClassicalConfig(), 0.1, compute.generator(0, "h"))
    held = operator.held_out(y.y, 0.1, compute.generator(0, "h"))
    seen = operator.support & ~held
    array = ((x * seen)[0].permute(1, 2, 0).double().numpy() + 1) / 2
    restored = restoration.inpaint_biharmonic(array, ~seen.numpy(), channel_axis=-1) * 2 - 1
    error = (restored.clip(-1, 1) - x[0].permute(1, 2, 0).double().numpy())[held.numpy()]
    assert found == pytest.approx(float(np.sqrt((error**2).mean())), rel=1e-4)
    # missing pixels have seen neighbours as the held ones have: the estimate serves for the whole image's missing half
    (step,) = classical.reconstruct(y, ClassicalConfig())
    missing = (step.x0_hat - x)[..., ~operator.support]
    assert 0.7 < found / float(missing.square().mean().sqrt()) < 1.4


def test_there_is_no_held_out_error_where_pixels_are_not_what_is_measured() -> None:
    y = operators.measure(operators.Downsampling(4), images.load("coffee", 32), 0.0, compute.generator(0, "n"))
    with pytest.raises(InputError, match="expected an Inpainting, got Downsampling"):
        classical.held_out_rmse(y, ClassicalConfig(), 0.1, compute.generator(0, "h"))
