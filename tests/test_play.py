"""The panel's settings without a panel: what cannot work is refused, runs are the library's, a PNG says how it came."""

from __future__ import annotations

import json
import math
import shlex
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PIL_Image

from dipddpm_lib import cells, compute, dip, experiment, hybrid, images, metrics, play, priors
from dipddpm_lib.hybrid import HybridConfig
from dipddpm_lib.play import CLEAN, OWN_NOISE, Choice, Photograph, Run
from dipddpm_lib.schedules import NoiseSchedule
from dipddpm_lib.types import InputError

SMALL = Choice(image="coffee", size=32, iterations=10, steps=2)


def test_the_recommended_settings_are_the_librarys() -> None:
    """With nothing chosen a run is HybridConfig's own, whatever that comes to be."""
    assert Choice().config() == HybridConfig()
    it = Choice().explicit()
    assert it.config() == HybridConfig()
    assert it.explicit() == it
    assert Choice(method="DIP").config() == dip.DIPConfig()
    assert replace(it, t_start=100).config() == replace(HybridConfig(), t_start=100)
    assert replace(it, hand_off="renoise").config() == replace(HybridConfig(), kind="renoise")


def test_a_network_by_hand_is_depth_times_filters() -> None:
    config = Choice(method="DIP", depth=3, filters=8).config()
    assert isinstance(config, dip.DIPConfig)
    assert config.filters == (8, 8, 8)
    assert Choice(method="DIP", depth=1, filters=8).config().lift == 0  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("kind", "strength", "task"),
    [
        *(("denoise", 25.0, "denoise_25"), ("denoise", 50.0, "denoise_50"), ("inpaint", 50.0, "inpaint_50")),
        *(("inpaint", 90.0, "inpaint_90"), ("holes", 6.0, "holes"), ("super", 4.0, "super_x4")),
        *(("deblur", 1.6, "deblur"), ("compressive", 10.0, "compressive_10"), ("fourier", 4.0, "fourier_x4")),
    ],
)
def test_the_panel_measures_what_the_report_measured(kind: str, strength: float, task: str) -> None:
    x = images.load("coffee", 32)
    target, here = replace(SMALL, task=kind, strength=strength, seed=3).measure(x)
    there = cells.Cell("coffee", 32, 3, HybridConfig(), task).measurement(x)
    assert torch.equal(here.y, there.y)
    assert here.sigma_y == there.sigma_y
    assert target is x


STARTS = {"denoise": "measurement", OWN_NOISE: "measurement", "inpaint": "classical", "holes": "classical"}


@pytest.mark.parametrize("task", play.TASKS)
def test_the_start_is_known_before_the_run_and_is_the_one_that_the_run_takes(task: str) -> None:
    choice = replace(SMALL, task=task)
    assert choice.settled().start == STARTS.get(task, "dip")
    x = images.load("coffee", 32)
    config = choice.config()
    assert isinstance(config, HybridConfig)
    assert choice.settled() == hybrid.settle(choice.measure(x)[1], config)
    assert choice.fits == (choice.settled().start == "dip")
    seen = list(play.frames(choice))
    assert seen[0].total == (10 if choice.fits else 1) + choice.settled().calls


@pytest.mark.parametrize("method", ["DIP", "DDPM", "DIP+DDPM"])
def test_the_panel_shows_the_reports_own_result(method: str, root: Path) -> None:
    """At the same settings and seed: the measurement, the start and every draw."""
    choice = replace(
        SMALL, task="inpaint", strength=90.0, method=method, seed=3, start="dip" if method == "DIP+DDPM" else "auto"
    )
    *_, last = play.frames(choice)
    cell = cells.Cell(choice.image, choice.size, choice.seed, choice.config(), "inpaint_90")
    assert torch.equal(last.x0_hat, experiment.run(cell).x0_hat)


