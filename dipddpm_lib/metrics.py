"""How near an image is to the target: tensors in [-1, 1] → float."""

from __future__ import annotations

import math

import numpy as np
import skimage
from torch import Tensor

from .types import Image, require

PEAK = 2.0  # the range of [-1, 1]


def _same_shape(x: Tensor, y: Tensor) -> None:
    require(x.shape == y.shape, f"metrics: expected two images of one shape, got {tuple(x.shape)}, {tuple(y.shape)}")
    kinds = f"{x.dtype} and {y.dtype}"
    require(x.is_floating_point() and y.is_floating_point(), f"metrics: expected intensities in [-1, 1], got {kinds}")


def psnr(x: Image, y: Image) -> float:
    """10 log₁₀(2²/MSE) in dB; infinite for equal images. The same number as on [0, 1] with peak 1."""
    _same_shape(x, y)
    mse = float(((x.double().cpu() - y.double().cpu()) ** 2).mean())
    return math.inf if mse == 0 else 10 * math.log10(PEAK**2 / mse)


def rmse_of(psnr: float) -> float:
    """The root mean squared error in units of [-1, 1] that a PSNR stands for."""
    return PEAK * 10 ** (-psnr / 20)


def ssim(x: Image, y: Image) -> float:
    """Mean structural similarity with the window of Wang et al. 2004 (Gaussian, σ = 1.5), on [0, 1] as is usual.

    On [-1, 1] the same formula with data range 2 gives other numbers: its luminance term is no function of differences.
    """
    _same_shape(x, y)
    require(x.ndim == 4, f"ssim: expected images (b, 3, h, w), got shape {tuple(x.shape)}")
    values = [
        skimage.metrics.structural_similarity(
            (a.double().cpu().numpy() + 1) / 2,
            (b.double().cpu().numpy() + 1) / 2,
            channel_axis=0,
            data_range=1.0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for a, b in zip(x, y, strict=True)
    ]
    return float(np.mean(values))
