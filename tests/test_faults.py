"""What people feed the library and what machines do to it: bad files, bad parameters, full disks, killed processes."""

# ruff: noqa: E402 (benchmarks/ is a folder of scripts, not a package: its path comes before its imports)
from __future__ import annotations

import json
import math
import os
import re
import resource
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from nbformat import v4
from PIL import Image as PIL_Image
from torch import Tensor

from dipddpm_lib import (
    cells,
    classical,
    compute,
    ddpm,
    dip,
    evidence,
    experiment,
    hybrid,
    images,
    metrics,
    narrative,
    operators,
    priors,
    store,
)
from dipddpm_lib.cells import Cell
from dipddpm_lib.classical import ClassicalConfig
from dipddpm_lib.ddpm import SampleConfig, TrainConfig
from dipddpm_lib.dip import DIPConfig
from dipddpm_lib.hybrid import HybridConfig
from dipddpm_lib.play import Choice
from dipddpm_lib.schedules import NoiseSchedule, spacing
from dipddpm_lib.types import InputError, Measurement, Step
from dipddpm_lib.widgets import Panel

ROOT = Path(__file__).resolve().parents[1]
for folder in ("benchmarks", "report"):
    sys.path.insert(0, str(ROOT / folder))

import faults

import build

TINY = DIPConfig(filters=(8, 8), skip=4, in_channels=8, iterations=3, held_out=0.1)
NASTY = '"><img src=x onerror=alert(1)>.png'


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DIPDDPM_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


# ---- files, one row a fault: how it is made, and the line that answers it; None where it is read as an image


