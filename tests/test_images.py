"""Images in and out: every file format, every way in which a file can be wrong, and the geometry of the centre cut."""

from __future__ import annotations

import inspect
import io
import os
import struct
import warnings
import zlib
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import skimage
import skimage.data
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PIL_Image
from PIL import ImageFile, ImageOps
from skimage.transform import resize as skimage_resize

from dipddpm_lib import compute, images
from dipddpm_lib.types import InputError

LOSSLESS = [("png", {}), ("tiff", {}), ("webp", {"lossless": True}), ("bmp", {})]
# [0, 1] is rounded to float32 (error 2⁻²⁵), doubled and shifted; what it is compared to was rounded once (2⁻²⁵) too
FLOAT32 = 2.0**-23
JPEG = 5 / 127.5  # quality 100: DCT steps of 1, YCbCr and RGB rounded: a few 8-bit levels


def pattern(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Random uint8 pixels, (h, w, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height: int, width: int) -> np.ndarray:
    """Low frequencies only, which lossy formats keep; without any symmetry. (h, w, 3) uint8."""
    i, j = np.mgrid[:height, :width] / max(height, width)
    channels = [0.5 + 0.45 * np.sin(2 * i + 3 * j), i**2 + 0.1 * j, 0.3 + 0.6 * j * i]
    return (255 * np.clip(np.stack(channels, -1), 0, 1)).astype(np.uint8)


def expected(array: np.ndarray) -> torch.Tensor:
    """uint8 (h, w, 3) → what `load` promises."""
    return torch.from_numpy(array.astype(np.float64) / 127.5 - 1).permute(2, 0, 1)[None].float()


def same(image: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal but for the rounding of float32."""
    return image.shape == other.shape and bool((image - other).abs().max() <= FLOAT32)


def refused(source: str | Path, words: str | None = None, size: images.Size | None = None) -> str:
    """The message of the InputError that `load` must raise; always one line."""
    with pytest.raises(InputError, match=words) as caught:
        images.load(source, size)
    message = str(caught.value)
    assert "\n" not in message
    return message


def png_of_size(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds hardly any data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")
    )


# ---- what is bundled


@pytest.mark.parametrize("name", images.photographs())
def test_a_bundled_photograph_loads_whole(name: str) -> None:
    image = images.load(name, 64)
    assert image.shape == (1, 3, 64, 64)
    assert image.dtype == torch.float32
    assert -1 <= image.min() < image.max() <= 1
    assert image.std() > 0.02, "a photograph is not one colour"


def test_a_bundled_photograph_is_the_file_of_its_library() -> None:
    assert same(images.load("chelsea"), expected(skimage.data.chelsea()))
    grey = skimage.data.camera()
    assert same(images.load("camera"), expected(np.repeat(grey[..., None], 3, 2)))


def test_two_loads_share_no_memory() -> None:
    first = images.load("coffee", 32)
    before = first.clone()
    first.zero_()
    assert torch.equal(images.load("coffee", 32), before)


# ---- formats


@pytest.mark.parametrize(("ending", "options"), LOSSLESS)
@pytest.mark.parametrize("shape", [(16, 16), (17, 31), (40, 23)])
def test_lossless_files_give_back_each_pixel(
    tmp_path: Path, ending: str, options: dict[str, object], shape: tuple[int, int]
) -> None:
    array = pattern(*shape)
    PIL_Image.fromarray(array).save(tmp_path / f"x.{ending}", **options)
    assert same(images.load(tmp_path / f"x.{ending}"), expected(array))


def test_a_jpeg_gives_back_what_its_quantisation_leaves(tmp_path: Path) -> None:
    array = smooth(40, 56)
    PIL_Image.fromarray(array).save(tmp_path / "x.jpg", quality=100, subsampling=0)
    assert (images.load(tmp_path / "x.jpg") - expected(array)).abs().max() <= JPEG


def test_a_format_is_told_by_content_and_not_by_the_name(tmp_path: Path) -> None:
    array = pattern(20, 20)
    PIL_Image.fromarray(array).save(tmp_path / "x.jpeg", format="PNG")
    assert same(images.load(tmp_path / "x.jpeg"), expected(array))


def test_a_path_may_be_given_as_text_and_with_a_tilde(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    array = pattern(20, 20)
    PIL_Image.fromarray(array).save(tmp_path / "my picture é.png")
    assert same(images.load("~/my picture é.png"), expected(array))
    assert same(images.load(str(tmp_path / "my picture é.png")), expected(array))


# the operations that bring a stored image upright, from the EXIF specification's table of orientations
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),  # row 0 is the right-hand side
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("ending", ["png", "tiff", "jpg"])
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, ending: str) -> None:
    stored = smooth(24, 40)
    exif = PIL_Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if ending == "jpg" else {}
    PIL_Image.fromarray(stored).save(tmp_path / f"x.{ending}", exif=exif, **options)
    upright = expected(np.ascontiguousarray(UPRIGHT[orientation](stored)))
    image = images.load(tmp_path / f"x.{ending}")
    assert image.shape == upright.shape
    tolerance = JPEG if ending == "jpg" else FLOAT32
    assert (image - upright).abs().max() <= tolerance
    others = (expected(np.ascontiguousarray(UPRIGHT[k](stored))) for k in UPRIGHT if k != orientation)
    nearest = min((other - upright).abs().max() for other in others if other.shape == upright.shape)
    assert nearest > 4 * JPEG, "the test's picture would not tell the orientations apart"


def test_alpha_is_composited_on_white(tmp_path: Path) -> None:
    rgba = np.concatenate([pattern(20, 24), pattern(20, 24, 1)[..., :1]], -1)
    rgba[0, 0] = (10, 20, 30, 0)
    rgba[0, 1] = (10, 20, 30, 255)
    PIL_Image.fromarray(rgba).save(tmp_path / "x.png")
    image = images.load(tmp_path / "x.png")
    alpha = rgba[..., 3:].astype(np.float64) / 255
    over_white = rgba[..., :3] / 255 * alpha + 1 - alpha
    assert np.abs(image[0].permute(1, 2, 0).numpy() - (2 * over_white - 1)).max() <= FLOAT32
    assert (image[0, :, 0, 0] == 1).all()
    assert same(image[:, :, :1, 1:2], expected(rgba[:1, 1:2, :3]))


def test_a_grey_image_with_alpha_and_a_transparent_palette_are_composited_too(tmp_path: Path) -> None:
    grey = np.stack([np.full((16, 16), 40, np.uint8), np.zeros((16, 16), np.uint8)], -1)
    PIL_Image.fromarray(grey).save(tmp_path / "la.png")
    assert (images.load(tmp_path / "la.png") == 1).all()
    palette = PIL_Image.new("P", (16, 16), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.save(tmp_path / "p.png", transparency=1)
    assert (images.load(tmp_path / "p.png") == 1).all()


@pytest.mark.parametrize("ending", ["png", "bmp", "tiff"])
def test_a_palette_is_looked_up(tmp_path: Path, ending: str) -> None:
    indices = np.random.default_rng(0).integers(0, 4, (18, 22), dtype=np.uint8)
    colours = np.array([[255, 0, 0], [0, 255, 0], [10, 20, 200], [7, 7, 7]], np.uint8)
    file = PIL_Image.fromarray(indices).convert("P")
    file.putpalette(colours.ravel().tolist())
    file.putdata(indices.ravel().tolist())
    file.save(tmp_path / f"x.{ending}")
    assert same(images.load(tmp_path / f"x.{ending}"), expected(colours[indices]))


def test_black_and_white_has_the_full_range(tmp_path: Path) -> None:
    bits = np.random.default_rng(0).integers(0, 2, (17, 19)).astype(bool)
    PIL_Image.fromarray(bits).save(tmp_path / "x.png")
    assert torch.equal(images.load(tmp_path / "x.png")[0, 0], torch.from_numpy(bits).float() * 2 - 1)


@pytest.mark.parametrize("ending", ["tiff", "jpg"])
def test_cmyk_becomes_rgb(tmp_path: Path, ending: str) -> None:
    cmyk = np.zeros((16, 32, 4), np.uint8)
    cmyk[:, :16, 0] = 255  # full cyan: no red
    cmyk[:, 16:, 3] = 255  # full black
    PIL_Image.frombytes("CMYK", (32, 16), cmyk.tobytes()).save(tmp_path / f"x.{ending}")
    image = images.load(tmp_path / f"x.{ending}")[0]
    tolerance = JPEG if ending == "jpg" else FLOAT32
    assert (image[:, 4, 4] - torch.tensor([-1.0, 1.0, 1.0])).abs().max() <= tolerance
    assert (image[:, 4, 28] + 1).abs().max() <= tolerance


@pytest.mark.parametrize("ending", ["png", "tiff"])
def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path: Path, ending: str) -> None:
    grey = np.random.default_rng(0).integers(0, 65536, (20, 21), dtype=np.uint16)
    grey[0, :3] = (0, 32768, 65535)
    PIL_Image.fromarray(grey).save(tmp_path / f"x.{ending}")
    image = images.load(tmp_path / f"x.{ending}")
    assert np.abs(image[0, 1].numpy() - (grey / 32767.5 - 1)).max() <= FLOAT32
    assert torch.equal(image[0, 0], image[0, 2])


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bit_tiff_of_either_byte_order(tmp_path: Path, order: str) -> None:
    grey = np.random.default_rng(0).integers(0, 65536, (20, 21), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", grey, byteorder=order)
    assert np.abs(images.load(tmp_path / "x.tif")[0, 0].numpy() - (grey / 32767.5 - 1)).max() <= FLOAT32


def test_16_bit_colour_tiff_is_scaled(tmp_path: Path) -> None:
    colour = np.random.default_rng(0).integers(0, 65536, (20, 21, 3), dtype=np.uint16)
    tifffile.imwrite(tmp_path / "x.tif", colour, photometric="rgb")
    image = images.load(tmp_path / "x.tif")[0].permute(1, 2, 0).numpy()
    # Pillow keeps the upper byte of colour: at most one 8-bit level is lost
    assert np.abs(image - (colour / 32767.5 - 1)).max() <= 1 / 127.5


def test_float_tiff_in_the_unit_range_is_taken_as_it_is_and_any_other_by_its_own_range(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).random((20, 21)).astype(np.float32) * 0.5 + 0.2
    PIL_Image.fromarray(grey).save(tmp_path / "x.tif")
    assert np.abs(images.load(tmp_path / "x.tif")[0, 0].numpy() - (2 * grey - 1)).max() <= FLOAT32
    PIL_Image.fromarray(grey * 300 - 40).save(tmp_path / "x.tif")
    wide = images.load(tmp_path / "x.tif")[0, 0].numpy()
    own = (grey - grey.min()) / (grey.max() - grey.min())
    # 300 g − 40 was stored in float32 at up to 170, whose spacing is 2⁻¹⁶, over a range of about 150
    assert np.abs(wide - (2 * own - 1)).max() <= 4 * 2.0**-16 / 140
    assert (wide.min(), wide.max()) == (-1, 1)
    PIL_Image.fromarray(np.full((20, 20), 7, np.float32)).save(tmp_path / "x.tif")
    assert torch.isfinite(images.load(tmp_path / "x.tif")).all(), "one value has no range to divide by"


@pytest.mark.parametrize(("dtype", "most"), [(np.uint32, 2**32 - 1), (np.int32, 2**31 - 1), (np.uint32, 65535)])
@pytest.mark.parametrize("least", [0, 20_000])
def test_a_32_bit_tiff_is_scaled_by_16_bits_or_by_its_own_range(
    tmp_path: Path, dtype: type[np.integer], most: int, least: int
) -> None:
    grey = np.random.default_rng(0).integers(least, most, (20, 21), dtype=dtype)
    grey[0, :2] = least, most
    tifffile.imwrite(tmp_path / "x.tif", grey)
    low, high = (0, 65535) if most == 65535 else (least, most)
    expected = 2 * (grey.astype(float) - low) / (high - low) - 1
    assert np.abs(images.load(tmp_path / "x.tif")[0, 0].numpy() - expected).max() <= FLOAT32


def test_a_signed_32_bit_tiff_keeps_what_is_below_0(tmp_path: Path) -> None:
    grey = np.random.default_rng(0).integers(-500, 500, (20, 21), dtype=np.int32)
    grey[0, :2] = -500, 500
    tifffile.imwrite(tmp_path / "x.tif", grey)
    assert np.abs(images.load(tmp_path / "x.tif")[0, 0].numpy() - grey / 500).max() <= 2 * FLOAT32


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_float_tiff_with_a_hole_in_it_is_refused(tmp_path: Path, value: float) -> None:
    grey = np.full((20, 20), 0.5, np.float32)
    grey[3, 4] = value
    PIL_Image.fromarray(grey).save(tmp_path / "x.tif")
    refused(tmp_path / "x.tif", "NaN or infinite")


# ---- what is refused


@pytest.mark.parametrize("ending", ["png", "jpg", "tiff", "webp", "bmp"])
@pytest.mark.parametrize("part", [0.2, 0.6, 0.9])
def test_a_truncated_file_is_refused(tmp_path: Path, ending: str, part: float) -> None:
    path = tmp_path / f"x.{ending}"
    PIL_Image.fromarray(pattern(64, 48)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(part * len(whole))])
    refused(path, "x." + ending)


@pytest.mark.parametrize("ending", ["png", "jpg", "tiff", "webp", "bmp"])
def test_a_damaged_file_loads_or_is_refused_and_never_does_anything_else(tmp_path: Path, ending: str) -> None:
    """Bytes overwritten at random, headers above all; a format without checksums may load with other pixels."""
    path = tmp_path / f"x.{ending}"
    exif = PIL_Image.Exif()
    exif[0x0112] = 6
    PIL_Image.fromarray(pattern(24, 32)).save(path, **({} if ending == "bmp" else {"exif": exif}))
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    outcomes = {"loaded": 0, "refused": 0}
    for trial in range(150):
        damaged = bytearray(whole)
        reach = len(whole) if trial % 2 else min(len(whole), 160)
        for position in rng.integers(0, reach, 1 + trial % 4):
            damaged[position] = rng.integers(256)
        path.write_bytes(bytes(damaged))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                image = images.load(path)
            except InputError as error:
                assert "\n" not in str(error)  # noqa: PT017
                outcomes["refused"] += 1
            else:
                assert torch.isfinite(image).all()
                assert image.abs().max() <= 1
                outcomes["loaded"] += 1
    assert outcomes["refused"] > 10, outcomes


def test_a_name_that_is_nobodys_is_refused_with_those_that_can_be_had() -> None:
    """Every other file that is no image: tests/test_faults.py."""
    assert "chelsea" in refused("lenna", "'lenna' is neither a file nor a bundled photograph")


def test_a_format_that_was_not_asked_for_is_refused(tmp_path: Path) -> None:
    """Pillow reads dozens of formats; each is one more parser before a stranger's file."""
    PIL_Image.fromarray(pattern(20, 20)).save(tmp_path / "x.png", format="PPM")
    refused(tmp_path / "x.png", "nothing in it reads as one")
    PIL_Image.fromarray(pattern(20, 20)).save(tmp_path / "x.gif")
    refused(tmp_path / "x.gif", "nothing in it reads as one")


@pytest.mark.parametrize(
    "source", ["", "x" * 5000, "a\0b", "~nobody-of-this-name/x.png", "/dev/null", "two\nlines.png"]
)
def test_a_name_that_can_be_no_file_is_refused_in_one_line(source: str) -> None:
    refused(source)


@pytest.mark.parametrize("shape", [(1, 1), (15, 300), (300, 15)])
def test_an_image_too_small_to_restore_is_refused(tmp_path: Path, shape: tuple[int, int]) -> None:
    PIL_Image.fromarray(pattern(*shape)).save(tmp_path / "x.png")
    refused(tmp_path / "x.png", f"{shape[1]} × {shape[0]}")
    refused(tmp_path / "x.png", "16 pixels", size=32)  # not even enlarged


def test_the_smallest_image_is_taken(tmp_path: Path) -> None:
    PIL_Image.fromarray(pattern(16, 16)).save(tmp_path / "x.png")
    assert images.load(tmp_path / "x.png").shape == (1, 3, 16, 16)


@pytest.mark.parametrize(("size", "least"), [(None, 3 * 36), (64, 3 * 73), (3000, 9 * 73)])
def test_what_reading_needs_more_memory_for_than_there_is_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int | None, least: int
) -> None:
    PIL_Image.new("RGB", (1732, 1732)).save(tmp_path / "x.png")
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: pytest.fail("decoded"))
    monkeypatch.setattr(compute, "ram", lambda: least * 10**6)
    refused(tmp_path / "x.png", "pixels, which take 0.", size=size)


