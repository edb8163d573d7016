"""Images in and out; the only place that knows [0, 255]. Everywhere else intensities lie in [-1, 1]."""

from __future__ import annotations

import hashlib
import os
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import skimage
import torch
from jaxtyping import Float
from PIL import ExifTags, TiffImagePlugin, UnidentifiedImageError
from PIL import Image as PIL_Image
from torch import Tensor

from . import compute
from .types import Image, InputError, check_image, check_tensor, require

FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP")
SMALLEST_SIDE = 16  # below this nothing is left to restore
LARGEST_PIXELS = 100_000_000
LARGEST_FILE = 2**29  # bytes; some decoders read the whole file before they tell its size
# bytes a pixel that reading takes: of the file, of the part that is cut out and resized, of one that is kept whole
FILE_BYTES, CUT_BYTES, WHOLE_BYTES = 1, 73, 36

# EXIF's orientation -> what sets it right; by hand, since ImageOps.exif_transpose writes all other tags anew, and some
# cannot be written
TURNS = {
    2: PIL_Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL_Image.Transpose.ROTATE_180,
    4: PIL_Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL_Image.Transpose.TRANSPOSE,
    6: PIL_Image.Transpose.ROTATE_270,
    7: PIL_Image.Transpose.TRANSVERSE,
    8: PIL_Image.Transpose.ROTATE_90,
}

# name -> (package, file): photographs that arrive with the libraries, so nothing is downloaded
_BUNDLED = {
    "astronaut": ("skimage.data", "astronaut.png"),
    "brick": ("skimage.data", "brick.png"),
    "camera": ("skimage.data", "camera.png"),
    "chelsea": ("skimage.data", "chelsea.png"),
    "clock": ("skimage.data", "clock_motion.png"),
    "coffee": ("skimage.data", "coffee.png"),
    "coins": ("skimage.data", "coins.png"),
    "colorwheel": ("skimage.data", "color.png"),
    "grace_hopper": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
    "grass": ("skimage.data", "grass.png"),
    "gravel": ("skimage.data", "gravel.png"),
    "hubble": ("skimage.data", "hubble_deep_field.jpg"),
    "ihc": ("skimage.data", "ihc.png"),
    "moon": ("skimage.data", "moon.png"),
    "motorcycle_left": ("skimage.data", "motorcycle_left.png"),
    "motorcycle_right": ("skimage.data", "motorcycle_right.png"),
    "page": ("skimage.data", "page.png"),
    "retina": ("skimage.data", "retina.jpg"),
    "rocket": ("skimage.data", "rocket.jpg"),
    "text": ("skimage.data", "text.png"),
}

Size = int | tuple[int, int]
Box = tuple[int, int, int, int]  # top, left, height, width


def photographs() -> tuple[str, ...]:
    """Names of the bundled photographs."""
    return tuple(_BUNDLED)


def load(source: str | os.PathLike[str], size: Size | None = None) -> Image:
    """A bundled photograph's name, or the path of a PNG, JPEG, TIFF, WebP or BMP file, as (1, 3, h, w) in [-1, 1].

    EXIF orientation is applied, alpha composited on white. 16-bit data are scaled by the range of 16 bits; floats that
    leave [0, 1] and integers of 32 bits that leave those of 16 are scaled to their own.
    size: a side for a square, or (height, width): the centre of that shape is cut out and resized with anti-aliasing.
    Raises InputError for anything that is not such an image.

    >>> load("astronaut", 64).shape
    torch.Size([1, 3, 64, 64])
    """
    kinds = f"expected a bundled photograph's name or a file's path, got a {type(source).__name__}"
    require(isinstance(source, str | os.PathLike), f"image: {kinds}")
    shape = None if size is None else _shape(size)
    if str(source) in _BUNDLED:
        return _bundled(str(source), shape).clone()
    return _load(_existing(source), shape)


