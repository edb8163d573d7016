"""The shipped denoisers: what each was trained on, and the refusal of a target that it has seen."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
import scipy
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from . import compute, images
from .networks import DenoisingUNet, build
from .types import Image, InputError, check_image, require

Fold = Literal[1, 2]

EVALUATION = ("astronaut", "chelsea", "coffee", "rocket")
HELD_OUT: dict[int, tuple[str, ...]] = {1: ("astronaut", "coffee"), 2: ("chelsea", "rocket")}
"""Each fold's prior is trained without these and scored on them."""

THUMB = 64
LARGEST_BYTES = 2**28  # of a weights file; those shipped have a few MB
SEEN = 0.9
"""Similarity from which a target counts as seen. Different photographs stay under 0.9, copies above 0.91 (tests)."""
CLOSE = 0.75  # similarity at half the size from which the whole size is looked at
LEAST_WINDOW = 0.55  # of the largest that fits
FEW, SMALL = 1000, 0.04  # a window of fewer pixels resembles something more often: taken off its similarity


def training_names(fold: Fold) -> tuple[str, ...]:
    """The photographs that this fold's prior is trained on."""
    require(fold in HELD_OUT, f"fold: expected 1 or 2, got {fold!r}")
    return tuple(name for name in images.photographs() if name not in HELD_OUT[fold])


SIDES = (80, 112, 160, 256)
"""Shorter sides in pixels at which the priors see a photograph."""
LARGEST_SIDE = SIDES[-1]


