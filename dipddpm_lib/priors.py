"""The shipped denoisers: what each was trained on, and the refusal of a target that it has seen."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from skimage.feature import match_template
from torch import Tensor

from . import compute, images
from .networks import DenoisingUNet, build
from .types import Image, InputError, require

Fold = Literal[1, 2]

EVALUATION = ("astronaut", "chelsea", "coffee", "rocket")
HELD_OUT: dict[int, tuple[str, ...]] = {1: ("astronaut", "coffee"), 2: ("chelsea", "rocket")}
"""Each fold's prior is trained without these and scored on them."""

THUMB = 64
SEEN = 0.9
"""Correlation from which a target counts as seen. Different bundled photographs stay under it, copies above (tests)."""


def training_names(fold: Fold) -> tuple[str, ...]:
    """The photographs that this fold's prior is trained on."""
    require(fold in HELD_OUT, f"fold: expected 1 or 2, got {fold!r}")
    return tuple(name for name in images.photographs() if name not in HELD_OUT[fold])


def training_images(fold: Fold, generator: torch.Generator) -> list[Image]:
    """Every training photograph at several scales, and dead leaves coloured from them (a fifth of the list).

    The scales bring whole scenes as well as textures into a 64-pixel crop.
    """
    out = []
    for name in training_names(fold):
        photograph = images.load(name)
        height, width = photograph.shape[-2:]
        for side in (80, 112, 160, 224):
            scale = side / min(height, width)
            if scale <= 1:
                out.append(images.resize(photograph, (round(height * scale), round(width * scale))))
    return out + [dead_leaves(128, out, generator) for _ in range(len(out) // 4)]


def dead_leaves(size: int, palette: list[Image], generator: torch.Generator) -> Image:
    """Random discs that hide one another, radii with density ∝ r⁻³, colours from photographs (Lee et al. 2001)."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    source = palette[int(torch.randint(len(palette), (), generator=generator))].flatten(2)[0]
    image = torch.empty(3, size, size)
    bare = torch.ones(size, size, dtype=torch.bool)  # front to back: a leaf paints only what is still bare
    while bare.any():
        u, cx, cy, pick = torch.rand(4, generator=generator).tolist()
        radius = (size / 2) / (1 + u * ((size / 2 / 1.5) ** 2 - 1)) ** 0.5
        disc = (rows - cy * size) ** 2 + (columns - cx * size) ** 2 <= radius**2
        image[:, disc & bare] = source[:, int(pick * source.shape[1])][:, None]
        bare &= ~disc
    return image[None]


def save(
    path: Path, denoiser: DenoisingUNet, fold: Fold, training: dict[str, Any], seed: int, seconds: float
) -> None:
    """Half-precision weights, thumbnails of all that was trained on, and the record; `training` is its TrainConfig."""
    tensors = {f"weights.{k}": v.detach().cpu().half().contiguous() for k, v in denoiser.state_dict().items()}
    digests = {}
    for name in training_names(fold):
        photograph = images.load(name)
        digests[name] = images.digest(photograph)
        tensors[f"thumb.{name}"] = torch.from_numpy((_thumb(photograph) * 255).round().astype(np.uint8))
    record = {
        "kind": "bundled",
        "fold": fold,
        "channels": denoiser.channels,
        "training": training,
        "seed": seed,
        "seconds": seconds,
        "images": digests,
        "machine": compute.machine(),
        "versions": compute.versions(),
    }
    save_file(tensors, str(path), metadata={"record": json.dumps(record, sort_keys=True)})


def record(fold: Fold) -> dict[str, Any]:
    """What the weights file says of its own training."""
    return _read(_weights(fold))[0]


def weights_digest(fold: Fold) -> str:
    """SHA-256 of the weights file: the prior's name in a stored result."""
    return _digest(_weights(fold))


@cache
def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def weights_path(fold: Fold) -> Path:
    return Path(str(resources.files("dipddpm_lib") / "weights" / f"bundled_fold{fold}.safetensors"))


def _weights(fold: Fold) -> Path:
    require(fold in HELD_OUT, f"fold: expected 1 or 2, got {fold!r}")
    return weights_path(fold)


@cache
def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            return json.loads(file.metadata()["record"]), tensors
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"prior: {path} is not a weights file of this library ({error}); install it anew") from error


def _thumb(image: Image, side: int = THUMB) -> np.ndarray:
    """Luminance in [0, 1], longer side `side` pixels."""
    grey = (image[0].float().cpu().numpy() + 1) / 2
    grey = np.tensordot([0.2126, 0.7152, 0.0722], grey, axes=1)
    scale = side / max(grey.shape)
    return images.resize_array(grey, (max(1, round(grey.shape[0] * scale)), max(1, round(grey.shape[1] * scale))))


def similarity(image: Image, thumb: np.ndarray) -> float:
    """The largest normalised correlation of `image` with any window of `thumb`, mirrored or turned too.

    Windows from half of the frame to all of it, so resized, mirrored, turned, recoloured copies and generous crops
    are found; crops below half of the frame, collages and free rotations are not.
    """
    best = -1.0
    for scale in np.linspace(0.5, 1.0, 11):
        patch = _thumb(image, max(8, round(scale * THUMB)))
        if patch.std() < 1e-3:
            continue
        for turns in range(4):
            for mirrored in (False, True):
                view = np.rot90(patch, turns)
                view = view[:, ::-1] if mirrored else view
                if view.shape[0] <= thumb.shape[0] and view.shape[1] <= thumb.shape[1]:
                    best = max(best, float(match_template(thumb, view).max()))
    return best


def seen(image: Image, fold: Fold) -> str | None:
    """The training photograph that `image` is a copy of, or None."""
    for name, thumb in _read(_weights(fold))[1].items():
        if name.startswith("thumb.") and similarity(image, thumb.numpy() / 255.0) >= SEEN:
            return name.removeprefix("thumb.")
    return None


def fold_for(target: Image | None) -> Fold:
    """The fold whose prior has not seen `target`; InputError where both have."""
    if target is None:
        return 1
    for fold in (1, 2):
        if (name := seen(target, fold)) is None:
            return fold
    raise InputError(
        f"prior: both bundled priors were trained on this image (it matches {name!r}), so scoring it would measure "
        f"memory; choose one of {', '.join(EVALUATION)} or a photograph of your own"
    )


def load(target: Image | None) -> DenoisingUNet:
    """The bundled prior that was not trained on `target`; None asks for any. Refusal by content: see `similarity`."""
    return load_fold(fold_for(target))


def load_fold(fold: Fold) -> DenoisingUNet:
    """One fold's prior, whoever asks: for samples from noise, where there is no target."""
    record, tensors = _read(_weights(fold))
    where = compute.default()
    network = build(DenoisingUNet, torch.Generator(), channels=tuple(record["channels"]))
    state = {k.removeprefix("weights."): v.float() for k, v in tensors.items() if k.startswith("weights.")}
    network.load_state_dict(state)
    network.requires_grad_(False)
    return network.to(where.device, memory_format=where.memory_format)