@pytest.mark.parametrize("factor", range(2, 17))
def test_every_factor_of_super_resolution_that_passes_the_check_has_a_start(factor: int) -> None:
    choice = replace(SMALL, task="super", strength=float(factor), size=factor * -(-32 // factor))
    choice.check()
    assert choice.settled().start == "dip"


@pytest.mark.parametrize("start", ["classical", "measurement"])
def test_a_start_by_hand_is_taken(start: str) -> None:
    seen = list(play.frames(replace(SMALL, task="super", start=start, t_start=100)))
    assert [frame.done for frame in seen] == [1, 1, 2, 3]
    if start == "measurement":
        assert torch.equal(seen[0].x0_hat.clamp(-1, 1), seen[0].seen)


def test_nobody_knows_the_target_under_own_noise() -> None:
    x = images.load("coffee", 32)
    target, y = replace(SMALL, task=OWN_NOISE, strength=25).measure(x)
    assert target is None
    assert torch.equal(y.y, x)
    assert y.sigma_y == 50 / 255
    target, y = replace(SMALL, task=CLEAN).measure(x)
    assert target is x
    assert y.sigma_y == 0


def test_a_run_is_the_librarys() -> None:
    choice = replace(SMALL, seed=4)
    *_, last = play.frames(choice)
    x = images.load("coffee", 32)
    _, y = choice.measure(x)
    config = choice.config()
    assert isinstance(config, HybridConfig)
    config = hybrid.settle(y, config)
    of_fit, of_sample = (compute.generator(4, stream) for stream in ("dip", "sample"))
    *_, fit = hybrid.begin(y, config, of_fit)
    *_, out = hybrid.denoise(fit, y, priors.load(x), NoiseSchedule.cosine(1000), config, of_sample)
    assert torch.equal(last.x0_hat, out.x0_hat)
    assert last.done == last.total, "steps are counted to their end"


@pytest.mark.parametrize("task", play.TASKS)
def test_steps_that_find_no_place_are_not_counted(task: str) -> None:
    """On twelve places few lie between t₀ and 0, and fewer at half the noise."""
    seen = list(play.frames(replace(SMALL, task=task, T=12, steps=8)))
    assert seen[-1].done == seen[-1].total
    assert all(frame.done <= frame.total for frame in seen)


def test_every_view_of_the_one_step_under_noise_is_counted() -> None:
    seen = list(play.frames(replace(SMALL, task="denoise", method="DIP+DDPM")))
    assert [frame.done for frame in seen] == [1, 1, *range(2, 10)]
    assert {frame.total for frame in seen} == {9}, "known from the first on"


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"T": 1}, "T counts the steps"),
    ({"t_start": 1001}, "t₀ is a position on the schedule: expected a whole number from 0 to T = 1000, got 1001"),
    ({"t_start": 5, "steps": 8}, "steps: 8 of them do not fit between t₀ = 5 and 0; take 5 or fewer, or a larger t₀"),
    ({"steps": 51, "T": 50}, "steps: expected at most T = 50, got 51"),
    ({"task": "super", "size": 34}, "needs a side that 4 divides, got 34; 32 would do"),
    ({"task": "super", "strength": 2.5}, "strength of super: expected a whole number from 2 to 16"),
    ({"strength": math.nan}, "strength: expected a whole number or a finite number, got nan"),
    ({"task": "inpaint", "strength": 100}, "strength of inpaint: expected a number from 1 to 99"),
    ({"task": "inpaint", "full": True}, "full size works tile by tile"),
    ({"task": "paint"}, "task: expected one of inpaint"),
    ({"method": "GAN"}, "method: expected one of DIP, DDPM, DIP+DDPM"),
    ({"schedule": "flat"}, "schedule: expected one of linear"),
    ({"spacing": "log"}, "spacing: expected one of auto"),
    ({"hand_off": "soft"}, "hand_off: expected one of auto"),
    ({"size": 8}, "size: expected a whole number of 16 or more"),
    ({"size": "96"}, "size: expected a whole number, got '96'"),
    ({"full": 1}, "full: expected True or False, got 1"),
    ({"start": "best"}, "start: expected one of auto"),
    ({"start": "classical", "task": "super"}, "the error of a classical method is not known for super-resolution"),
    ({"start": "measurement"}, "choose t₀ by hand, or another start"),
    ({"start": "measurement", "task": CLEAN}, "under protocol A the measurement is the target"),
    ({"seed": -1}, "seed: expected a whole number of 0 or more"),
    ({"depth": 3}, "depth and filters: expected both above 0"),
    ({"iterations": -5}, "iterations: expected a whole number of 0 or more"),
]


