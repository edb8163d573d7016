"""The values that travel between the layers: images, steps, measurements, results."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Protocol, Union, get_args, get_origin, get_type_hints, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

Image = Float[Tensor, "b 3 h w"]  # intensities in [-1, 1]


class InputError(ValueError):
    """Bad input, said in one line: what was expected, what came, what to do."""


def require(condition: bool, message: str) -> None:
    """Raise `InputError(message)` unless `condition` holds."""
    if not condition:
        raise InputError(message)


def check_type(name: str, value: object, kind: Any) -> None:
    """Refuse a value that is not of its annotated type; no bool is a number, and every number is finite."""
    shown = " ".join(repr(value).split())[:80]
    if type(value).__module__ == "numpy":  # as loops over np.arange make them; JSON, which records are, knows none
        shown += ", NumPy's own; give Python's (.item() or .tolist())"
    require(_fits(value, kind), f"{name}: expected {_words(kind)}, got {shown}")


def check_fields(config: Any) -> None:
    """The same for every field of a dataclass: annotations alone hold nobody from passing "32" or NaN."""
    for name, kind in _annotations(type(config)).items():  # type: ignore[arg-type]  # a class is hashable
        check_type(name, getattr(config, name), kind)


@cache
def _annotations(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {each.name: hints[each.name] for each in fields(kind)}


def _fits(value: Any, kind: Any) -> bool:
    if kind is float:
        # a whole number that no float can hold is infinite
        return (type(value) is int and abs(value) < 2**1000) or (isinstance(value, float) and math.isfinite(value))
    if kind is int:
        return type(value) is int
    if get_origin(kind) in (Union, UnionType):
        return any(_fits(value, each) for each in get_args(kind))
    if get_origin(kind) is Literal:
        return any(type(value) is type(each) and value == each for each in get_args(kind))
    if get_origin(kind) is tuple:  # of any length, of one type
        return isinstance(value, tuple) and all(_fits(each, get_args(kind)[0]) for each in value)
    return isinstance(value, kind)


def _words(kind: Any) -> str:
    """A type as a message calls it."""
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_words(each) for each in get_args(kind))
    if get_origin(kind) is Literal:
        *others, last = (str(each) for each in get_args(kind))
        return f"{', '.join(others)} or {last}" if others else last
    if get_origin(kind) is tuple:
        return f"a tuple, each of its items {_words(get_args(kind)[0])}"
    plain = {int: "a whole number", float: "a finite number", bool: "True or False", str: "text", NoneType: "None"}
    return plain.get(kind) or f"a {kind.__name__}"


def check_tensor(name: str, value: object) -> None:
    """Refuse what is no tensor of finite floating-point numbers."""
    floating = isinstance(value, Tensor) and value.is_floating_point()
    came = f"a tensor of {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
    require(floating, f"{name}: expected a tensor of floating-point numbers in units of [-1, 1], got {came}")
    assert isinstance(value, Tensor)
    bad = value.numel() - int(value.isfinite().sum())
    require(bad == 0, f"{name}: expected finite numbers, got {bad} that are not; where nothing is seen put 0")


def check_image(name: str, value: object) -> None:
    """Refuse what is not one image (1, 3, h, w) of finite floating-point numbers."""
    check_tensor(name, value)
    assert isinstance(value, Tensor)
    require(
        value.ndim == 4 and value.shape[:2] == (1, 3),
        f"{name}: expected one image (1, 3, h, w), as images.load gives, got shape {tuple(value.shape)}",
    )


def check_generator(generator: object) -> None:
    """Refuse a seed in a generator's place."""
    require(
        isinstance(generator, torch.Generator),
        f"generator: expected a torch.Generator, as compute.generator(seed, name) makes, got {generator!r}",
    )


@dataclass(frozen=True)
class Step:
    """One step of a method.

    index: how many steps were taken before this one (0, 1, 2, …)
    t:     position on the diffusion's ruler, 0 (clean) … T (noise); DIP lives at t = 0
    x_t:   the state at t
    x0_hat: the method's current estimate of the clean image
    """

    index: int
    t: int
    x_t: Image
    x0_hat: Image


class LinearOperator(ABC):
    """A linear degradation A of images, with everything that solvers ask of it.

    x is (b, 3, h, w), and y (b, c, rows, columns) or (b, c, rows, columns, k): places of rows and columns are held out.
    `support` is 1 where an entry of y is observed and 0 elsewhere; it broadcasts to y, and is 1 everywhere unless an
    operator says otherwise.
    """

    support: Tensor = torch.ones(1)
    norm_squared: float = 1.0  # ‖A‖²: the largest eigenvalue of AᵀA
    parts: int = 1  # numbers of y that share the variance of one pixel: two where its entries are complex

    @abstractmethod
    def A(self, x: Tensor) -> Tensor:
        """y = A x."""

    @abstractmethod
    def A_adjoint(self, y: Tensor) -> Tensor:
        """Aᵀ y, for the real inner product."""

    @abstractmethod
    def prox(self, x: Tensor, y: Tensor, rho: float) -> Tensor:
        """argmin_z ½‖Az − y‖² + ½ρ‖z − x‖², in closed form; rho > 0."""

    def held_out(self, y: Tensor, share: float, generator: torch.Generator) -> Tensor:
        """Which measured entries to keep from a fit: True for about `share` of the observed ones, at least one.

        Entries of all channels go together, where any of them is observed; the mask broadcasts to y.
        """
        observed = (self.support.to(y.device).expand(y.shape)[0] > 0).any(0)
        flat = observed.reshape(*y.shape[2:4], -1)[..., 0].flatten().nonzero()[:, 0].cpu()
        count = max(1, round(share * len(flat)))
        mask = torch.zeros(y.shape[2] * y.shape[3], dtype=torch.bool)
        mask[flat[torch.randperm(len(flat), generator=generator)[:count]]] = True
        return mask.reshape(*y.shape[2:4], *(1,) * (y.ndim - 4)).to(y.device)

    @abstractmethod
    def image_size(self, y: Tensor) -> tuple[int, int]:
        """Height and width of the images that give measurements shaped like y."""


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    try:
        return torch.broadcast_shapes(shape, to) == to
    except RuntimeError:
        return False


