"""The shipped priors know what they were trained on: copies are refused, other pictures are not."""

from __future__ import annotations

import io
import itertools
import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PIL_Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from dipddpm_lib import compute, images, priors
from dipddpm_lib.networks import DenoisingUNet, build
from dipddpm_lib.types import InputError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import train_priors

FOLDS: tuple[priors.Fold, ...] = (1, 2)
TRAINED = tuple(name for name in images.photographs() if name not in priors.EVALUATION)  # by both
# a wheel of pure hues has another luminance once its hues are changed: another picture, to this measure; a street
# full of colours comes near to that (0.895)
RECOLOURED = tuple(name for name in images.photographs() if name not in ("colorwheel", "motorcycle_right"))
STEREO = {"motorcycle_left", "motorcycle_right"}  # two views of one scene


@cache
def thumb(name: str) -> np.ndarray:
    """As the weights file holds it: 8 bits."""
    return np.round(priors._thumb(images.load(name)) * 255) / 255


def thumbs_of_others(name: str) -> dict[str, np.ndarray]:
    same = STEREO if name in STEREO else {name}
    return {other: thumb(other) for other in images.photographs() if other not in same}


def own(image: Tensor, name: str) -> float:
    return priors.similarity(image, thumb(name))


def cut(image: Tensor, part: float, down: float = 0.5, across: float = 0.5) -> Tensor:
    """A window of `part` of the frame; down, across: where it lies, 0 to 1."""
    height, width = image.shape[-2:]
    h, w = round(part * height), round(part * width)
    top, left = round(down * (height - h)), round(across * (width - w))
    return image[..., top : top + h, left : left + w]


def jpeg(image: Tensor, quality: int) -> Tensor:
    buffer = io.BytesIO()
    PIL_Image.fromarray(images.to_array(image)).save(buffer, "JPEG", quality=quality)
    return torch.from_numpy(np.array(PIL_Image.open(buffer))).permute(2, 0, 1)[None].float() / 127.5 - 1


def grey(image: Tensor) -> Tensor:
    return image.mean(1, keepdim=True).expand(-1, 3, -1, -1)


def noisy(image: Tensor, sigma: float = 25) -> Tensor:
    """sigma in 8-bit levels."""
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    return image + 2 * sigma / 255 * noise


COPIES: dict[str, Callable[[str], Tensor]] = {
    "whole": images.load,
    "128²": lambda name: images.load(name, 128),
    "64²": lambda name: images.load(name, 64),
    "96 × 160": lambda name: images.load(name, (96, 160)),
    "mirrored": lambda name: images.load(name, 128).flip(-1),
    "turned": lambda name: torch.rot90(images.load(name, (96, 128)), 1, (2, 3)),
    "turned and mirrored": lambda name: torch.rot90(images.load(name, 128), 3, (2, 3)).flip(-2),
    "JPEG": lambda name: jpeg(images.load(name, 128), 20),
    "brighter": lambda name: images.load(name, 128) * 0.6 + 0.4,
    "noisy": lambda name: noisy(images.load(name, 128)),
    "80 %": lambda name: cut(images.load(name), 0.8, 0.2, 0.9),
    "80 % of 128²": lambda name: cut(images.load(name, 128), 0.8),
}


@pytest.mark.parametrize("name", images.photographs())
def test_a_copy_is_seen_whatever_was_done_to_the_file(name: str) -> None:
    found = {how: round(own(make(name), name), 3) for how, make in COPIES.items()}
    assert min(found.values()) >= priors.SEEN, found


@pytest.mark.parametrize("name", RECOLOURED)
def test_a_recoloured_copy_is_seen(name: str) -> None:
    image = images.load(name, 128)
    assert min(own(grey(image), name), own(image[:, [2, 0, 1]], name)) >= priors.SEEN


@pytest.mark.parametrize("name", [name for name in images.photographs() if name != "text"])
def test_a_cut_of_three_fifths_is_seen(name: str) -> None:
    """`text` is 2.6 times as wide as it is high: there this would leave 15 pixels of its thumbnail."""
    whole, square = images.load(name), images.load(name, 128)
    assert (
        min(own(cut(whole, 0.6), name), own(cut(whole, 0.6, 0.1, 0.8), name), own(cut(square, 0.6), name))
        >= priors.SEEN
    )