def test_a_file_of_too_many_bytes_is_refused_before_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few decoders read all of it to learn its size, and text may stand before the pixels."""
    with (tmp_path / "x.webp").open("wb") as file:
        file.truncate(images.LARGEST_FILE + 1)  # of which the disk holds nothing
    monkeypatch.setattr(PIL_Image, "open", lambda *_, **__: pytest.fail("opened"))
    refused(tmp_path / "x.webp", "has 536,870,913 bytes; expected at most 536,870,912: save it in fewer")


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the exact count is Linux's")
@pytest.mark.parametrize("size", [None, 64])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "I;16", "F"])
def test_what_reading_is_said_to_take_lies_below_the_peak_and_near_it(
    tmp_path: Path, mode: str, size: int | None
) -> None:
    side = 2000
    dtype = {"I;16": np.uint16, "F": np.float32}.get(mode)
    image = PIL_Image.new(mode, (side, side)) if dtype is None else PIL_Image.fromarray(np.zeros((side, side), dtype))
    image.save(tmp_path / "x.tif")
    images.load(tmp_path / "x.tif", 16)  # what the first file of a process loads
    with compute.peak_memory() as peak:
        images.load(tmp_path / "x.tif", size)
    need = (images.FILE_BYTES + (images.WHOLE_BYTES if size is None else images.CUT_BYTES)) * side**2
    assert peak.bytes / 3 <= need <= peak.bytes


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_001, 20_000, 60_000])
def test_too_many_pixels_are_refused_before_they_are_decoded(
    tmp_path: Path, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decoded(*_: object) -> None:
        raise AssertionError("the pixels were decoded")

    (tmp_path / "x.png").write_bytes(png_of_size(side, side))
    monkeypatch.setattr(PIL_Image.Image, "load", decoded)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decoded)
    refused(tmp_path / "x.png", r"pixels")


def test_the_limit_on_pixels_is_inclusive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    PIL_Image.fromarray(pattern(20, 30)).save(tmp_path / "x.png")
    monkeypatch.setattr(images, "LARGEST_PIXELS", 600)
    assert images.load(tmp_path / "x.png").shape == (1, 3, 20, 30)
    monkeypatch.setattr(images, "LARGEST_PIXELS", 599)
    assert "600 pixels" in refused(tmp_path / "x.png")


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("size", [0, 15, -64, True, 64.0, "64", (64,), (64, 64, 64), (64, 8), (64, 64.0), ()])
@pytest.mark.parametrize("from_file", [False, True])
def test_a_size_that_is_none_is_refused(tmp_path: Path, size: object, from_file: bool) -> None:
    source = "chelsea"
    if from_file:
        source = str(tmp_path / "x.png")
        PIL_Image.fromarray(pattern(20, 30)).save(source)
    refused(source, "size", size)  # type: ignore[arg-type]


@pytest.mark.usefixtures("unchecked")
def test_a_size_may_be_a_list_as_notebooks_parameters_are() -> None:
    assert images.load("chelsea", [32, 48]).shape == (1, 3, 32, 48)  # type: ignore[arg-type]


# ---- geometry


@given(st.integers(16, 90), st.integers(16, 90), st.integers(16, 70), st.integers(16, 70))
def test_the_centre_cut_is_the_largest_of_its_shape_and_scikit_images_resize(
    height: int, width: int, h: int, w: int
) -> None:
    array = pattern(height, width)
    buffer = io.BytesIO()
    PIL_Image.fromarray(array).save(buffer, "PNG")
    path = Path(os.environ.get("TMPDIR", "/tmp")) / f"dipddpm-test-{os.getpid()}.png"
    path.write_bytes(buffer.getvalue())
    try:
        image = images.load(path, (h, w))
    finally:
        path.unlink()
    # independently: cut until the aspect ratio fits, keeping the longer side that fits whole
    if height * w >= width * h:
        rows, columns = round(width * h / w), width
    else:
        rows, columns = height, round(height * w / h)
    top, left = (height - rows) // 2, (width - columns) // 2
    cut = array[top : top + rows, left : left + columns] / 255
    shrinks = rows > h or columns > w
    wanted = cut if (rows, columns) == (h, w) else skimage_resize(cut, (h, w), order=3, anti_aliasing=shrinks)
    assert image.shape == (1, 3, h, w)
    # float64 on both sides, rounded to float32 once, then twice that and minus 1
    assert np.abs(image[0].permute(1, 2, 0).numpy() - (2 * wanted - 1)).max() <= 2 * FLOAT32


@pytest.mark.parametrize(("height", "width"), [(200, 120), (121, 200), (101, 101)])
@pytest.mark.parametrize("size", [16, (33, 17), (30, 64)])
def test_the_centre_stays_in_the_centre(tmp_path: Path, height: int, width: int, size: images.Size) -> None:
    """A ramp keeps its mean under every symmetric cut and resize; off by a pixel would be seen."""
    i, j = np.mgrid[:height, :width]
    ramp = np.stack([i, j, i + 0 * j], -1).astype(np.float64)
    ramp = ramp / max(height, width) * 0.8 + 0.1
    tifffile.imwrite(tmp_path / "i.tif", ramp[..., 0].astype(np.float32))
    tifffile.imwrite(tmp_path / "j.tif", ramp[..., 1].astype(np.float32))
    half_pixel = 0.8 * 2 * 0.5 / max(height, width)  # the cut may be off by half a pixel where parities differ
    for file, whole in (("i.tif", ramp[..., 0]), ("j.tif", ramp[..., 1])):
        image = images.load(tmp_path / file, size)
        assert abs(image.mean().item() - (2 * whole.mean() - 1)) <= half_pixel + 0.002  # the spline's own border


def test_details_finer_than_the_new_grid_are_averaged_and_not_aliased(tmp_path: Path) -> None:
    bars = np.broadcast_to((np.arange(128) % 3 == 0) * 255, (128, 128)).astype(np.uint8)
    PIL_Image.fromarray(bars).save(tmp_path / "x.png")
    # a third of the columns is white; a Gaussian of σ = (8 − 1)/2 source pixels leaves e^(−2π²σ²/9) = 1e-12 of the bars
    assert (images.load(tmp_path / "x.png", 16)[..., 2:-2, 2:-2] + 1 / 3).abs().max() < 0.01


def test_enlarging_keeps_a_constant_and_the_range(tmp_path: Path) -> None:
    PIL_Image.fromarray(np.full((20, 30, 3), 77, np.uint8)).save(tmp_path / "x.png")
    assert (images.load(tmp_path / "x.png", (50, 80)) - (77 / 127.5 - 1)).abs().max() <= 2 * FLOAT32
    PIL_Image.fromarray(((pattern(20, 30) > 127) * 255).astype(np.uint8)).save(tmp_path / "y.png")
    assert images.load(tmp_path / "y.png", 64).abs().max() <= 1, "cubic overshoot must be clipped"


def test_resizing_to_the_same_size_changes_nothing() -> None:
    image = images.load("rocket", (33, 47))
    assert torch.equal(images.resize(image, (33, 47)), image)
    assert images.resize(image, (16, 80)).shape == (1, 3, 16, 80)


# ---- out again


@given(st.integers(0, 255))
def test_eight_bits_survive_the_way_through_the_range(level: int) -> None:
    assert images.to_uint8(torch.full((1, 3, 1, 1), level / 127.5 - 1)).unique().tolist() == [level]


def test_values_beyond_the_range_saturate_and_halves_round() -> None:
    image = torch.tensor([-7.0, -1.0, -1 + 0.6 / 127.5, 0.0, 1.0, 7.0]).reshape(1, 1, 1, 6).expand(1, 3, 1, 6)
    assert images.to_uint8(image)[0, 0, 0].tolist() == [0, 0, 1, 128, 255, 255]
    assert images.to_array(image).shape == (1, 6, 3)


@pytest.mark.parametrize("ending", ["png", "tiff", "tif", "bmp", "PNG"])
def test_saving_and_loading_is_the_identity_on_eight_bit_pixels(tmp_path: Path, ending: str) -> None:
    image = expected(pattern(21, 34))
    images.save(image, tmp_path / f"x.{ending}")
    assert same(images.load(tmp_path / f"x.{ending}"), image)


@pytest.mark.parametrize("ending", ["jpg", "jpeg", "webp"])
def test_saving_to_a_lossy_format_keeps_the_picture(tmp_path: Path, ending: str) -> None:
    image = expected(smooth(32, 48))
    images.save(image, tmp_path / f"x.{ending}")
    mse = (images.load(tmp_path / f"x.{ending}") - image).square().mean().item()
    assert 10 * np.log10(4 / mse) > 30  # dB: what quality 75 to 80 gives smooth pictures, with room


@pytest.mark.parametrize("name", ["x.gif", "x", "x.pt", "x.png.exe"])
def test_saving_under_another_ending_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"expected a name ending in .*\.png") as caught:
        images.save(torch.zeros(1, 3, 16, 16), tmp_path / name)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / name).exists()


# ---- an image's name by content


def test_a_digest_follows_the_pixels_and_not_the_file(tmp_path: Path) -> None:
    array = pattern(20, 24)
    PIL_Image.fromarray(array).save(tmp_path / "a.png")
    PIL_Image.fromarray(array).save(tmp_path / "b.tiff")
    first, second = images.load(tmp_path / "a.png"), images.load(tmp_path / "b.tiff")
    assert images.digest(first) == images.digest(second)
    changed = array.copy()
    changed[5, 6, 1] ^= 1
    PIL_Image.fromarray(changed).save(tmp_path / "a.png")
    assert images.digest(images.load(tmp_path / "a.png")) != images.digest(first)


def test_a_digest_tells_apart_what_is_one_picture_in_8_bits(tmp_path: Path) -> None:
    """Two dark 16-bit files: rounded to 8 bits both are black, and one would be served the other's result."""
    dark = np.random.default_rng(0).integers(0, 128, (2, 20, 24), dtype=np.uint16)
    for name, array in zip("ab", dark, strict=True):
        PIL_Image.fromarray(array).save(tmp_path / f"{name}.png")
    first, second = images.load(tmp_path / "a.png"), images.load(tmp_path / "b.png")
    assert torch.equal(images.to_uint8(first), images.to_uint8(second))
    assert images.digest(first) != images.digest(second)
    assert images.digest(first) == images.digest(first.clone())


