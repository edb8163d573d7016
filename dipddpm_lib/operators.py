"""Linear degradations A with their adjoints and closed-form proximal maps, and the measurement y = A x + n."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import cache

import numpy as np
import scipy
import torch
from torch import Tensor

from .types import Image, InputError, LinearOperator, Measurement, check_generator, check_tensor, require


def _check_mask(mask: Tensor, name: str) -> Tensor:
    require(isinstance(mask, Tensor), f"{name}: expected the mask as a tensor, got a {type(mask).__name__}")
    require(mask.ndim == 2, f"{name}: expected a mask of shape (height, width), got {tuple(mask.shape)}")
    require(bool(mask.any()), f"{name}: expected at least one observed entry, got none")
    return mask.bool()


def _check_size(x: Tensor, size: tuple[int, ...], name: str) -> None:
    require(
        tuple(x.shape[-2:]) == tuple(size),
        f"{name}: expected an image of {size[0]} × {size[1]}, as the mask is, got {x.shape[-2]} × {x.shape[-1]}",
    )


class Identity(LinearOperator):
    """A x = x: denoising."""

    def A(self, x: Tensor) -> Tensor:
        return x

    def A_adjoint(self, y: Tensor) -> Tensor:
        return y

    def prox(self, x: Tensor, y: Tensor, rho: float) -> Tensor:
        return (y + rho * x) / (1 + rho)

    def image_size(self, y: Tensor) -> tuple[int, int]:
        return y.shape[-2], y.shape[-1]


class Inpainting(LinearOperator):
    """A x = m ⊙ x; mask (h, w) is True where a pixel is seen."""

    def __init__(self, mask: Tensor):
        self.support = _check_mask(mask, "Inpainting")

    def A(self, x: Tensor) -> Tensor:
        _check_size(x, self.support.shape, "Inpainting")
        return x * self.support.to(x.device)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self.A(y)

    def prox(self, x: Tensor, y: Tensor, rho: float) -> Tensor:
        return torch.where(self.support.to(x.device), (y + rho * x) / (1 + rho), x)

    def image_size(self, y: Tensor) -> tuple[int, int]:
        return y.shape[-2], y.shape[-1]


class Downsampling(LinearOperator):
    """Means over factor × factor blocks; A Aᵀ = I/factor², so `prox` corrects each block's mean."""

    def __init__(self, factor: int):
        require(
            isinstance(factor, int) and factor >= 2,
            f"Downsampling: expected a whole factor of 2 or more, got {factor!r}",
        )
        self.factor, self.norm_squared = factor, 1 / factor**2

    def A(self, x: Tensor) -> Tensor:
        require(
            x.shape[-2] % self.factor == 0 and x.shape[-1] % self.factor == 0,
            f"Downsampling: expected sides that {self.factor} divides, got {x.shape[-2]} × {x.shape[-1]}; "
            "choose another size",
        )
        return torch.nn.functional.avg_pool2d(x, self.factor)

    def A_adjoint(self, y: Tensor) -> Tensor:
        f = self.factor
        return y.repeat_interleave(f, -2).repeat_interleave(f, -1) / f**2

    def prox(self, x: Tensor, y: Tensor, rho: float) -> Tensor:
        return x + self.A_adjoint(y - self.A(x)) / (1 / self.factor**2 + rho)

    def image_size(self, y: Tensor) -> tuple[int, int]:
        return y.shape[-2] * self.factor, y.shape[-1] * self.factor