@pytest.mark.parametrize("name", images.photographs())
def test_a_photograph_is_not_taken_for_another(name: str) -> None:
    """Whole, and three fifths of the square; the nearest pair (colour wheel, clock) reaches 0.83."""
    for image in (images.load(name), cut(images.load(name, 128), 0.6)):
        found = priors.similarities(image, thumbs_of_others(name))
        assert max(found.values()) < priors.SEEN, max(found.items(), key=lambda item: item[1])


def test_the_two_views_of_one_scene_are_told_as_one() -> None:
    """A limit, not a wish: shifted parallax correlates. Both are training photographs, so nothing is lost."""
    assert "motorcycle_left" in TRAINED
    assert "motorcycle_right" in TRAINED


def synthetic() -> Iterator[tuple[str, Tensor]]:
    """Pictures that nobody photographed: flat, ramps, edges, discs, stripes, checks, noise of four spectra, leaves."""
    i, j = np.mgrid[:128, :128] / 127
    plain = {
        "flat": 0 * i + 0.5,
        "ramp across": j,
        "ramp down": i,
        "ramp along the diagonal": (i + j) / 2,
        "cone": np.hypot(i - 0.5, j - 0.5),
        "blob": np.exp(-8 * ((i - 0.5) ** 2 + (j - 0.5) ** 2)),
        "edge": (j > 0.5) * 1.0,
        "corner": (j > 0.3) * (i > 0.4) * 1.0,
        "disc": (np.hypot(i - 0.5, j - 0.5) < 0.3) * 1.0,
    }
    for period in (3, 13, 55):
        plain[f"sines of {period}"] = (np.sin(2 * np.pi * 127 * j / period) + 1) / 2
        plain[f"bars of {period}"] = (127 * j // period) % 2
        plain[f"checks of {period}"] = (127 * j // period + 127 * i // period) % 2
    rng = np.random.default_rng(0)
    f = np.hypot(np.fft.fftfreq(128)[:, None], np.fft.rfftfreq(128)[None])
    f[0, 0] = 1
    for power in (0, 1, 1.5, 2):
        field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((128, 128))) / f**power)
        plain[f"noise 1/f^{power}"] = (field - field.min()) / np.ptp(field)
    plain["flat with a trace of noise"] = 0.5 + 0.001 * rng.standard_normal((128, 128))
    plain["strip"] = rng.random((16, 200))
    for name, array in plain.items():
        tensor = torch.from_numpy(np.asarray(array, np.float32))
        yield name, tensor.expand(1, 3, -1, -1) * 2 - 1
    palette = [images.load(name, 96) for name in ("grass", "coffee", "retina")]
    for seed in range(2):
        yield f"leaves {seed}", priors.dead_leaves(96, palette, torch.Generator().manual_seed(seed))


@pytest.mark.slow
def test_a_synthetic_picture_is_no_copy_of_anything() -> None:
    every = {name: thumb(name) for name in images.photographs()}
    for name, image in synthetic():
        found = priors.similarities(image, every)
        assert max(found.values()) < priors.SEEN, (name, max(found.items(), key=lambda item: item[1]))


def test_similarity_is_one_for_the_frame_itself_and_bounded() -> None:
    image = images.load("astronaut", 64)
    exact = priors._thumb(image)
    assert abs(priors.similarity(image, exact) - 1) < 1e-6
    assert priors.similarity(-image, exact) < priors.SEEN, "a negative is another picture"
    # affine changes of brightness and contrast are invisible to a normalised correlation
    assert abs(priors.similarity(0.5 * image - 0.2, exact) - 1) < 1e-6


# ---- the shipped files


@pytest.mark.parametrize("fold", FOLDS)
def test_the_record_lists_exactly_what_was_trained_on(fold: priors.Fold) -> None:
    record = priors.record(fold)
    assert record["fold"] == fold
    assert record["kind"] == "bundled"
    named = {f"{name}.webp" for names in train_priors.PACKAGES.values() for name in names.split()}
    further = set(record["images"]) - set(priors.training_names(fold)) - named
    assert named < set(record["images"])
    assert len(further) == 220
    assert {name.rpartition("_")[0] for name in further} == {f"gcompris_{a}" for a in train_priors.GCOMPRIS.split()}
    assert not set(record["images"]) & set(priors.HELD_OUT[fold])
    for name in priors.training_names(fold):
        digest = record["images"][name]
        assert digest == images.digest(images.load(name)), f"{name} is not the file that was trained on"