def _shape(size: Size) -> tuple[int, int]:
    sides = tuple(size) if isinstance(size, tuple | list) else (size, size)
    require(
        len(sides) == 2 and all(type(side) is int and side >= SMALLEST_SIDE for side in sides),
        f"size: expected a side or (height, width), whole numbers of {SMALLEST_SIDE} pixels or more, got {size!r}",
    )
    require(
        sides[0] * sides[1] <= LARGEST_PIXELS,
        f"size: expected at most {LARGEST_PIXELS:,} pixels, got {sides[0]} × {sides[1]}: make it smaller",
    )
    return sides[0], sides[1]


@cache
def _bundled(name: str, size: tuple[int, int] | None) -> Image:
    package, file = _BUNDLED[name]
    return _load(Path(str(resources.files(package) / file)), size)


def _existing(source: str | os.PathLike[str]) -> Path:
    known = ", ".join(_BUNDLED)
    path = Path(source)
    try:
        path = path.expanduser()
        exists = path.exists()
    except (OSError, RuntimeError):  # a name that is too long, a home that is nobody's
        exists = False
    require(
        exists,
        f"image: {str(source)!r} is neither a file nor a bundled photograph; give a path, or one of: {known}",
    )
    require(path.is_file(), f"image: {str(source)!r} is a folder or a device; give the path of one image file")
    size = path.stat().st_size
    require(
        size <= LARGEST_FILE,
        f"image: {str(source)!r} has {size:,} bytes; expected at most {LARGEST_FILE:,}: save it in fewer",
    )
    return path


def _load(path: Path, size: tuple[int, int] | None) -> Image:
    try:
        with PIL_Image.open(path, formats=FORMATS) as file:
            _check_pixels(path, (file.height, file.width), size)
            file.load()
            turn = TURNS.get(file.getexif().get(ExifTags.Base.Orientation, 1))
            signed = 2 in np.atleast_1d(getattr(file, "tag_v2", {}).get(TiffImagePlugin.SAMPLEFORMAT, 1))
            array = _to_unit_rgb(file if turn is None else file.transpose(turn), size, path, signed)
    except InputError:
        raise
    except Exception as error:  # a decoder can fail in ways that nobody foresaw
        cause = "nothing in it reads as one" if isinstance(error, UnidentifiedImageError) else error
        raise InputError(f"image: {str(path)!r} is not a whole PNG, JPEG, TIFF, WebP or BMP image ({cause})") from error
    if size is not None:
        array = resize_array(array, size)
    return torch.from_numpy(array).permute(2, 0, 1)[None].float().mul_(2).sub_(1)


def _check_pixels(path: Path, shape: tuple[int, int], size: tuple[int, int] | None) -> None:
    """Refuse, before decoding, a file that is too small, too large, or more than the machine's memory holds."""
    pixels, (_, _, height, width) = shape[0] * shape[1], _centre(shape, size)
    require(
        pixels <= LARGEST_PIXELS,
        f"image: {str(path)!r} has {pixels:,} pixels; expected at most {LARGEST_PIXELS:,}: make it smaller",
    )
    require(
        min(shape) >= SMALLEST_SIDE,
        f"image: {str(path)!r} is {shape[1]} × {shape[0]}; expected {SMALLEST_SIDE} pixels or more a side",
    )
    kept = height * width if size is None else max(height * width, size[0] * size[1])
    need, have = FILE_BYTES * pixels + (WHOLE_BYTES if size is None else CUT_BYTES) * kept, compute.ram()
    require(
        need <= have,
        f"image: {str(path)!r} has {pixels:,} pixels, which take {need / 2**30:,.1f} GiB of memory to read; "
        f"this machine has {have / 2**30:,.1f}: make it smaller",
    )