def test_tags_that_cannot_be_written_anew_do_not_matter(tmp_path: Path) -> None:
    """ImageOps.exif_transpose writes them all, and fails at a maker that is a fraction."""
    tags = struct.pack("<HHII", 0x010F, 5, 1, 38) + struct.pack("<HHIHH", 0x0112, 3, 1, 6, 0)
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 2) + tags + struct.pack("<I", 0) + struct.pack("<II", 1, 3)
    PIL_Image.fromarray(pattern(20, 24)).save(tmp_path / "x.png", exif=exif)
    with PIL_Image.open(tmp_path / "x.png") as file, pytest.raises(AttributeError):
        ImageOps.exif_transpose(file)
    assert images.load(tmp_path / "x.png").shape == (1, 3, 24, 20)


def test_a_decoder_that_fails_as_nobody_foresaw_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    PIL_Image.fromarray(pattern(20, 24)).save(tmp_path / "x.png")
    for error in (MemoryError("no room"), ArithmeticError("odd"), struct.error("short")):
        monkeypatch.setattr(PIL_Image.Image, "convert", Mock(side_effect=error))
        with pytest.raises(InputError, match="is not a whole PNG"):
            images.load(tmp_path / "x.png")


def test_a_digest_knows_the_shape() -> None:
    image = torch.rand(1, 3, 16, 32, generator=torch.Generator().manual_seed(0))
    assert images.digest(image) != images.digest(image.reshape(1, 3, 32, 16))
    assert images.digest(image) != images.digest(image.flip(-1))


def test_only_one_place_knows_255() -> None:
    """The range [0, 255] stays in `images`; priors' thumbnails are files' contents and no intensities."""
    here = Path(inspect.getfile(images)).parent
    for module in ("compute", "schedules", "networks", "types"):
        assert "255" not in (here / f"{module}.py").read_text(), module


def test_corners_are_other_crops_of_the_photograph() -> None:
    found, larger = images.corners("chelsea", 40), images.load("chelsea", 50)
    assert found.shape == (4, 3, 40, 40)
    for i, (top, left) in enumerate([(0, 0), (0, 10), (10, 0), (10, 10)]):
        assert torch.equal(found[i], larger[0, :, top : top + 40, left : left + 40])