def test_the_folds_together_hold_out_each_evaluation_image_once() -> None:
    assert sorted(name for names in priors.HELD_OUT.values() for name in names) == sorted(priors.EVALUATION)
    for fold in FOLDS:
        held_out = set(images.photographs()) - set(priors.training_names(fold))
        assert held_out == set(priors.HELD_OUT[fold])


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_fold_is_refused() -> None:
    for call in (priors.record, priors.training_names, priors.load_fold):
        with pytest.raises(InputError, match="expected 1 or 2, got 3"):
            call(3)  # type: ignore[arg-type]


@pytest.mark.parametrize("fold", FOLDS)
def test_the_thumbnails_in_the_file_are_those_of_the_photographs(fold: priors.Fold) -> None:
    thumbs = priors._thumbs(fold)
    assert set(thumbs) == set(priors.record(fold)["images"])
    for name in priors.training_names(fold):
        # rounded to 8 bits twice at most, on machines that resize with other rounding
        assert np.abs(thumbs[name] - thumb(name)).max() <= 1.01 / 255


@pytest.mark.parametrize("name", images.photographs())
def test_no_further_photograph_is_taken_for_one_of_ours(name: str) -> None:
    """Else both priors would count as trained on an evaluation image, and refuse it."""
    further = {n: thumb for n, thumb in priors._thumbs(1).items() if n.endswith(".webp")}
    found = priors.similarities(images.load(name, 128), further)
    assert max(found.values()) < priors.SEEN


def test_further_photographs_are_trained_on_and_remembered(tmp_path: Path) -> None:
    path = tmp_path / "mine.png"
    images.save(images.load("coffee", 90), path)
    draw = compute.generator(0, "images")
    plain, more = (priors.training_images(1, compute.generator(0, "images"), files) for files in ((), [path]))
    assert len(more) >= len(plain) + 1
    assert any(min(image.shape[-2:]) == 80 and torch.isfinite(image).all() for image in more)
    network = build(DenoisingUNet, draw, channels=(8, 8))
    weights = tmp_path / "w.safetensors"
    priors.save(weights, network, 1, {"steps": 0}, seed=3, seconds=1.5, more=[path])
    record, tensors = priors._read(weights)
    assert record["images"]["mine.png"] == images.digest(images.load(path))
    assert priors.similarity(images.load("coffee", 64), tensors["thumb.mine.png"].numpy() / 255.0) > priors.SEEN


@pytest.mark.parametrize("name", ["mine.png", "brick"])
def test_two_photographs_of_one_name_are_refused_before_anything_is_trained(name: str, tmp_path: Path) -> None:
    """A weights file knows its photographs by name: of two of one name it would forget the first."""
    (tmp_path / "other").mkdir()
    paths = [tmp_path / name, tmp_path / "other" / name]
    with pytest.raises(InputError, match=f"got '{name}' twice"):
        priors.training_images(1, compute.generator(0, "images"), paths)


@pytest.mark.parametrize("name", images.photographs())
def test_a_renamed_file_is_refused_where_it_was_trained_on(name: str, tmp_path: Path) -> None:
    path = tmp_path / "my own holiday.png"
    images.save(images.load(name), path)
    target = images.load(path, 128)
    if name in priors.EVALUATION:
        (unseen,) = (fold for fold in FOLDS if name in priors.HELD_OUT[fold])
        assert priors.seen(target, unseen) is None
        assert priors.seen(target, 3 - unseen) == name  # type: ignore[arg-type]
    else:
        with pytest.raises(InputError, match=r"matches '(\w+)'.*choose one of astronaut") as caught:
            priors.load(target)
        assert "\n" not in str(caught.value)
        matched = re.search(r"matches '(\w+)'", str(caught.value))
        assert matched is not None
        assert matched[1] in (STEREO if name in STEREO else {name})


@pytest.mark.parametrize("size", [None, 64, (96, 160)])
def test_an_evaluation_image_gets_the_fold_that_has_not_seen_it(size: images.Size | None) -> None:
    for fold in FOLDS:
        for name in priors.HELD_OUT[fold]:
            assert priors.fold_for(images.load(name, size)) == fold


