"""How good, and how varied: tensors in [-1, 1] → float."""

from __future__ import annotations

import math

import numpy as np
import skimage
import torch
from jaxtyping import Float
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


def _patches(x: Image, side: int) -> Float[Tensor, "n d"]:
    columns = torch.nn.functional.unfold(x.float(), side)
    return columns.transpose(1, 2).reshape(-1, columns.shape[1])


def patch_swd(
    x: Image, y: Float[Tensor, "n 3 h w"], generator: torch.Generator, side: int = 7, projections: int = 128
) -> float:
    """Sliced Wasserstein distance between the 7 × 7 patches of x and of y, the mean over scales 1, 1/2, 1/4.

    A scale counts where two patches fit side by side: all three from 56 pixels, so smaller sizes do not compare.

    Patches are projected on random unit directions, sorted, and compared in L1 (Rabin et al. 2011; on patches,
    Karras et al. 2018, §5). 0 for equal images; the sizes must agree, the numbers of images need not.
    """
    require(x.shape[1:] == y.shape[1:], f"patch_swd: expected one size, got {tuple(x.shape)} and {tuple(y.shape)}")
    distances: list[float] = []
    while min(x.shape[-2:]) >= 2 * side and len(distances) < 3:
        a, b = _patches(x, side), _patches(y, side)
        directions = torch.randn(a.shape[1], projections, generator=generator).to(a)
        directions = directions / directions.norm(dim=0)
        quantiles = torch.linspace(0, 1, 256, dtype=a.dtype, device=a.device)
        a_sorted, b_sorted = (torch.quantile(p @ directions, quantiles, dim=0) for p in _thinned(a, b))
        distances.append(float((a_sorted - b_sorted).abs().mean()))
        x, y = (torch.nn.functional.avg_pool2d(v, 2) for v in (x, y))
    require(len(distances) > 0, f"patch_swd: expected sides of {2 * side} or more, got {tuple(x.shape[-2:])}")
    return float(np.mean(distances))


def _thinned(*clouds: Tensor) -> list[Tensor]:
    """Every n-th patch: quantiles need thousands of them, not millions."""
    return [cloud[:: max(1, len(cloud) // 16384)] for cloud in clouds]


def diversity(samples: Image, reference: Float[Tensor, "n 3 h w"]) -> float:
    """Pixelwise standard deviation over samples, relative to the reference's own (SinGAN, Shaham et al. 2019, §4)."""
    require(samples.shape[0] >= 2, f"diversity: expected two samples or more, got {samples.shape[0]}")
    grey, target = samples.float().mean(1), reference.float().mean(1)
    return float(grey.std(0).mean() / target.std())


def spectrum(x: Image) -> Float[Tensor, " k"]:
    """Radial mean of the power spectrum of the luminance, index = whole cycles per shorter side."""
    grey = x.double().mean(1)
    height, width = grey.shape[-2:]
    power = torch.fft.fft2(grey - grey.mean((-2, -1), keepdim=True), norm="ortho").abs() ** 2
    fy = torch.fft.fftfreq(height, dtype=torch.float64)[:, None]
    fx = torch.fft.fftfreq(width, dtype=torch.float64)[None]
    radius = ((fy**2 + fx**2).sqrt() * min(height, width)).round().long().flatten()
    count = min(height, width) // 2 + 1
    kept = radius < count
    total = torch.zeros(count, dtype=torch.float64)
    total.index_add_(0, radius[kept], power.mean(0).flatten()[kept].cpu())
    return total / torch.bincount(radius[kept], minlength=count)


def spectral_distance(x: Image, y: Float[Tensor, "n 3 h w"]) -> float:
    """Mean over frequencies of the difference between two `spectrum`s, in dB; 0 for equal images, sizes must agree."""
    require(x.shape[2:] == y.shape[2:], f"spectral_distance: expected one size, got {tuple(x.shape)}, {tuple(y.shape)}")
    # index 0 is the mean, which is taken off; the floor makes a flat image far, and not infinitely so
    a, b = (10 * spectrum(image)[1:].clamp(min=1e-12).log10() for image in (x, y))
    return float((a - b).abs().mean())
