"""How alike collections of images are, and how varied one is, whatever stands where in each image."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from .types import Image, require

Several = Float[Tensor, "n 3 h w"]  # of the same size as the others, but of another number
SIDE, PROJECTIONS, SCALES = 7, 128, 3  # the side is that of Karras et al. 2018, §5


def _patches(x: Image) -> Float[Tensor, "n d"]:
    columns = F.unfold(x.float(), SIDE)
    return columns.transpose(1, 2).reshape(-1, columns.shape[1])


def _sliced(x: Image, y: Several, generator: torch.Generator) -> float:
    """Sliced Wasserstein distance between the patches of one scale: projected, sorted, compared in L1."""
    # every n-th patch: quantiles need thousands of them, not millions
    a, b = (cloud[:: max(1, len(cloud) // 16384)] for cloud in (_patches(x), _patches(y)))
    directions = torch.randn(a.shape[1], PROJECTIONS, generator=generator).to(a)
    directions = directions / directions.norm(dim=0)
    quantiles = torch.linspace(0, 1, 256, dtype=a.dtype, device=a.device)
    a_sorted, b_sorted = (torch.quantile(p @ directions, quantiles, dim=0) for p in (a, b))
    return float((a_sorted - b_sorted).abs().mean())


def _scales(x: Image, y: Several, name: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Both images at scales 1, 1/2, 1/4, where two patches fit side by side: all three from 56 pixels."""
    require(x.shape[1:] == y.shape[1:], f"{name}: expected one size, got {tuple(x.shape)} and {tuple(y.shape)}")
    require(min(x.shape[-2:]) >= 2 * SIDE, f"{name}: expected sides of {2 * SIDE} or more, got {tuple(x.shape[-2:])}")
    for _ in range(SCALES):
        if min(x.shape[-2:]) < 2 * SIDE:
            return
        yield x, y
        x, y = (F.avg_pool2d(v, 2) for v in (x, y))


def patch_swd(x: Image, y: Several, generator: torch.Generator) -> float:
    """Sliced Wasserstein distance between the 7 × 7 patches of x and of y, the mean over scales 1, 1/2, 1/4.

    A scale counts where two patches fit side by side: all three from 56 pixels, so smaller sizes do not compare.

    Patches are projected on random unit directions, sorted, and compared in L1 (Rabin et al. 2011), as they are: what
    tells them apart is colour and contrast before structure, which `detail_swd` is for. 0 for equal images; the sizes
    must agree, the numbers of images need not.
    """
    return float(np.mean([_sliced(a, b, generator) for a, b in _scales(x, y, "patch_swd")]))


def detail_swd(x: Image, y: Several, generator: torch.Generator) -> float:
    """The same for what each scale adds to the one below it, in units of its standard deviation in y.

    After Karras et al. 2018, §5, who compare the levels of a Laplacian pyramid. Theirs are brought to mean 0 and
    deviation 1 each by itself, so that a lack of contrast goes unseen; here both are measured by y's deviation, and the
    coarsest level, which holds the colours, is left out. Edges and textures remain: their detail has longer tails than
    that of a Gaussian image of the same spectrum.
    """
    distances: list[float] = []
    for a, b in _scales(x, y, "detail_swd"):
        of_x, of_y = _detail(a), _detail(b)
        deviation = of_y.std()
        require(bool(deviation > 0), "detail_swd: y is flat, and has no detail to compare with; give a photograph")
        distances.append(_sliced(of_x / deviation, of_y / deviation, generator))
    return float(np.mean(distances))


def _detail(x: Image) -> Image:
    """x without what is left of it at half the size."""
    x = x[..., : x.shape[-2] // 2 * 2, : x.shape[-1] // 2 * 2].float()  # an odd row would shift what is taken off
    return x - F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear")


def phases_at_random(x: Image, noise: Several) -> Float[Tensor, "_ 3 h w"]:
    """Images with the spectrum of x, its phases shifted by those of white noise, so that no edge is left.

    All channels are shifted alike, so that their colours stay related; the mean stays. x and noise broadcast.
    """
    phase = torch.fft.fft2(noise[:, :1])
    phase[..., 0, 0] = 1
    return torch.fft.ifft2(torch.fft.fft2(x) * phase / phase.abs()).real


def diversity(samples: Image, reference: Several) -> float:
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


def spectral_distance(x: Image, y: Several) -> float:
    """Mean over frequencies of the difference between two `spectrum`s, in dB; 0 for equal images, sizes must agree."""
    require(x.shape[2:] == y.shape[2:], f"spectral_distance: expected one size, got {tuple(x.shape)}, {tuple(y.shape)}")
    # index 0 is the mean, which is taken off; the floor makes a flat image far, and not infinitely so
    a, b = (10 * spectrum(image)[1:].clamp(min=1e-12).log10() for image in (x, y))
    return float((a - b).abs().mean())