@dataclass(frozen=True)
class Measurement:
    """All that a solver may see of an image: y = A x + n, with n white of standard deviation sigma_y."""

    y: Tensor
    operator: LinearOperator
    sigma_y: float

    def __post_init__(self) -> None:
        require(
            isinstance(self.sigma_y, int | float) and 0 <= self.sigma_y < math.inf,
            f"sigma_y is a standard deviation in units of [-1, 1]: expected a number, 0 or more, got {self.sigma_y!r}",
        )
        require(
            isinstance(self.operator, LinearOperator),
            f"operator: expected a LinearOperator, as those of operators, got a {type(self.operator).__name__}",
        )
        check_tensor("y", self.y)
        require(
            self.y.ndim in (4, 5),
            f"y: expected shape (b, c, rows, columns) or (b, c, rows, columns, k), got {tuple(self.y.shape)}",
        )
        support = tuple(self.operator.support.shape)
        require(
            _broadcasts(support, tuple(self.y.shape)),
            f"y: expected a shape that the operator's mask {support} fits, got {tuple(self.y.shape)}",
        )

    @property
    def image_size(self) -> tuple[int, int]:
        return self.operator.image_size(self.y)

    def check_single(self, what: str) -> None:
        """Refuse a batch where a method restores one image at a time, and what is no measurement of a colour image."""
        count = self.y.shape[0]
        require(count == 1, f"{what}: expected one image, got {count}; restore them one after the other")
        shown = self.operator.A(self.y.new_zeros(1, 3, *self.image_size)).shape
        require(
            shown == self.y.shape,
            f"y: expected {tuple(shown)}, as the operator makes of an image (1, 3, h, w), got {tuple(self.y.shape)}; "
            "of a grey image repeat the channel three times",
        )

    def rmse(self, mse: float, count: int) -> float:
        """The RMSE behind a mean square error on `count` numbers of y, of what A shows: their noise taken off.

        It is a pixel's where A's rows are orthonormal; parts of one entry are added up first.

        It is no less than its own standard error, since a mean of `count` squares varies by √(2/count).
        """
        least = mse * math.sqrt(2 / count) if self.sigma_y > 0 else 0.0
        return math.sqrt(self.operator.parts * max(mse - self.sigma_y**2, least))


@runtime_checkable
class Denoiser(Protocol):
    """E[x_0 | x_t]: x_t = √ᾱ x_0 + √(1−ᾱ) ε is given with its noise level σ = √((1−ᾱ)/ᾱ)."""

    def __call__(self, x_t: Image, sigma: float | Tensor) -> Image: ...


@dataclass(frozen=True)
class Result:
    """What one cell of an experiment gave; every number of the report comes from one of these.

    config:  the cell that was run, as plain JSON values
    digest:  SHA-256 of the target's decoded pixels
    trace:   rows (index, seconds, psnr, ssim) along the run
    seconds: by stage; their sum is what the clock says from the measurement to the image
    evaluations: how often the denoising network was called
    memory:  peak bytes above what the process held before the run
    frames:  a few x0_hat along the run, uint8, for films
    """

    config: dict[str, Any]
    seed: int
    digest: str
    x0_hat: Image
    trace: list[tuple[int, float, float, float]]
    seconds: dict[str, float]
    evaluations: int
    memory: int
    machine: dict[str, Any]
    versions: dict[str, str]
    extra: dict[str, float] = field(default_factory=dict)
    frames: Tensor = field(default_factory=lambda: torch.zeros(0, 3, 1, 1, dtype=torch.uint8))

    @property
    def psnr(self) -> float:
        """Of the result itself, in dB (the last row of the trace)."""
        return self.trace[-1][2]

    @property
    def ssim(self) -> float:
        return self.trace[-1][3]

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())


@dataclass(frozen=True)
class Interval:
    """A mean with its bootstrap interval over n values."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return format(self, ".2f")

    def __format__(self, spec: str) -> str:
        """The mean and its bounds, "1.20 [0.90, 1.50]"; the mean alone where there are no bounds."""
        unsigned_zero = re.sub("^(.?[<>=^])?[+ -]?", r"\g<0>z", spec)  # −0.00 is no number (PEP 682)
        parts = [format(value, unsigned_zero).replace("-", "−") for value in (self.mean, self.low, self.high)]
        return parts[0] if math.isnan(self.low) else f"{parts[0]} [{parts[1]}, {parts[2]}]"