def same_weights(a: DenoisingUNet, b: DenoisingUNet) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_load_gives_the_fold_that_has_not_seen_the_target() -> None:
    first, second = priors.load_fold(1), priors.load_fold(2)
    assert not same_weights(first, second)
    assert same_weights(priors.load(images.load("astronaut", 128)), first)
    assert same_weights(priors.load(images.load("rocket", 128)), second)
    assert same_weights(priors.load(None), first)
    flat = torch.zeros(1, 3, 64, 64)
    assert same_weights(priors.load(flat), first), "what is not known may use any"


def test_two_loads_share_no_weights() -> None:
    first = priors.load(None)
    next(first.parameters()).data.zero_()
    assert not same_weights(first, priors.load(None))


@pytest.mark.parametrize("fold", FOLDS)
def test_a_loaded_prior_denoises_what_it_has_not_seen(fold: priors.Fold) -> None:
    denoiser = priors.load_fold(fold)
    assert not any(p.requires_grad for p in denoiser.parameters())
    sigma = 0.2
    for name in priors.HELD_OUT[fold]:
        x0 = images.load(name, 64)
        noise = torch.randn(x0.shape, generator=compute.generator(0, "test"))
        x_t = (x0 + sigma * noise) / (1 + sigma**2) ** 0.5
        with torch.no_grad():
            x0_hat = denoiser(x_t.to(compute.default().device), sigma).cpu()
        assert torch.isfinite(x0_hat).all()
        assert x0_hat.abs().max() < 1.5
        # the noisy image has this error; a third of its energy is what any trained denoiser takes away and more
        assert (x0_hat - x0).square().mean() < 0.5 * sigma**2


def test_choosing_the_fold_is_quick() -> None:
    """Within four seconds, or on slow machines within 14 times an exhaustive search of 32 thumbnails."""

    def spent(work: Callable[[], object]) -> float:
        start = time.process_time()
        work()
        return time.process_time() - start

    target = images.load("coffee", 128)
    some = dict(itertools.islice(priors._thumbs(1).items(), 32))
    grey = priors._thumb(target, 128)
    priors.fold_for(target)
    few = min(spent(lambda: priors._similarities(grey, some, priors.SHORTEST)) for _ in range(3))
    assert spent(lambda: priors.fold_for(target)) < max(
        4, 14 * few
    )  # 281 thumbnails; 8 times, measured alone and loaded


# ---- files that are wrong


@pytest.fixture
def written(tmp_path: Path) -> Path:
    network = build(DenoisingUNet, compute.generator(0, "untrained"), channels=(8, 8))
    path = tmp_path / "w.safetensors"
    priors.save(path, network, 1, {"steps": 0}, seed=3, seconds=1.5)
    return path