class Blur(LinearOperator):
    """Circular convolution with an odd-sided kernel (k, l); diagonal in Fourier space."""

    def __init__(self, kernel: Tensor):
        check_tensor("Blur: the kernel", kernel)
        require(
            kernel.ndim == 2 and kernel.shape[0] % 2 == 1 and kernel.shape[1] % 2 == 1,
            f"Blur: expected a kernel with two odd sides, got shape {tuple(kernel.shape)}",
        )
        self.kernel, self.norm_squared = kernel, float(kernel.abs().sum()) ** 2

    def _transfer(self, x: Tensor) -> Tensor:
        rows, columns = self.kernel.shape
        require(
            x.shape[-2] >= rows and x.shape[-1] >= columns,
            f"Blur: expected an image no smaller than the {rows} × {columns} kernel, got {x.shape[-2]} × {x.shape[-1]}",
        )
        padded = torch.zeros(x.shape[-2:], dtype=x.dtype, device=x.device)
        padded[:rows, :columns] = self.kernel.to(x)
        return torch.fft.rfft2(padded.roll((-(rows // 2), -(columns // 2)), (0, 1)))

    def _filter(self, x: Tensor, transfer: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(x) * transfer, s=x.shape[-2:])

    def A(self, x: Tensor) -> Tensor:
        return self._filter(x, self._transfer(x))

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self._filter(y, self._transfer(y).conj())

    def prox(self, x: Tensor, y: Tensor, rho: float) -> Tensor:
        h = self._transfer(x)
        return self._filter(self.A_adjoint(y) + rho * x, 1 / (h.abs() ** 2 + rho))

    def image_size(self, y: Tensor) -> tuple[int, int]:
        return y.shape[-2], y.shape[-1]


@cache
def _dct_matrix(n: int) -> Tensor:
    """The orthonormal DCT-II as a matrix, float64."""
    return torch.from_numpy(scipy.fft.dct(np.eye(n), axis=0, norm="ortho"))


class Compressive(LinearOperator):
    """A x = m ⊙ DCT(d ⊙ x): random signs d spread every pixel over all coefficients, of which m keeps some.

    signs: (h, w) of ±1; mask: (h, w), True where a coefficient is kept. A Aᵀ = I on the kept ones.
    """

    def __init__(self, signs: Tensor, mask: Tensor):
        self.support = _check_mask(mask, "Compressive")
        require(
            signs.shape == mask.shape and bool((signs.abs() == 1).all()),
            f"Compressive: expected signs of ±1 shaped like the mask {tuple(mask.shape)}, got {tuple(signs.shape)}",
        )
        self.signs = signs

    def _transform(self, x: Tensor) -> Tensor:
        _check_size(x, self.support.shape, "Compressive")
        rows, columns = (_dct_matrix(n).to(x) for n in x.shape[-2:])
        return rows @ (x * self.signs.to(x)) @ columns.T

    def _inverse(self, c: Tensor) -> Tensor:
        rows, columns = (_dct_matrix(n).to(c) for n in c.shape[-2:])
        return (rows.T @ c @ columns) * self.signs.to(c)

    def A(self, x: Tensor) -> Tensor:
        return self._transform(x) * self.support.to(x.device)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self._inverse(y * self.support.to(y.device))

    def prox(self, x: Tensor, y: Tensor, rho: float) -> Tensor:
        c = self._transform(x)
        return self._inverse(torch.where(self.support.to(x.device), (y + rho * c) / (1 + rho), c))

    def image_size(self, y: Tensor) -> tuple[int, int]:
        return y.shape[-2], y.shape[-1]


def _mirrored(mask: Tensor) -> Tensor:
    """m(−k)."""
    return mask.flip(0, 1).roll((1, 1), (0, 1))


class Fourier(LinearOperator):
    """A x = m ⊙ FFT(x), orthonormal, as (…, h, w, 2) real and imaginary parts; mask (h, w) True where kept (MRI-like).

    For real images Aᵀ A is diagonal in Fourier space, with the mean of m(k) and m(−k).
    """

    parts = 2

    def __init__(self, mask: Tensor):
        self.mask = _check_mask(mask, "Fourier")
        self.support = self.mask[..., None]

    def A(self, x: Tensor) -> Tensor:
        _check_size(x, self.mask.shape, "Fourier")
        return torch.view_as_real(torch.fft.fft2(x, norm="ortho") * self.mask.to(x.device))

    def A_adjoint(self, y: Tensor) -> Tensor:
        spectrum = torch.view_as_complex(y.contiguous()) * self.mask.to(y.device)
        return torch.fft.ifft2(spectrum, norm="ortho").real

    def prox(self, x: Tensor, y: Tensor, rho: float) -> Tensor:
        diagonal = self._diagonal.to(x)
        spectrum = torch.fft.fft2(x, norm="ortho")
        data = torch.fft.fft2(self.A_adjoint(y), norm="ortho")
        solved = (data + rho * spectrum) / (diagonal + rho)
        # where nothing is seen the answer is x: rounding in `data` over a small ρ would be anything
        return torch.fft.ifft2(torch.where(diagonal > 0, solved, spectrum), norm="ortho").real

    @property
    def _diagonal(self) -> Tensor:
        """Aᵀ A in Fourier space."""
        return (self.mask.double() + _mirrored(self.mask).double()) / 2

    def held_out(self, y: Tensor, share: float, generator: torch.Generator) -> Tensor:
        """With each entry its mirror image, which for a real image says the same."""
        held = super().held_out(y, share, generator)
        return held | (_mirrored(held[..., 0])[..., None] & (self.support.to(held.device) > 0))

    def image_size(self, y: Tensor) -> tuple[int, int]:
        return y.shape[-3], y.shape[-2]


def measure(operator: LinearOperator, x_true: Image, sigma_y: float, generator: torch.Generator) -> Measurement:
    """y = A x + n where A observes; n white, standard deviation sigma_y in units of [-1, 1]."""
    check_tensor("x_true", x_true)
    check_generator(generator)
    y = operator.A(x_true)
    noise = torch.randn(y.shape, generator=generator).to(y) * operator.support.to(y.device)
    return Measurement(y + sigma_y * noise, operator, sigma_y)


def pseudo_inverse(measurement: Measurement) -> Image:
    """The image of least norm that agrees with y, all but: prox from 0 at ρ = ‖A‖²/10⁴.

    Eigenvalues of A Aᵀ near ‖A‖² are inverted to a few parts in 10⁴; a blur's small ones stay damped, and noise there.
    """
    y = measurement.y
    nothing = y.new_zeros(y.shape[0], 3, *measurement.image_size)
    return measurement.operator.prox(nothing, y, 1e-4 * measurement.operator.norm_squared)


TASKS: dict[str, str] = {
    "denoise_25": "Gaussian noise, σ = 25/255",
    "denoise_50": "Gaussian noise, σ = 50/255",
    "inpaint_50": "50 % of the pixels missing",
    "inpaint_90": "90 % of the pixels missing",
    "holes": "large square holes",
    "super_x4": "super-resolution ×4",
    "deblur": "Gaussian blur",
    "compressive_10": "10 % random-sign DCT coefficients",
    "fourier_x4": "a quarter of the Fourier rows",
}
"""The nine tasks of protocol B."""


@dataclass(frozen=True)
class Strength:
    """What the strength of a kind of degradation counts, within which bounds, and what is usual."""

    counts: str
    low: int | float
    high: int | float
    usual: int | float
    whole: bool = False

    def check(self, kind: str, value: int | float) -> None:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        require(
            number and self.low <= value <= self.high and (not self.whole or float(value).is_integer()),
            f"strength of {kind}: expected a {'whole ' if self.whole else ''}number from {self.low:g} to {self.high:g} "
            f"({self.counts}), got {value!r}",
        )


DEGRADATIONS: dict[str, Strength] = {
    "denoise": Strength("σ of the noise in grey values, 255 of them", 1, 255, 50),
    "inpaint": Strength("% of the pixels missing", 1, 99, 50),
    "holes": Strength("square holes", 1, 20, 6, whole=True),
    "super": Strength("times smaller", 2, 16, 4, whole=True),
    "deblur": Strength("σ of the blur in pixels, for a side of 128", 0.1, 10, 1.6),
    "compressive": Strength("% of the DCT coefficients kept", 1, 100, 10),
    "fourier": Strength("one Fourier row kept of so many", 1, 16, 4, whole=True),
}
"""The kinds of degradation; `TASKS` are nine points of them."""

_KINDS = {
    "denoise_25": ("denoise", 25.0),
    "denoise_50": ("denoise", 50.0),
    "inpaint_50": ("inpaint", 50.0),
    "inpaint_90": ("inpaint", 90.0),
    "holes": ("holes", 6.0),
    "super_x4": ("super", 4.0),
    "deblur": ("deblur", 1.6),
    "compressive_10": ("compressive", 10.0),
    "fourier_x4": ("fourier", 4.0),
}


def task(name: str, height: int, width: int, generator: torch.Generator) -> tuple[LinearOperator, float]:
    """The operator and the noise sigma_y of one of `TASKS`, or of KIND_STRENGTH by `DEGRADATIONS`, as "inpaint_70".

    What is random in it comes from `generator`.
    """
    kind, _, number = name.rpartition("_")
    if name in _KINDS:
        known: tuple[str, float] | None = _KINDS[name]
    else:
        number = number.removeprefix("x") if kind in ("super", "fourier") else number  # as in super_x4
        known = (kind, float(number)) if kind in DEGRADATIONS and re.fullmatch(r"\d+(\.\d+)?", number) else None
    if known is None:
        raise InputError(
            f"task: expected one of {', '.join(TASKS)}, or a kind and its strength as inpaint_70 "
            f"({', '.join(DEGRADATIONS)}), got {name!r}"
        )
    return degradation(*known, height, width, generator)


def degradation(
    kind: str, strength: int | float, height: int, width: int, generator: torch.Generator
) -> tuple[LinearOperator, float]:
    """The operator and the noise sigma_y of one of `DEGRADATIONS` at any strength; `task` fixes nine of them."""
    require(kind in DEGRADATIONS, f"task: expected one of {', '.join(DEGRADATIONS)}, got {kind!r}")
    DEGRADATIONS[kind].check(kind, strength)
    size = (height, width)
    faint = 2 * 2 / 255  # a standard deviation of 2 grey values, as a good sensor has
    if kind == "denoise":
        return Identity(), 2 * strength / 255
    if kind == "inpaint":
        return Inpainting(torch.rand(size, generator=generator) >= strength / 100), 0.0
    if kind == "holes":
        return Inpainting(_holes(size, int(strength), generator)), 0.0
    if kind == "super":
        return Downsampling(int(strength)), 0.0
    if kind == "deblur":
        # wide enough to lose the fine detail, at every size the same share of the frame
        return Blur(_gaussian_kernel(strength * min(size) / 128)), faint
    if kind == "compressive":
        signs = torch.where(torch.rand(size, generator=generator) < 0.5, -1.0, 1.0)
        return Compressive(signs, torch.rand(size, generator=generator) < strength / 100), 0.0
    return Fourier(_fourier_rows(size, int(strength), generator)), 0.0


def _gaussian_kernel(sigma: float) -> Tensor:
    radius = max(1, math.ceil(3 * sigma))
    g = torch.exp(-(torch.arange(-radius, radius + 1, dtype=torch.float64) ** 2) / (2 * sigma**2))
    kernel = torch.outer(g, g)
    return kernel / kernel.sum()


def _holes(size: tuple[int, int], count: int, generator: torch.Generator) -> Tensor:
    """Squares with sides of an eighth to a fifth of the frame are missing."""
    mask = torch.ones(size, dtype=torch.bool)
    short = min(size)
    for _ in range(count):
        u, v, w = torch.rand(3, generator=generator).tolist()
        side = round(short * (1 / 8 + u * (1 / 5 - 1 / 8)))
        top, left = int(v * (size[0] - side)), int(w * (size[1] - side))
        mask[top : top + side, left : left + side] = False
    return mask


def _fourier_rows(size: tuple[int, int], factor: int, generator: torch.Generator) -> Tensor:
    """One row of `factor`: the lowest quarter of those kept at the centre, the rest at random (Lustig et al. 2007)."""
    height = size[0]
    kept = max(1, height // factor)
    low = max(1, kept // 4)
    frequency = np.abs(np.fft.fftfreq(height))
    order = np.argsort(frequency, kind="stable")
    centre, rest = order[:low], order[low:]
    chosen = torch.randperm(len(rest), generator=generator)[: kept - low].numpy()
    mask = torch.zeros(size, dtype=torch.bool)
    mask[torch.from_numpy(np.concatenate([centre, rest[chosen]]))] = True
    return mask