def training_images(fold: Fold, generator: torch.Generator, more: Sequence[Path] = ()) -> list[Image]:
    """Every training photograph at several scales, and dead leaves coloured from them, one to each fourth photograph.

    The scales bring whole scenes as well as textures into a 64-pixel crop.

    more: further photographs that both folds train on
    """
    sources = _sources(fold, more).values()
    with ThreadPoolExecutor(compute.available_cores()) as pool:
        out = [image for scales in pool.map(at_scales, sources) for image in scales]
    return out + [dead_leaves(128, out, generator) for _ in range(len(sources) // 4)]


def _sources(fold: Fold, more: Sequence[Path]) -> dict[str, str | Path]:
    """All that a fold's prior is trained on, by the name under which its file will know it."""
    sources: dict[str, str | Path] = {name: name for name in training_names(fold)}
    for path in more:
        require(
            path.name not in sources,
            f"more: expected files of different names, none a bundled photograph's, got {path.name!r} twice; rename it",
        )
        sources[path.name] = path
    return sources


def at_scales(source: str | Path) -> list[Image]:
    """A photograph at each of `SIDES` that it has the pixels for."""
    photograph = images.load(source)
    height, width = photograph.shape[-2:]
    scales = [side / min(height, width) for side in SIDES]
    return [images.resize(photograph, (round(height * scale), round(width * scale))) for scale in scales if scale <= 1]


def dead_leaves(size: int, palette: Sequence[Tensor], generator: torch.Generator) -> Image:
    """Random discs that hide one another, radii with density ∝ r⁻³, colours from photographs (Lee et al. 2001)."""
    rows, columns = np.ogrid[:size, :size]
    source = palette[int(torch.randint(len(palette), (), generator=generator))].flatten(2)[0].numpy()
    image = np.empty((3, size, size), np.float32)
    bare = np.ones((size, size), bool)  # front to back: a leaf paints only what is still bare
    while bare.any():
        for u, cx, cy, pick in torch.rand(100, 4, generator=generator).tolist():
            radius = (size / 2) / (1 + u * ((size / 2 / 1.5) ** 2 - 1)) ** 0.5
            y, x = (slice(max(0, math.ceil(c * size - radius)), math.floor(c * size + radius) + 1) for c in (cy, cx))
            leaf = (rows[y] - cy * size) ** 2 + (columns[:, x] - cx * size) ** 2 <= radius**2
            leaf &= bare[y, x]
            image[:, y, x][:, leaf] = source[:, int(pick * source.shape[1])][:, None]
            bare[y, x] &= ~leaf
    return torch.from_numpy(image)[None]


def save(
    path: Path,
    denoiser: DenoisingUNet,
    fold: Fold,
    training: dict[str, Any],
    seed: int,
    seconds: float,
    before: dict[str, Any] | None = None,
    more: Sequence[Path] = (),
) -> None:
    """Half-precision weights, thumbnails of all that was trained on, and the record; `training` is its TrainConfig.

    before: the record of the weights that this training went on from
    more:   further photographs that it was trained on, known by their files' names
    """
    tensors = {f"weights.{k}": v.detach().cpu().half().contiguous() for k, v in denoiser.state_dict().items()}
    digests = {}
    for name, source in _sources(fold, more).items():
        photograph = images.load(source)
        digests[name] = images.digest(photograph)
        tensors[f"thumb.{name}"] = torch.from_numpy((_thumb(photograph) * 255).round().astype(np.uint8))
    record = {
        "kind": "bundled",
        "fold": fold,
        "channels": denoiser.channels,
        "training": training,
        "seed": seed,
        "seconds": seconds + (before["seconds"] if before else 0),  # of all trainings together
        "before": before,
        "images": digests,
        "machine": compute.machine(),
        "versions": compute.versions(),
    }
    save_file(tensors, str(path), metadata={"record": json.dumps(record, sort_keys=True)})


def record(fold: Fold) -> dict[str, Any]:
    """What the weights file says of its own training."""
    found = _read(_weights(fold))[0]
    require(
        isinstance(found.get("seconds"), int | float),
        f"prior: {_weights(fold)} does not say how it was trained; install it anew",
    )
    return found


def weights_digest(fold: Fold) -> str:
    """SHA-256 of the weights file: the prior's name in a stored result."""
    return _digest(_weights(fold))


def _check_file(path: Path) -> None:
    """Before a byte of it is read."""
    require(
        path.is_file() and path.stat().st_size <= LARGEST_BYTES,
        f"prior: {path} is not a weights file of this library (expected a file of at most {LARGEST_BYTES:,} bytes); "
        "install it anew",
    )


@cache
def _digest(path: Path) -> str:
    _check_file(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def weights_path(fold: Fold) -> Path:
    return Path(str(resources.files("dipddpm_lib") / "weights" / f"bundled_fold{fold}.safetensors"))


def _weights(fold: Fold) -> Path:
    require(fold in HELD_OUT, f"fold: expected 1 or 2, got {fold!r}")
    return weights_path(fold)


@cache
def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    _check_file(path)
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            record = json.loads(file.metadata()["record"])
        if not isinstance(record, dict):
            raise TypeError("it says nothing of its training")
        return record, tensors
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"prior: {path} is not a weights file of this library ({error}); install it anew") from error


def _thumb(image: Image, side: int = THUMB) -> np.ndarray:
    """Luminance in [0, 1], longer side `side` pixels."""
    grey = (image[0].float().cpu().numpy() + 1) / 2
    grey = np.tensordot([0.2126, 0.7152, 0.0722], grey, axes=1)
    scale = side / max(grey.shape)
    return images.resize_array(grey, (max(1, round(grey.shape[0] * scale)), max(1, round(grey.shape[1] * scale))))


BORDER = 2  # pixels in which the filters of `_bands` see beyond a cut
SHORTEST = 20  # a side of the smallest window, in a thumbnail's pixels: fewer resemble anything somewhere


def _bands(grey: np.ndarray) -> np.ndarray:
    """Smoothed luminance, and its detail without slow gradients; (2, h − 2·BORDER, w − 2·BORDER)."""
    smooth = scipy.ndimage.gaussian_filter(grey, 1.0)
    bands = np.stack([smooth, smooth - scipy.ndimage.gaussian_filter(grey, 3.0)])
    return bands[:, BORDER:-BORDER, BORDER:-BORDER]


@dataclass(frozen=True)
class _Frames:
    """The bands of thumbnails of one shape, made ready to find pieces in all of them."""

    size: tuple[int, int]
    spectra: np.ndarray
    sums: np.ndarray  # of the values and of their squares, over all rectangles from the corner

    @classmethod
    def of(cls, thumbs: Sequence[np.ndarray]) -> _Frames:
        bands = np.stack([_bands(thumb) for thumb in thumbs])
        sums = np.stack([bands, bands**2]).cumsum(-2).cumsum(-1)
        beside = ((0, 0), (0, 0), (0, 0), (1, 0), (1, 0))
        return cls(bands.shape[2:], scipy.fft.rfft2(bands.astype(np.float32)), np.pad(sums, beside))

    def correlations(self, piece: np.ndarray) -> np.ndarray:
        """Of each the largest normalised cross-correlation with `piece`, mirrored too; the mean of both bands."""
        (H, W), (h, w), sums = self.size, piece.shape[1:], self.sums
        piece = piece - piece.mean((1, 2), keepdims=True)
        views = np.stack([piece, piece[:, ::-1], piece[:, :, ::-1], piece[:, ::-1, ::-1]]).astype(np.float32)
        spectra = self.spectra[:, None] * scipy.fft.rfft2(views, (H, W)).conj()
        products = scipy.fft.irfft2(spectra, (H, W))[..., : H - h + 1, : W - w + 1]
        total, squares = sums[..., h:, w:] - sums[..., :-h, w:] - sums[..., h:, :-w] + sums[..., :-h, :-w]
        least = h * w * 1e-6  # what is flat to a thousandth resembles nothing
        energy = np.maximum(squares - total**2 / (h * w), least)
        energy = energy * np.maximum((piece**2).sum((1, 2)), least)[:, None, None]
        products /= np.sqrt(energy).astype(np.float32)[:, None]
        found: np.ndarray = products.mean(2).max((1, 2, 3))
        return found


def similarities(image: Image, thumbs: Mapping[str, np.ndarray]) -> dict[str, float]:
    """For each thumbnail the largest normalised correlation of `image` with any window of it; −1 … 1.

    Luminance and its detail count alike: luminance alone takes every gradient for a sky.
    Windows from 0.55 of the largest that fits to all of it, so resized, mirrored, turned and grey copies and
    generous crops are found; crops below half of the frame or below SHORTEST pixels of the thumbnail, strips,
    collages and free rotations are not. Thumbnails that at half their size show nothing like it are left at that.
    """
    grey = _thumb(image, min(4 * THUMB, max(image.shape[-2:])))
    found = _similarities(grey, {name: _halved(thumb) for name, thumb in thumbs.items()}, SHORTEST // 2)
    close = {name: thumbs[name] for name, value in found.items() if value >= CLOSE}
    return found | _similarities(grey, close, SHORTEST)


def _halved(thumb: np.ndarray) -> np.ndarray:
    h, w = (n // 2 for n in thumb.shape)
    means: np.ndarray = thumb[: 2 * h, : 2 * w].reshape(h, 2, w, 2).mean((1, 3))
    return means


def _similarities(grey: np.ndarray, thumbs: Mapping[str, np.ndarray], shortest: int) -> dict[str, float]:
    pieces: dict[tuple[int, int], np.ndarray] = {}
    best: dict[str, float] = {}
    for shape in {thumb.shape for thumb in thumbs.values()}:
        names = [name for name, thumb in thumbs.items() if thumb.shape == shape]
        frames, found = _Frames.of([thumbs[name] for name in names]), np.full(len(names), -1.0)
        for turned in (False, True):
            sides = grey.shape[::-1] if turned else grey.shape
            longer = max(sides)
            fit = min(shape[0] / sides[0], shape[1] / sides[1]) * longer
            for side in range(round(fit), int(LEAST_WINDOW * fit) - 1, -1):
                h, w = (min(limit, round(side * n / longer)) for limit, n in zip(shape, sides, strict=True))
                if min(h, w) < shortest:
                    continue
                size = (w, h) if turned else (h, w)
                if size not in pieces:
                    pieces[size] = _bands(images.resize_array(grey, size))
                piece = pieces[size].swapaxes(1, 2) if turned else pieces[size]
                by_chance = SMALL if shortest == SHORTEST and h * w < FEW else 0.0
                found = np.maximum(found, frames.correlations(piece) - by_chance)
        best |= dict(zip(names, found.tolist(), strict=True))
    return best


def similarity(image: Image, thumb: np.ndarray) -> float:
    """The same for one thumbnail."""
    return similarities(image, {"": thumb})[""]


def _thumbs(fold: Fold) -> dict[str, np.ndarray]:
    tensors = _read(_weights(fold))[1]
    names = [name for name in tensors if name.startswith("thumb.")]
    require(len(names) > 0, f"prior: {_weights(fold)} holds no thumbnails to know its photographs by; install it anew")
    thumbs = {name.removeprefix("thumb."): tensors[name] for name in names}
    require(
        all(
            t.dtype == torch.uint8 and t.dim() == 2 and 4 * BORDER + 2 <= min(t.shape) and max(t.shape) <= THUMB
            for t in thumbs.values()
        ),
        f"prior: {_weights(fold)} holds thumbnails that are no pictures of 8 bits; install it anew",
    )
    return {name: thumb.numpy() / 255.0 for name, thumb in thumbs.items()}


def _match(found: dict[str, float]) -> str | None:
    name = max(found, key=lambda name: found[name])
    return name if found[name] >= SEEN else None


def seen(image: Image, fold: Fold) -> str | None:
    """The training photograph that `image` is a copy of, or None."""
    return _match(similarities(image, _thumbs(fold)))


def fold_for(target: Image | None) -> Fold:
    """The fold whose prior has not seen `target`; InputError where both have."""
    if target is None:
        return 1
    check_image("prior: the target", target)
    folds: tuple[Fold, ...] = (1, 2)
    both = {fold: _thumbs(fold) for fold in folds}
    found = similarities(target, {name: thumb for thumbs in both.values() for name, thumb in thumbs.items()})
    matches = {fold: _match({name: found[name] for name in thumbs}) for fold, thumbs in both.items()}
    for fold in folds:
        if matches[fold] is None:
            return fold
    raise InputError(
        f"prior: both bundled priors were trained on this image (it matches {matches[1]!r}), so scoring it would "
        f"measure memory; choose one of {', '.join(EVALUATION)} or a photograph of your own"
    )


def load(target: Image | None) -> DenoisingUNet:
    """The bundled prior that was not trained on `target`; None asks for any, as where there is a measurement alone.

    Refusal by content: see `similarity`.
    """
    return load_fold(fold_for(target))


def load_fold(fold: Fold) -> DenoisingUNet:
    """One fold's prior, whoever asks: for samples from noise, where there is no target."""
    return compute.default().place(shipped(fold))


def shipped(fold: Fold) -> DenoisingUNet:
    """One fold's prior in float32, as its file holds it, on the CPU: what a training goes on from."""
    record, tensors = _read(_weights(fold))
    state = {k.removeprefix("weights."): v.float() for k, v in tensors.items() if k.startswith("weights.")}
    try:
        channels = tuple(record["channels"])
        if not 1 <= len(channels) <= 16 or min(channels) < 1:
            raise ValueError(f"channels {channels[:16]}")
        if not all(bool(value.isfinite().all()) for value in state.values()):
            raise ValueError("NaN or infinite weights")
        with torch.device("meta"):  # what the file says of itself takes no memory until its weights bear it out
            DenoisingUNet(channels).load_state_dict(state, assign=True)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        cause = str(error).partition("\n")[0]
        raise InputError(f"prior: {_weights(fold)} does not hold the weights that it names ({cause})") from error
    network = build(DenoisingUNet, torch.Generator(), channels=channels)
    network.load_state_dict(state)
    return network.requires_grad_(False)


class GaussianPrior:
    """Stationary Gaussian images, whose denoiser is known in closed form: the oracle for theory and tests.

    power: (h, w), the variance of each coefficient of the orthonormal FFT.
    """

    def __init__(self, power: Tensor):
        self.power = power

    @classmethod
    def photograph_like(cls, size: int, std: float = 0.5) -> GaussianPrior:
        """Power ∝ 1/f², as photographs have (Field 1987), with standard deviation `std` a pixel."""
        f = torch.fft.fftfreq(size, dtype=torch.float64)
        square = f[:, None] ** 2 + f[None] ** 2
        power = 1 / square.clamp(min=1 / size**2)
        return cls(power * (std**2 / power.mean()))

    def draw(self, generator: torch.Generator, count: int = 1) -> Image:
        """Samples of the prior, (count, 3, h, w) float64; the channels are independent."""
        white = torch.randn(count, 3, *self.power.shape, generator=generator, dtype=torch.float64)
        return self._filter(white, self.power.sqrt())

    def _filter(self, x: Image, gain: Tensor) -> Image:
        return torch.fft.ifft2(torch.fft.fft2(x) * gain.to(x.device)).real

    def __call__(self, x_t: Image, sigma: float | Tensor) -> Image:
        """E[x_0 | x_t] = P√ᾱ/(ᾱP + 1 − ᾱ) x_t in Fourier space: the Wiener filter."""
        sigma = float(sigma)
        return self._filter(x_t, math.sqrt(1 + sigma**2) * self.power / (self.power + sigma**2)).to(x_t.dtype)