@pytest.mark.parametrize(("wrong", "part"), REFUSED)
@pytest.mark.usefixtures("unchecked")
def test_what_cannot_work_is_one_line_before_anything_is_read(
    wrong: dict[str, Any], part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("an image was read")

    monkeypatch.setattr(images, "load", refuse)
    with pytest.raises(InputError) as caught:
        next(play.frames(Choice(**{"size": 32} | wrong)))
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "unread", [{"method": "DIP", "T": 1}, {"method": "DDPM", "full": True, "task": "denoise", "T": 50, "steps": 100}]
)
def test_what_a_method_does_not_read_refuses_no_run(unread: dict[str, Any]) -> None:
    Choice(**unread).check()


def test_steps_at_t_start_0_are_not_asked_for() -> None:
    """t₀ = 0 is DIP's own image, with any number of steps."""
    *_, last = play.frames(replace(SMALL, t_start=0))
    assert last.t == 0


# ---- a photograph of any size


def test_tiles_restore_a_photograph_at_its_own_size() -> None:
    """rocket at 300 × 280 with noise of σ = 50/255: 4 tiles, by one step each, clearly better than what came."""
    upload = Photograph("r.png", play.png(images.to_array(images.load("rocket", (300, 280)))))
    choice = Choice(image=upload.path, full=True, task="denoise", strength=50.0, method="DDPM")
    seen = list(play.frames(choice, upload))
    assert [(frame.done, frame.total) for frame in seen] == [(n, 4) for n in (0, 1, 1, 2, 2, 3, 3, 4)]
    last = seen[-1]
    assert last.target is not None
    assert last.x0_hat.shape == (1, 3, 300, 280)
    assert metrics.psnr(last.x0_hat, last.target) > metrics.psnr(last.seen, last.target) + 6


def test_dip_works_tile_by_tile_too() -> None:
    upload = Photograph("r.png", play.png(images.to_array(images.load("rocket", (260, 40)))))
    choice = Choice(image=upload.path, full=True, task=OWN_NOISE, method="DIP", iterations=3)
    seen = [(frame.done, frame.total) for frame in play.frames(choice, upload)]
    assert seen == [*[(0, 2)] * 3, *[(1, 2)] * 4, (2, 2)], "a caller can stop within a tile"


def test_the_ssim_of_a_large_photograph_is_its_squares_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    x = images.load("coffee", 192)
    y = (x + 0.1 * torch.randn(x.shape, generator=compute.generator(0, "n"))).clamp(-1, 1)
    whole = play.scores(y, x)
    monkeypatch.setattr(play, "LARGE", 64)
    assert play.scores(y, x) == pytest.approx(whole, abs=1e-9), "one square"
    assert play.scores(y, y) == (math.inf, 1.0)


# ---- uploads