def pixels(height: int = 24, width: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def written(path: Path, kind: str = "PNG", mode: str = "RGB", **options: Any) -> Path:
    PIL_Image.fromarray(pixels()).convert(mode).save(path, kind, **options)
    return path


def holding(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def cut(path: Path) -> Path:
    return holding(path, path.read_bytes()[: path.stat().st_size // 2])


def png(path: Path, width: int, height: int) -> Path:
    """A PNG that claims a size and holds 64 bytes of pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes(64)))
    return holding(path, b"\x89PNG\r\n\x1a\n" + head + body + chunk(b"IEND", b""))


def greys(path: Path, value: float) -> Path:
    """A TIFF of floats, one of which is this."""
    array = np.full((24, 32), 0.5, np.float32)
    array[3, 4] = value
    PIL_Image.fromarray(array).save(path, "TIFF")
    return path


def deep(path: Path) -> Path:
    PIL_Image.fromarray(pixels()[..., 0].astype(np.uint16) * 257).save(path, "PNG")
    return path


def turned(path: Path, orientation: int) -> Path:
    exif = PIL_Image.Exif()
    exif[0x0112] = orientation
    return written(path, "JPEG", exif=exif)


def folder_at(path: Path) -> Path:
    path.mkdir()
    return path


def moving(path: Path, kind: str) -> Path:
    first, second = (PIL_Image.fromarray(pixels() ^ bits) for bits in (0, 255))
    first.save(path, kind, save_all=True, append_images=[second])
    return path


NOT_ONE = "is not a whole PNG, JPEG, TIFF, WebP or BMP image"
FILES: dict[str, tuple[Callable[[Path], Path], str | None]] = {
    "missing": (lambda d: d / "none.png", "neither a file nor a bundled photograph; give a path"),
    "a folder": (lambda d: folder_at(d / "x.png"), "is a folder or a device; give the path of one image file"),
    "empty": (lambda d: holding(d / "x.png", b""), NOT_ONE),
    "truncated PNG": (lambda d: cut(written(d / "x.png")), NOT_ONE),
    "truncated JPEG": (lambda d: cut(written(d / "x.jpg", "JPEG")), NOT_ONE),
    "text": (lambda d: holding(d / "x.png", b"no image at all\n" * 99), NOT_ONE),
    "HTML": (lambda d: holding(d / "x.png", b"<!doctype html><img src=x onerror=alert(1)>"), NOT_ONE),
    "SVG": (lambda d: holding(d / "x.png", b'<svg xmlns="http://www.w3.org/2000/svg"/>'), NOT_ONE),
    "zero width": (lambda d: png(d / "x.png", 0, 20), NOT_ONE),
    "zero height": (lambda d: png(d / "x.png", 20, 0), NOT_ONE),
    "1 × 1": (lambda d: png(d / "x.png", 1, 1), "is 1 × 1; expected 16 pixels or more a side"),
    "over the limit": (lambda d: png(d / "x.png", 10_001, 10_000), "has 100,010,000 pixels; expected at most"),
    "decompression bomb": (lambda d: png(d / "x.png", 60_000, 60_000), "decompression bomb"),
    "NaN": (lambda d: greys(d / "x.tif", float("nan")), "holds NaN or infinite values; expected finite"),
    "infinite": (lambda d: greys(d / "x.tif", float("inf")), "holds NaN or infinite values; expected finite"),
    "an animated GIF": (lambda d: moving(d / "x.png", "GIF"), NOT_ONE),
    "an animated PNG": (lambda d: moving(d / "x.png", "PNG"), None),
    "an animated WebP": (lambda d: moving(d / "x.webp", "WEBP"), None),
    "CMYK": (lambda d: written(d / "x.jpg", "JPEG", "CMYK"), None),
    "a palette": (lambda d: written(d / "x.png", "PNG", "P"), None),
    "16-bit": (lambda d: deep(d / "x.png"), None),
    "alpha": (lambda d: written(d / "x.png", "PNG", "RGBA"), None),
    **{f"EXIF {n}": (lambda d, n=n: turned(d / "x.jpg", n), None) for n in range(1, 9)},
    "spaces in its name": (lambda d: written(d / "my own picture.png"), None),
    "Unicode in its name": (lambda d: written(d / "Bild ü 画像 🖼.png"), None),
    "a line break in its name": (lambda d: written(d / "two\nlines.png"), None),
    "markup in its name": (lambda d: written(d / NASTY), None),
    "a line break in a bad file's name": (lambda d: holding(d / "two\nlines.png", b"no image"), NOT_ONE),
    "markup in a bad file's name": (lambda d: holding(d / NASTY, b"no image"), NOT_ONE),
}
BAD_FILES = [name for name, (_, line) in FILES.items() if line]


def line_of(work: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        work()
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("fault", FILES)
def test_a_file_is_read_or_answered_in_one_line(
    fault: str, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `load` itself, and by a sweep before its first cell."""
    make, line = FILES[fault]
    path = make(tmp_path)
    if fault in ("over the limit", "decompression bomb"):
        monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda *_: pytest.fail("the pixels were decoded"))
    if line is None:
        image = images.load(str(path))
        assert image.shape == ((1, 3, 32, 24) if fault in [f"EXIF {n}" for n in (5, 6, 7, 8)] else (1, 3, 24, 32))
        assert image.std() > 0.1
        assert images.load(str(path), 32).shape == (1, 3, 32, 32)
        return
    told = line_of(lambda: images.load(str(path)))
    assert line in told
    assert repr(str(path))[1:-1] in told, "the file is named"
    good = Cell("coffee", 32, 0, TINY)
    assert line in line_of(lambda: experiment.sweep([good, replace(good, image=str(path))]))
    assert not root.exists(), "nothing was computed"


def test_a_file_that_may_not_be_read_is_answered_in_one_line(tmp_path: Path) -> None:
    """By a process that may read nothing of root's: root itself reads everything."""
    path = written(tmp_path / "x.png")
    path.chmod(0)
    if os.geteuid() != 0:
        assert "Permission denied" in line_of(lambda: images.load(str(path)))
        return
    for each in (tmp_path, *tmp_path.parents):
        if each.stat().st_uid == 0 and each != Path("/") and not each.stat().st_mode & 1:
            each.chmod(each.stat().st_mode | 0o11)  # may be gone through
    os.seteuid(65534)
    try:
        assert "Permission denied" in line_of(lambda: images.load(str(path)))
    finally:
        os.seteuid(0)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_panel_says_it_too(tmp_path: Path) -> None:
    for fault in BAD_FILES:
        place = tmp_path / fault.replace(" ", "_")
        place.mkdir()
        make, line = FILES[fault]
        panel = Panel(Choice(image=str(make(place)), size=32, method="DIP"))
        panel.run()
        panel.wait(60.0)
        said = panel.hint.value
        assert line is not None
        assert line in said, fault
        inner = re.fullmatch(r"<div[^<>]*>([^<>]*)</div>", said)
        assert inner, f"a name is no markup: {said}"
        assert "failed" not in said


@pytest.mark.parametrize("fault", ["markup in a bad file's name", "truncated JPEG"])
def test_a_batch_ends_with_that_line_and_a_status(
    fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SOURCE_DATE_EPOCH", "JUPYTER_PREFER_ENV_PATH", "PYDEVD_DISABLE_FILE_VALIDATION"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    make, line = FILES[fault]
    given = v4.new_code_cell('image = "coffee"', metadata={"tags": ["parameters"]})
    loads = v4.new_code_cell("from dipddpm_lib import images\nimages.load(image)")
    (tmp_path / "notebooks").mkdir()
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = v4.new_notebook(cells=[given, loads], metadata={"kernelspec": kernel})
    nbformat.write(notebook, tmp_path / "notebooks" / "00_first.ipynb")
    arguments = ["--notebooks", str(tmp_path / "notebooks"), "--output", str(tmp_path / "out"), "--no-pdf"]
    assert build.main([*arguments, "-p", f"image={json.dumps(str(make(tmp_path)))}"]) == 1
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert line is not None
    assert told.startswith("error: 00_first, cell 3: InputError: image: ")  # papermill's own cell is the second
    assert line in told


# ---- parameters, one row a fault


def cell(config: Any = TINY, **more: Any) -> Cell:
    training = TrainConfig(channels=(8,), steps=2, batch=2, warmup=1)
    return Cell(
        **{"image": "coffee", "size": 32, "seed": 0, "config": config, "prior": "single"}
        | {"training": training}
        | more
    )


NAN = float("nan")
ONE, SEEDED, EMPTY = torch.zeros(1, 3, 32, 32), torch.Generator(), evidence.Results([])
TWO = torch.cat([ONE, ONE])


def seen(y: Any) -> Measurement:
    return Measurement(y, operators.Identity(), 0.1)


def solve(measurement: Measurement, generator: Any) -> list[Step]:
    return list(hybrid.reconstruct(measurement, nobody, NoiseSchedule.cosine(10), HybridConfig(), generator))


def masked(size: int) -> operators.Inpainting:
    return operators.Inpainting(torch.ones(size, size, dtype=torch.bool))


def nobody(x_t: Tensor, sigma: float | Tensor) -> Tensor:
    raise AssertionError("the denoiser was called")


def held_out(count: int) -> float:
    mask = torch.zeros(32, 32, dtype=torch.bool)
    mask[0, :count] = True
    y = operators.measure(operators.Inpainting(mask), ONE, 0.0, SEEDED)
    return classical.held_out_rmse(y, ClassicalConfig(), 0.5, SEEDED)


PARAMETERS: dict[str, tuple[Callable[[], object], str]] = {
    "text for a number": (lambda: DIPConfig(iterations="600"), "iterations: expected a whole number, got '600'"),
    "text for a number, in a preset": (lambda: DIPConfig.fast("600"), "iterations: expected a whole number, got '600'"),
    "a fraction for a number": (lambda: cell(size=32.0), "size: expected a whole number, got 32.0"),
    "True for a number": (lambda: SampleConfig(steps=True), "steps: expected a whole number, got True"),
    "a number for text": (lambda: cell(image=3), "image: expected text, got 3"),
    "a list for a tuple": (lambda: DIPConfig(filters=[8, 8]), "filters: expected a tuple, each of its items a whole"),
    "nothing for a configuration": (lambda: cell(config=None), "config: expected a DIPConfig or"),
    "an unknown word": (lambda: DIPConfig(stop="soon"), "stop: expected none, emv or held_out, got 'soon'"),
    "an unknown task": (lambda: cell(task="paint"), "task: expected one of denoise_25"),
    "an unknown schedule": (lambda: cell(SampleConfig(2), schedule="square"), "schedule: expected linear, cosine or"),
    "a negative number": (lambda: DIPConfig(iterations=-1), "iterations: expected 1 or more, got -1"),
    "a negative rate": (lambda: TrainConfig(lr=-0.1), "lr: expected a rate above 0, got -0.1"),
    "a negative size": (lambda: cell(size=-32), "size: expected a side"),
    "a negative sigma_y": (lambda: Measurement(torch.zeros(1, 3, 16, 16), operators.Identity(), -1.0), "sigma_y is"),
    "NaN": (lambda: SampleConfig(eta=NAN), "eta: expected a finite number, got nan"),
    "an infinite factor": (lambda: HybridConfig(rho=float("inf")), "rho: expected a finite number, got inf"),
    "NaN for a size": (lambda: cell(size=NAN), "size: expected a whole number, got nan"),
    "T below 2": (lambda: cell(SampleConfig(1), T=1), "T counts the steps of the diffusion: expected a whole number"),
    "a T that no memory holds": (lambda: NoiseSchedule.cosine(10**12), "from 2 to 1,000,000, got 1000000000000"),
    "t_start above T": (
        lambda: cell(HybridConfig(TINY, SampleConfig(2), t_start=11), T=10),
        "from 0 to T = 10, got 11",
    ),
    "more steps than T": (lambda: cell(SampleConfig(11), T=10), "steps: expected at most T = 10, got 11"),
    "more steps than T, alone": (lambda: spacing(NoiseSchedule.cosine(9), 9, 10, "uniform"), "at most T = 9, got 10"),
    "no warm-up to divide by": (lambda: TrainConfig(warmup=0), "warmup: expected 1 step or more, got 0"),
    "too large an image": (lambda: images.load("coffee", 10**6), "size: expected at most 100,000,000 pixels"),
    "a fit that no memory holds": (lambda: cell(DIPConfig.published(), size=10_000), "GiB of memory, this machine has"),
    "a call that no memory holds": (lambda: cell(SampleConfig(2), size=10**6, prior="bundled"), "lower the size, or"),
    "a width that no memory holds": (lambda: cell(DIPConfig(filters=(10**6,) * 2)), "lower the size, or the widths"),
    "an input that no memory holds": (lambda: cell(DIPConfig(in_channels=10**9)), "lower the size, or the widths"),
    "skips that no memory holds": (lambda: cell(DIPConfig(skip=10**9)), "lower the size, or the widths"),
    "a depth that no memory holds": (lambda: cell(DIPConfig(filters=(8,) * 20)), "lower the size, or the widths"),
    "NaN in y": (
        lambda: seen(ONE / 0),
        "y: expected finite numbers, got 3072 that are not; where nothing is seen put 0",
    ),
    "bytes for y": (
        lambda: seen(ONE.byte()),
        "y: expected a tensor of floating-point numbers in units of [-1, 1], got a",
    ),
    "an array for y": (lambda: seen(ONE.numpy()), "in units of [-1, 1], got a ndarray"),
    "y without rows": (
        lambda: seen(ONE[0, 0]),
        "y: expected shape (b, c, rows, columns) or (b, c, rows, columns, k), g",
    ),
    "an infinite sigma_y": (
        lambda: Measurement(ONE, operators.Identity(), math.inf),
        "expected a number, 0 or more, got inf",
    ),
    "two images for DIP": (lambda: dip.reconstruct(seen(TWO), TINY, SEEDED), "dip: expected one image, got 2; restore"),
    "two images for the hybrid": (lambda: solve(seen(TWO), SEEDED), "hybrid: expected one image, got 2; restore them"),
    "two for scikit-image": (lambda: list(classical.reconstruct(seen(TWO), ClassicalConfig())), "expected one image, "),
    "a seed for DIP's generator": (
        lambda: dip.reconstruct(seen(ONE), TINY, 0),
        "generator: expected a torch.Generator",
    ),
    "a seed for the hybrid's": (lambda: solve(seen(ONE), 0), "as compute.generator(seed, name) makes, got 0"),
    "a seed for the noise's": (
        lambda: operators.measure(operators.Identity(), ONE, 0.1, 0),
        "generator: expected a to",
    ),
    "a seed for the training's": (lambda: ddpm.train([ONE], TrainConfig(), 0), "generator: expected a torch.Generator"),
    "a tensor to train on": (
        lambda: ddpm.train(TWO, TrainConfig(), SEEDED),
        "train: expected a list of images (1, 3, ",
    ),
    "two images in one": (
        lambda: ddpm.train([TWO], TrainConfig(), SEEDED),
        "train: images[0]: expected one image (1, 3",
    ),
    "grey to train on": (
        lambda: ddpm.train([ONE[:, :1]], TrainConfig(), SEEDED),
        "load gives, got shape (1, 1, 32, 32)",
    ),
    "NaN to train on": (lambda: ddpm.train([ONE, ONE / 0], TrainConfig(), SEEDED), "train: images[1]: expected finite"),
    "a name for a target": (
        lambda: priors.load("coffee"),
        "prior: the target: expected a tensor of floating-point num",
    ),
    "bytes to score": (
        lambda: metrics.psnr(ONE.byte(), ONE.byte()),
        "metrics: expected intensities in [-1, 1], got torc",
    ),
    "an image without its batch": (
        lambda: metrics.ssim(ONE[0], ONE[0]),
        "ssim: expected images (b, 3, h, w), got shape",
    ),
    "NumPy's number": (lambda: DIPConfig(lr=np.float32(0.1)), "NumPy's own; give Python's (.item() or .tolist())"),
    "a mask of another size": (
        lambda: Measurement(ONE, masked(16), 0.0),
        "y: expected a shape that the operator's mask",
    ),
    "an array for a mask": (
        lambda: operators.Inpainting(np.ones((8, 8), bool)),
        "expected the mask as a tensor, got a",
    ),
    "an array for a kernel": (lambda: operators.Blur(np.ones((3, 3))), "Blur: the kernel: expected a tensor of float"),
    "nothing for a file": (lambda: images.load(None), "image: expected a bundled photograph's name or a file's path"),
    "grey to save": (lambda: images.save(ONE[:, :1], "x.png"), "save: expected an image (b, 3, h, w), got shape (1, 1"),
    "nothing to tabulate": (lambda: EMPTY.table("label"), "table: expected one result or more, got none"),
    "an unknown field": (
        lambda: EMPTY.only(sise=32),
        "only: expected some of T, config, first, image, label, method, pr",
    ),
    "a level in per cent": (
        lambda: evidence.interval([1.0], level=95),
        "level: expected a share between 0 and 1, as 0",
    ),
    "a number for a list": (
        lambda: narrative.check_lists(n=20),
        "n: expected a list of whole numbers, which papermill ",
    ),
    "a list in words": (lambda: narrative.check_lists(n="[20]"), "takes as -y 'n: [20, 10]', got '[20]'"),
    "a list of words": (lambda: narrative.check_lists(n=["a"]), "n[0]: expected a whole number of 1 or more, got 'a'"),
    "no workers": (lambda: experiment.sweep([cell()], workers=0), "workers: expected 1 "),
    "one pixel to hold out": (
        lambda: held_out(1),
        "held_out: expected two seen pixels or more, one of them to hold out, ",
    ),
    "a batch that no memory holds": (lambda: cell(SampleConfig(2), training=TrainConfig(batch=10**7)), "the batch of"),
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("fault", PARAMETERS)
def test_a_parameter_is_answered_in_one_line(fault: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, line = PARAMETERS[fault]
    monkeypatch.setattr(compute, "memory", lambda: 2**36)

    def swept() -> None:
        made = make()
        if isinstance(made, Cell):
            experiment.sweep([cell(), made])

    assert line in line_of(swept)
    assert not root.exists(), "nothing was computed"


@pytest.mark.parametrize("pair", ["SIZE=nan", "SIGMA=nan", "SIGMA=.inf", "SIGMA=[1]", "SIZES=[1, x]"])
def test_a_batch_refuses_a_parameter_before_any_kernel(
    pair: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("execution.run_notebooks", lambda *_: pytest.fail("a kernel was started"))
    (tmp_path / "notebooks").mkdir()
    given = v4.new_code_cell("SIZE = 32\nSIGMA = 0.5\nSIZES = [32]", metadata={"tags": ["parameters"]})
    nbformat.write(v4.new_notebook(cells=[given]), tmp_path / "notebooks" / "00_first.ipynb")
    arguments = ["--notebooks", str(tmp_path / "notebooks"), "--output", str(tmp_path / "out"), "-p", pair]
    assert build.main(arguments) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert f"parameter {pair.partition('=')[0]} expects" in told


@pytest.mark.parametrize(
    ("config", "size"), [(DIPConfig.fast(), 512), (DIPConfig.snail(), 384), (DIPConfig.shaped(4, 32), 384)]
)
def test_the_estimate_of_memory_lies_below_the_peak_and_near_it(config: DIPConfig, size: int) -> None:
    """Below, so that nothing is refused that fits; the lower bound is what the comment beside the constants claims."""
    y = Measurement(torch.zeros(1, 3, size, size), operators.Identity(), 0.0)
    fits = dip.reconstruct(y, config, compute.generator(0, "dip"))
    with compute.peak_memory() as peak:
        next(fits), next(fits)
    assert 0.4 * peak.bytes < cells.bytes_needed(config, size) < peak.bytes


def test_a_call_of_the_denoiser_is_estimated_too() -> None:
    denoiser = priors.load_fold(1)
    with compute.peak_memory() as peak, torch.no_grad():
        denoiser(torch.zeros(1, 3, 768, 768), 0.5)
    assert 0.4 * peak.bytes < cells.bytes_needed(SampleConfig(), 768) < peak.bytes


# ---- mutated inputs: an answer, or an `InputError`, and nothing else


def test_mutated_files_are_images_or_refused() -> None:
    found = faults.mutated_images(250)
    assert found["tried"] >= 250
    assert min(found["results"], found["refused"]) > 10


@pytest.mark.usefixtures("unchecked")
def test_mutated_configurations_run_or_are_refused() -> None:
    found = faults.mutated_configurations(150)
    assert found["tried"] >= 150
    assert min(found["results"], found["refused"]) > 10


def test_what_is_neither_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """The counts above can fail: a fault that `load` let through would end them."""
    monkeypatch.setattr(images, "load", lambda path: (_ for _ in ()).throw(struct.error("unpack requires 4 bytes")))
    with pytest.raises(struct.error):
        faults.mutated_images(5)


# ---- disks


@contextmanager
def small_disk(path: Path) -> Iterator[None]:
    """Two megabytes of their own where this process may mount; else files that may grow to 64 kilobytes."""
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", path], capture_output=True, check=False)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if mounted.returncode != 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
    try:
        yield
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", path], check=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def fill(checkpoint: store.Checkpoint) -> tuple[list[int], str]:
    """Results and checkpoints until no more goes onto the disk: which results are stored, and what was said."""
    stored: list[int] = []
    for n in range(7, 10_000, 10):  # 64 kilobytes each, and more than that with its header
        try:
            store.remember("faults.value", {"n": n}, lambda n=n: faults.value(n))
            stored.append(n)
            checkpoint.save({"stored": torch.tensor(len(stored))})
        except InputError as error:
            return stored, str(error)
    raise AssertionError("the disk was never full")


def test_a_full_disk_is_one_line_and_nothing_is_lost(root: Path) -> None:
    with small_disk(root):
        checkpoint = store.Checkpoint("filling")
        store.write_list("kept", {"a": 1})
        store.remember("faults.value", {"n": 3}, lambda: faults.value(3))
        stored, told = fill(checkpoint)
        assert told.startswith("store: cannot write to ")
        assert "No space left" in told or "File too large" in told
        assert "free space there, or set DIPDDPM_STORE" in told
        assert "\n" not in told
        for n in (3, *stored):
            kept = store.get(store.key("faults.value", {"n": n}))
            assert kept is not None
            assert faults.is_value(n, kept)
        saved = checkpoint.load()
        assert stored == [] or (saved is not None and int(saved["stored"]) >= len(stored) - 1)
        assert store.read_list("kept") == {"a": 1}
        assert not list(root.glob("**/tmp-*")), "what did not fit is gone"
        assert not (root / "quarantine").exists()


def test_a_full_disk_is_noticed_before_the_computing(root: Path) -> None:
    with small_disk(root):
        fill(store.Checkpoint("filling"))
        left = os.statvfs(root).f_bavail * os.statvfs(root).f_frsize
        if left > 2**20:
            pytest.skip("this process may not mount: the disk is not full, only its files are bounded")
        (root / "rest").write_bytes(bytes(left))
        told = line_of(lambda: store.remember("f", {}, lambda: pytest.fail("computed, and could not be kept")))
        assert "No space left" in told


def test_a_store_that_may_only_be_read_serves_and_refuses_before_the_computing(root: Path) -> None:
    store.remember("faults.value", {"n": 3}, lambda: faults.value(3))
    mounted = subprocess.run(["mount", "--bind", root, root], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip("this process may not mount, and root writes through permissions")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", root], check=True)
        found = store.remember("faults.value", {"n": 3}, lambda: pytest.fail("computed again"))
        assert faults.is_value(3, found)
        told = line_of(lambda: store.remember("f", {}, lambda: pytest.fail("computed, and could not be kept")))
        assert "Read-only file system" in told
        assert "\n" not in line_of(lambda: experiment.sweep([Cell("coffee", 32, 0, ClassicalConfig())]))
    finally:
        subprocess.run(["umount", root], check=True)


CIRCUMSTANCES = {
    "a disk that is full before the computing": "test_faults.test_a_full_disk_is_noticed_before_the_computing",
    "a disk that is full afterwards": "test_faults.test_a_full_disk_is_one_line_and_nothing_is_lost",
    "a disk for reading": "test_faults.test_a_store_that_may_only_be_read_serves_and_refuses_before_the_computing",
    "a notebook that a full disk cut off": "test_report.test_a_notebook_that_was_cut_off_is_one_line",
    "no Chromium": "test_report.test_without_chromium_there_is_a_line_and_no_failure",
    "a Chromium that prints nothing": "test_report.test_a_browser_that_prints_nothing_is_one_line",
    "a kernel that dies": "test_report.test_a_kernel_that_dies_is_seen_and_its_cell_is_named",
    "two builds at once": "test_report.test_two_builds_into_one_folder_do_not_mix",
    "Ctrl-C": "test_report.test_ctrl_c_stops_at_once_and_keeps_what_has_finished",
    "a build that is killed": "test_notebooks.test_a_build_that_was_killed_ends_in_the_page_of_one_that_was_not",
    "a training that is killed": "test_experiment.test_a_killed_training_of_a_prior_ends_in_the_same_weights",
    "a fit that is killed": "test_experiment.test_a_killed_fit_goes_on_to_the_same_bits_and_counts_all_its_seconds",
    "a worker that is killed": "test_workers.test_a_worker_killed_in_a_cell_changes_no_bit",
    "a scheduler that is killed": "test_workers.test_a_killed_scheduler_is_one_line_and_a_second_run_takes_up_the_rest",
    "links in place of the output": "test_report.test_nothing_is_written_through_a_link",
}
"""The rest of the table, beside FILES and PARAMETERS: what happens to a run, and the test in which it does."""


@pytest.mark.parametrize("circumstance", CIRCUMSTANCES)
def test_what_happens_to_a_run_has_its_test(circumstance: str) -> None:
    module, name = CIRCUMSTANCES[circumstance].split(".")
    assert f"\ndef {name}(" in (ROOT / "tests" / f"{module}.py").read_text(encoding="utf-8")


# ---- killed processes


@pytest.mark.slow
def test_killed_writers_lose_nothing_that_was_stored() -> None:
    found = faults.killing(100)
    assert (found["kills"], found["wrong"], found["lost"]) == (100, 0, 0)
    assert found["results"] > 100
    assert found["checkpoints"] > 100


LIARS = {
    "lost": "store.put = lambda key, *rest: put(key, *rest) if int(key, 16) % 3 else None",
    "wrong": "store.put = lambda key, record, arrays: put(key, {'n': -1} if int(key, 16) % 3 else record, arrays)",
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", LIARS)
def test_a_store_that_loses_or_alters_results_is_noticed(fault: str, root: Path) -> None:
    script = f"import json, faults; from dipddpm_lib import store; put = store.put; {LIARS[fault]}"
    done = subprocess.run(
        [sys.executable, "-c", f"{script}; print(json.dumps(faults.kills(4)))"],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'benchmarks'}", "DIPDDPM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[fault] > 0


@pytest.mark.slow
def test_all_of_it_makes_the_record_that_the_appendix_reads(tmp_path: Path) -> None:
    """`make faults` on a small scale, without the fuzzer."""
    command = [sys.executable, str(ROOT / "benchmarks" / "faults.py"), "--kills", "4", "--inputs", "50", "--fuzz", "0"]
    done = subprocess.run(
        [*command, "--output", str(tmp_path / "faults.json")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "faults.json").read_text())
    assert record["kills"]["kills"] == 4
    assert record["images"]["tried"] + record["configurations"]["tried"] >= 50
    assert record["fuzzing"]["engine"] is None
    assert record["overhead"]["put_ms"] > 0
    assert all(record[part]["seconds"] >= 0 for part in ("overhead", "kills", "images", "configurations", "fuzzing"))