def _to_unit_rgb(file: PIL_Image.Image, size: tuple[int, int] | None, path: Path, signed: bool) -> np.ndarray:
    """The part of an image in any of Pillow's modes that is resized to `size`, as (h, w, 3) float64 in [0, 1].

    signed: whether integers of 32 bits have a sign; Pillow reads them as if they had
    """
    top, left, height, width = _centre((file.height, file.width), size)
    if file.mode in ("I;16", "I;16B", "I;16L", "I", "F"):
        values = np.asarray(file)
        grey = (values.view(np.uint32) if file.mode == "I" and not signed else values).astype(np.float64)
        require(bool(np.isfinite(grey).all()), f"image: {str(path)!r} holds NaN or infinite values; expected finite")
        # integers have 16 bits and floats lie in [0, 1], by convention; what leaves that is scaled to its own range
        most = 1 if file.mode == "F" else 65535
        low, high = grey.min(), grey.max()
        low, high = (low, high) if low < 0 or high > most else (0, most)
        grey = (grey[top : top + height, left : left + width] - low) / max(high - low, 1e-12)
        return np.repeat(grey[..., None], 3, axis=2)
    file = file.crop((left, top, left + width, top + height))
    if file.has_transparency_data:
        rgba = np.asarray(file.convert("RGBA"), dtype=np.float64)
        rgba /= 255
        rgb, alpha = rgba[..., :3], rgba[..., 3:]
        rgb *= alpha
        rgb += 1 - alpha
        return np.ascontiguousarray(rgb)
    rgb = np.asarray(file.convert("RGB"), dtype=np.float64)
    rgb /= 255
    return rgb


def _centre(shape: tuple[int, int], size: tuple[int, int] | None) -> Box:
    """The largest rectangle of the proportions of `size` in the middle of `shape`; the whole of it without a size."""
    if size is None:
        return 0, 0, *shape
    scale = min(shape[0] / size[0], shape[1] / size[1])
    height, width = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    return (shape[0] - height) // 2, (shape[1] - width) // 2, height, width


def resize_array(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """(h, w[, c]) to another size; anti-aliased on the way down."""
    if array.shape[:2] == tuple(size):
        return array
    down = array.shape[0] > size[0] or array.shape[1] > size[1]
    return skimage.transform.resize(array, size, order=3, anti_aliasing=down, mode="reflect", clip=True)


def resize(image: Image, size: tuple[int, int]) -> Float[Tensor, "1 3 H W"]:
    """The same for one (1, 3, h, w) image; on the CPU, wherever it came from."""
    check_image("image", image)
    image = image.detach().cpu()
    return torch.from_numpy(resize_array(image[0].permute(1, 2, 0).numpy(), size)).permute(2, 0, 1)[None].float()


def to_uint8(image: Image) -> Tensor:
    """[-1, 1] → [0, 255], rounded, (b, 3, h, w)."""
    return ((image.detach().float().cpu() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def to_array(image: Image) -> np.ndarray:
    """The first image as (h, w, 3) uint8, for plotting and saving."""
    return to_uint8(image)[0].permute(1, 2, 0).numpy()


def corners(source: str | os.PathLike[str], size: int) -> Float[Tensor, "4 3 {size} {size}"]:
    """Four other crops of the photograph than `load`'s: the corners of its centre square at 5/4 of that size."""
    larger = load(source, size + size // 4)
    return torch.cat([larger[..., i : i + size, j : j + size] for i in (0, size // 4) for j in (0, size // 4)])


def save(image: Image, path: str | os.PathLike[str]) -> None:
    """Write the first image; the ending of `path` names the format."""
    path = Path(path)
    endings = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp")
    require(path.suffix.lower() in endings, f"save: expected a name ending in {', '.join(endings)}, got {path.name!r}")
    shape = tuple(image.shape)
    require(len(shape) == 4 and shape[1] == 3, f"save: expected an image (b, 3, h, w), got shape {shape}")
    check_tensor("image", image)
    # Pillow's own defaults are for the web
    options: dict[str, dict[str, Any]] = {".jpg": {"quality": 95, "subsampling": 0}, ".webp": {"quality": 95}}
    options[".jpeg"] = options[".jpg"]
    PIL_Image.fromarray(to_array(image)).save(path, **options.get(path.suffix.lower(), {}))


def digest(image: Image) -> str:
    """SHA-256 of the pixels and their shape: an image's name by content. Of 8 bits, and of all where it holds more."""
    pixels, exact = to_uint8(image), image.detach().float().cpu()
    content = pixels.numpy().tobytes()
    if not torch.equal((pixels.double() / 255).float() * 2 - 1, exact):
        content += exact.numpy().tobytes()
    return hashlib.sha256(repr(tuple(pixels.shape)).encode() + content).hexdigest()