def test_what_is_saved_is_what_is_loaded(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(priors, "weights_path", lambda fold: written)
    record = priors.record(1)
    assert (record["seed"], record["seconds"], record["training"]) == (3, 1.5, {"steps": 0})
    assert tuple(record["channels"]) == (8, 8)
    assert record["machine"] == json.loads(json.dumps(compute.machine()))
    network = build(DenoisingUNet, compute.generator(0, "untrained"), channels=(8, 8))
    loaded = priors.load_fold(1)
    for p, q in zip(network.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(p.half().to(q.dtype), q.cpu()), "half precision is all that is lost"
    assert priors.seen(images.load("camera", 64), 1) == "camera"


def test_the_metadata_is_one_string_so_that_the_file_has_the_same_bytes_each_time(written: Path) -> None:
    with safe_open(str(written), framework="pt") as file:
        assert set(file.metadata()) == {"record"}


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: b"no weights at all " * 100,
        lambda content: b"\xff" * 8 + content[8:],
        lambda content: content.replace(b'\\"fold\\"', b'\\"fold\\', 1),
    ],
    ids=["empty", "truncated", "text", "header", "record"],
)
def test_a_damaged_file_is_refused_in_one_line(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(damage(written.read_bytes()))
    monkeypatch.setattr(priors, "weights_path", lambda fold: path)
    for call in (
        lambda: priors.load(None),
        lambda: priors.record(1),
        lambda: priors.seen(images.load("camera", 32), 1),
    ):
        with pytest.raises(InputError, match=r"damaged\.safetensors") as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large.safetensors"
    path.touch()
    os.truncate(path, priors.LARGEST_BYTES + 1)  # a hole, which takes no room on the disk
    monkeypatch.setattr(priors, "weights_path", lambda fold: path)
    for call in (lambda: priors.load(None), lambda: priors.weights_digest(1)):
        with compute.peak_memory() as peak, pytest.raises(InputError, match="expected a file of at most"):
            call()
        assert peak.bytes < 2**26


@pytest.mark.parametrize("channels", [[8, 8], [10**9], [2**40, 2**40], [], "48", None, [0], [-8], [8.0]])
def test_widths_that_the_weights_do_not_bear_out_are_refused(
    channels: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "forged.safetensors"
    with safe_open(priors.weights_path(1), "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        record = json.loads(file.metadata()["record"])
    save_file(tensors, path, metadata={"record": json.dumps({**record, "channels": channels})})
    monkeypatch.setattr(priors, "weights_path", lambda fold: path)
    with compute.peak_memory() as peak, pytest.raises(InputError, match="does not hold the weights") as caught:
        priors.shipped(1)
    assert "\n" not in str(caught.value)
    assert peak.bytes < 2**28


@pytest.mark.parametrize("said", ["[" * 100_000, "[]", "{}", '{"seconds": "long"}'])
def test_a_forged_account_of_the_training_is_refused(
    said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_file({"weights.x": torch.ones(2)}, tmp_path / "forged.safetensors", metadata={"record": said})
    monkeypatch.setattr(priors, "weights_path", lambda fold: tmp_path / "forged.safetensors")
    with pytest.raises(InputError, match=r"forged\.safetensors (is not a weights file|does not say how)") as caught:
        priors.record(1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["weights", "thumb"])
@pytest.mark.parametrize(
    "value",
    [
        torch.full((3, 3), math.nan),
        torch.ones(7),
        torch.ones(3, 3).to(torch.bfloat16),
        torch.zeros(3000, 3000, dtype=torch.uint8),
    ],
)
def test_forged_tensors_are_refused(kind: str, value: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thumbnail of NaN would resemble nothing, and let every target pass."""
    with safe_open(priors.weights_path(1), "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        record = file.metadata()["record"]
    name = next(name for name in tensors if name.startswith(kind))
    tensors[name] = torch.full_like(tensors[name], math.nan) if kind == "weights" else value
    save_file(tensors, tmp_path / "forged.safetensors", metadata={"record": record})
    monkeypatch.setattr(priors, "weights_path", lambda fold: tmp_path / "forged.safetensors")
    refused = "NaN or infinite weights" if kind == "weights" else "no pictures of 8 bits"
    with pytest.raises(InputError, match=refused):
        priors.shipped(1) if kind == "weights" else priors.seen(images.load("camera", 32), 1)


def test_a_missing_file_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(priors, "weights_path", lambda fold: tmp_path / "none.safetensors")
    with pytest.raises(InputError, match="install it anew") as caught:
        priors.load(None)
    assert "\n" not in str(caught.value)


# ---- what it was trained on


def test_dead_leaves_cover_all_with_colours_of_their_palette() -> None:
    # of the picture's own size: `Image` binds one height and width for a whole call while types are checked
    palette = [images.load("coffee", 40), images.load("grass", 40)]
    picture = priors.dead_leaves(40, palette, compute.generator(0, "leaves"))
    assert picture.shape == (1, 3, 40, 40)
    colours = {tuple(c) for c in picture[0].flatten(1).T.tolist()}
    known = [{tuple(c) for c in image[0].flatten(1).T.tolist()} for image in palette]
    assert any(colours <= source for source in known)
    assert len(colours) > 5
    assert torch.equal(picture, priors.dead_leaves(40, palette, compute.generator(0, "leaves")))


def test_a_training_goes_on_from_the_shipped_weights_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Placed in bf16 the weights would have lost three of their bits."""
    where = replace(compute.default(), dtype="bfloat16")
    monkeypatch.setattr(compute, "default", lambda: where)
    tensors = priors._read(priors.weights_path(1))[1]
    for name, value in priors.shipped(1).state_dict().items():
        assert torch.equal(value, tensors[f"weights.{name}"].float()), name