@pytest.mark.parametrize("content", [b"", b"GIF89a no picture", play.png(np.zeros((64, 64, 3), np.uint8))[:50]])
def test_bad_bytes_are_one_line_with_the_readers_own_name(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(InputError, match=r"image: 'holiday\.png' is not a whole PNG") as caught:
        Photograph("holiday.png", content).load()
    assert str(tmp_path) not in str(caught.value)
    assert list(tmp_path.iterdir()) == [], "nothing stays behind"


def test_uploaded_bytes_lie_where_others_cannot_read_and_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    seen: list[Path] = []
    load = images.load

    def spy(path: Path, size: int | None = None) -> Any:
        seen.append(path)
        assert path.parent.stat().st_mode & 0o077 == 0
        return load(path, size)

    monkeypatch.setattr(images, "load", spy)
    # the name is only ever shown: it never becomes a path
    x = Photograph("../../etc/passwd", play.png(np.full((20, 30, 3), 255, np.uint8))).load(16)
    assert x.shape == (1, 3, 16, 16)
    assert x.min() == 1
    assert seen[0].parent.parent == tmp_path
    assert list(tmp_path.iterdir()) == []


# ---- the command and the PNG


def test_the_choice_is_what_the_playground_declares(playground_parameters: dict[str, Any]) -> None:
    assert playground_parameters == {**asdict(Choice()), "run": False}


CHOICES = [
    Choice(),
    Choice(image="./it's $HOME.jpg", size=64, task="denoise", strength=12.5, method="DDPM", T=400, steps=9, seed=7),
    Choice(
        task="super",
        strength=2,
        depth=3,
        filters=16,
        iterations=30,
        schedule="linear",
        t_start=40,
        steps=5,
        start="dip",
    ),
    Choice(full=True, task=OWN_NOISE, method="DIP", hand_off="renoise", spacing="karras", image="1e3"),
]


@pytest.mark.parametrize("choice", CHOICES)
def test_the_command_names_parameters_that_exist_and_repeats_the_choice(
    choice: Choice, playground_parameters: dict[str, Any]
) -> None:
    """Read back as a shell and papermill's own command line would."""
    from papermill.cli import _resolve_type

    papermill, notebook, _, *words = shlex.split(play.command(choice))
    assert Path(papermill).name == "papermill"
    assert (Path(__file__).resolve().parents[1] / notebook).is_file()
    given: dict[str, Any] = {}
    for flag, name, value in zip(words[::3], words[1::3], words[2::3], strict=True):
        given[name] = {"-p": _resolve_type, "-r": str}[flag](value)
    assert given.pop("run") is True
    assert set(given) <= set(playground_parameters)
    again = Choice(**given)
    assert again.explicit() == choice.explicit()
    for field in fields(Choice):
        kinds = (int, float) if field.name == "strength" else (type(getattr(Choice(), field.name)),)
        assert type(getattr(again, field.name)) in kinds
    again.check()


def test_the_command_names_a_file_from_the_root_of_the_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path(play.__file__).resolve().parents[1]
    (tmp_path / "photo.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    words = shlex.split(play.command(Choice(image="photo.png")))
    assert (root / words[words.index("image") + 1]).resolve() == tmp_path / "photo.png"
    for kept in ("./photo.png", "rocket", "x" * 300):  # an upload's name, a bundled photograph, no file
        words = shlex.split(play.command(Choice(image=kept)))
        assert words[words.index("image") + 1] == kept


def made(choice: Choice = SMALL, psnr: float | None = 20.0) -> Run:
    picture = np.random.default_rng(0).integers(0, 256, (16, 24, 3), dtype=np.uint8)
    return Run(1, choice.explicit(), "done", picture, None, picture, psnr, 0.5, 1.25, 12)


def test_a_saved_png_is_the_picture_and_says_how_it_came(tmp_path: Path) -> None:
    run = made(replace(SMALL, image='./Größe "><img src=x>.jpg'))
    first, second = run.save(tmp_path / "saved"), run.save(tmp_path / "saved")
    assert first != second, "nothing is overwritten"
    with PIL_Image.open(first) as file:
        file.load()
        assert np.array_equal(np.asarray(file), run.picture)
        assert Choice(**json.loads(file.text["settings"])) == run.choice  # type: ignore[attr-defined]
        result = json.loads(file.text["result"])  # type: ignore[attr-defined]
        assert file.text["command"] == play.command(run.choice)  # type: ignore[attr-defined]
    assert result == {"psnr": 20.0, "ssim": 0.5, "seconds": 1.25, "steps": 12, "end": "done"}


def test_a_saved_name_cannot_leave_its_folder(tmp_path: Path) -> None:
    path = made(replace(SMALL, image="./../../.ssh/" + "n" * 300)).save(tmp_path / "saved")
    assert path.parent == tmp_path / "saved"


def test_a_link_in_place_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "saved").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="saved is a link to elsewhere; put a folder in its place"):
        made(SMALL).save(tmp_path / "saved")
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize(
    "large", [{"size": 9000}, {"depth": 6, "filters": 100_000}, {"method": "DDPM", "size": 40_000}]
)
def test_what_no_memory_holds_is_refused_before_it_begins(
    large: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compute, "memory", lambda: 2**34)
    SMALL.check()
    with pytest.raises(InputError, match="GiB of memory, this machine has 16"):
        replace(SMALL, **large).check()
