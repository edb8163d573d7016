"""The measures against scikit-image, against closed forms, and at their limits."""

from __future__ import annotations

import math
from collections.abc import Callable

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch import Tensor

from dipddpm_lib import images, metrics
from dipddpm_lib.types import InputError


def noise(seed: int = 0, *shape: int) -> Tensor:
    return torch.randn(*(shape or (1, 3, 32, 32)), generator=torch.Generator().manual_seed(seed))


def pair(seed: int = 0, spread: float = 0.3) -> tuple[Tensor, Tensor]:
    """A picture in [-1, 1] and a noisy copy of it."""
    x = images.load("coffee", 32)
    return x, (x + spread * noise(seed)).clamp(-1, 1)


def array(x: Tensor) -> np.ndarray:
    return x[0].permute(1, 2, 0).double().numpy()


# ---- PSNR and SSIM

WANG = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": -1}


@given(st.integers(0, 1000), st.floats(0.001, 1.5))
def test_psnr_and_ssim_are_scikit_images(seed: int, spread: float) -> None:
    x, y = pair(seed, spread)
    a, b = array(x), array(y)
    # the same float64 sums in another order
    assert metrics.psnr(x, y) == pytest.approx(peak_signal_noise_ratio(a, b, data_range=2), abs=1e-6)
    # PSNR is the same on [0, 1] with peak 1: the scale and the offset drop out
    a, b = (a + 1) / 2, (b + 1) / 2
    assert metrics.psnr(x, y) == pytest.approx(peak_signal_noise_ratio(a, b, data_range=1), abs=1e-6)
    assert metrics.ssim(x, y) == pytest.approx(structural_similarity(a, b, data_range=1, **WANG), abs=1e-6)


def test_ssim_drops_the_scale_but_not_the_offset() -> None:
    """Its luminance term compares local means by their ratio, so a number holds for [0, 1], the usual range, alone."""
    x, y = pair()
    a, b = array(x), array(y)
    on = structural_similarity
    assert on(a + 1, b + 1, data_range=2, **WANG) == pytest.approx(metrics.ssim(x, y), abs=1e-6)
    assert abs(on(a, b, data_range=2, **WANG) - metrics.ssim(x, y)) > 0.005


def test_other_data_ranges_give_other_numbers() -> None:
    x, y = pair()
    a, b = array(x), array(y)
    octave = 20 * math.log10(2)
    assert peak_signal_noise_ratio(a, b, data_range=1) == pytest.approx(metrics.psnr(x, y) - octave, abs=1e-6)
    assert peak_signal_noise_ratio(a, b, data_range=4) == pytest.approx(metrics.psnr(x, y) + octave, abs=1e-6)
    # the constants that steady SSIM grow with the range: a smaller one is stricter, 255 sees nothing
    a, b = (a + 1) / 2, (b + 1) / 2
    assert structural_similarity(a, b, data_range=0.5, **WANG) < metrics.ssim(x, y) - 0.003
    assert structural_similarity(a, b, data_range=255, **WANG) > 0.9 > metrics.ssim(x, y)


def test_equal_images_score_the_limit() -> None:
    x, y = pair()
    assert metrics.psnr(x, x) == math.inf
    assert metrics.ssim(x, x) == pytest.approx(1, abs=1e-12)
    assert metrics.ssim(x, y) < 1
    assert metrics.psnr(x, y) == metrics.psnr(y, x)


@given(st.floats(1e-4, 1.9))
def test_a_constant_error_has_its_psnr_in_closed_form(c: float) -> None:
    x = torch.zeros(1, 3, 16, 16, dtype=torch.float64)
    assert metrics.psnr(x, x + c) == pytest.approx(20 * math.log10(2 / c), abs=1e-9)


@given(st.floats(-20, 100))
def test_rmse_of_inverts_psnr(psnr: float) -> None:
    rmse = metrics.rmse_of(psnr)
    assert 20 * math.log10(metrics.PEAK / rmse) == pytest.approx(psnr, abs=1e-9)
    x = torch.zeros(1, 3, 16, 16, dtype=torch.float64)
    assert metrics.psnr(x, x + rmse) == pytest.approx(psnr, abs=1e-9)


def test_rmse_of_is_the_rmse_of_images() -> None:
    x, y = pair()
    assert metrics.rmse_of(metrics.psnr(x, y)) == pytest.approx(((x - y).double() ** 2).mean().sqrt().item(), rel=1e-6)
    assert metrics.rmse_of(math.inf) == 0


def test_batches_pool_their_errors_and_average_their_ssim() -> None:
    (x, y), (_, z) = pair(0, 0.1), pair(1, 0.5)
    twice, both = torch.cat([x, x]), torch.cat([y, z])
    mse = [10 ** (-metrics.psnr(x, v) / 10) for v in (y, z)]
    assert metrics.psnr(twice, both) == pytest.approx(-10 * math.log10(sum(mse) / 2), abs=1e-9)
    assert metrics.ssim(twice, both) == pytest.approx((metrics.ssim(x, y) + metrics.ssim(x, z)) / 2, abs=1e-12)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("shape", [(1, 3, 32, 33), (2, 3, 32, 32), (1, 1, 32, 32)])
@pytest.mark.parametrize("measure", [metrics.psnr, metrics.ssim])
def test_images_of_other_shapes_are_not_compared(
    measure: Callable[[Tensor, Tensor], float], shape: tuple[int, ...]
) -> None:
    with pytest.raises(InputError, match="one shape"):
        measure(noise(), torch.zeros(shape))
