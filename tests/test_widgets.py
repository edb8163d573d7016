"""The panel without a browser: values set, buttons clicked, and what it then shows and says."""

from __future__ import annotations

import io
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PIL_Image

from dipddpm_lib import compute, ddpm, dip, hybrid, images, metrics, operators, play, priors, widgets
from dipddpm_lib.play import CLEAN, OWN_NOISE, Choice, Frame, Photograph
from dipddpm_lib.types import InputError
from dipddpm_lib.widgets import Panel

LONG = 60.0  # seconds that a busy machine may need for what takes one
SMALL = Choice(image="coffee", size=32, method="DIP", iterations=10, steps=2)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where pictures are saved


def finished(it: Panel) -> Panel:
    it.run_button.click()
    it.wait(LONG)
    assert it._thread is None or not it._thread.is_alive()
    assert (it.run_button.disabled, it.stop_button.disabled) == (False, True)
    return it


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def pixels(picture: bytes) -> np.ndarray:
    return np.array(PIL_Image.open(io.BytesIO(picture)))


def frame(done: int, total: int = 1000, value: float = 0.0) -> Frame:
    x = torch.zeros(1, 3, 32, 32)
    return Frame(done, total, 0, x + value, x, x)


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Runs that never end by themselves, every step a shade brighter; the list counts the steps taken."""
    taken: list[int] = []

    def frames(choice: Choice, upload: Photograph | None = None) -> Iterator[Frame]:
        for done in range(1, 10**6):
            time.sleep(0.005)
            taken.append(done)
            yield frame(done, 10**6, done % 100 / 100)

    monkeypatch.setattr(play, "frames", frames)
    return taken


# ---- before a run


def test_nothing_is_computed_before_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("computed")

    for module, name in (
        *((images, "load"), (priors, "load"), (dip, "reconstruct"), (ddpm, "sample"), (hybrid, "reconstruct")),
        *((operators, "measure"), (metrics, "psnr"), (play, "frames")),
    ):
        monkeypatch.setattr(module, name, refuse)
    threads = threading.active_count()
    it = Panel()
    it.controls["size"].value = 64
    it.controls["method"].value = "DDPM"
    it.controls["task"].value = "holes"
    it.stop_button.click()
    it.continue_button.click()
    it.save_button.click()
    it.wait()
    assert threading.active_count() == threads
    assert (it.status.value, it.state, it.runs) == ("ready", "ready", [])
    assert it.results.layout.display == "none"
    assert [b.disabled for b in (it.run_button, it.stop_button, it.continue_button, it.save_button)] == [
        *(False, True, True, True)
    ]


def test_the_controls_are_the_choice() -> None:
    full = Choice(
        *("rocket", 64, False, "denoise", 12.5, "DIP+DDPM", 3, 16, 30),
        *("linear", 500, 7, "karras", "dip", "renoise", 40, 5),
    )
    it = Panel(full)
    assert it.choice() == full
    assert set(it.controls) == set(asdict(full)), "every setting has a control"
    for name, value in {"image": "coffee", "depth": 2, "t_start": 90, "seed": 8}.items():
        it.controls[name].value = value
    it.auto.value = True
    assert it.choice() == replace(full, image="coffee", depth=2, t_start=-1, seed=8)
    it.by_hand.value, it.auto.value = False, False
    assert it.choice() == replace(full, image="coffee", depth=0, filters=0, t_start=90, seed=8)


def test_values_from_outside_the_sliders_are_not_changed_in_silence() -> None:
    it = Panel(Choice(size=1024, iterations=5000, steps=3, image="./none.jpg"))
    assert (it.choice().size, it.choice().iterations, it.choice().image) == (1024, 5000, "./none.jpg")


def test_the_methods_usual_lengths_follow_it_unless_set_by_hand() -> None:
    it = Panel()
    c = it.controls
    c["method"].value = "DDPM"
    assert (c["steps"].value, c["spacing"].value) == (play.FROM_NOISE.steps, play.FROM_NOISE.spacing)
    c["method"].value = "DIP+DDPM"
    assert it.choice().explicit() == Choice().explicit()
    c["steps"].value = 33
    c["method"].value = "DDPM"
    assert c["steps"].value == 33


def test_what_a_method_does_not_read_is_greyed_out() -> None:
    it = Panel()
    grey = lambda: {name for name, control in it.controls.items() if control.disabled}  # noqa: E731
    assert grey() == {"depth", "filters", "t_start"}
    it.controls["method"].value = "DIP"
    hybrids = {"start", "hand_off", "t_start"}
    assert grey() == {"depth", "filters", "schedule", "T", "steps", "spacing"} | hybrids
    it.controls["method"].value = "DDPM"
    assert grey() == {"iterations", "depth", "filters"} | hybrids
    it.controls["task"].value = CLEAN
    assert "strength" in grey()


def test_what_the_measurement_asks_for_is_said_and_greys_out_what_is_not_read() -> None:
    it = Panel()
    assert it.settled.value == "here: a DIP fit"
    it.controls["task"].value = "holes"
    assert it.settled.value == "here: a classical method"
    assert it.controls["iterations"].disabled
    assert not it.controls["steps"].disabled
    it.controls["task"].value = "denoise"
    assert it.settled.value == "here: the measurement itself"
    assert it.controls["steps"].disabled, "one step"
    it.controls["start"].value = "dip"
    assert it.settled.value == ""
    assert not it.controls["iterations"].disabled


def test_another_task_counts_its_strength_in_other_units() -> None:
    it = Panel()
    for task in play.TASKS:
        it.controls["task"].value = task
        it.choice().check()
        if task != CLEAN:
            bounds = operators.DEGRADATIONS[it.choice().kind]
            assert it.controls["strength"].value == bounds.usual
            assert it.unit.value == bounds.counts


def test_controls_answer_at_once() -> None:
    """Moving every slider through ten values costs the interface's thread well under 100 ms each."""
    it = Panel()
    moves = [(c, v) for c in it.controls.values() if hasattr(c, "min") for v in np.linspace(c.min, c.max, 10)]
    start = time.process_time()  # of this process: what else runs does not count
    for control, value in moves:
        control.value = int(value)
    assert len(moves) >= 60
    assert (time.process_time() - start) / len(moves) < 0.1


# ---- a run


@pytest.mark.parametrize("task", [CLEAN, "super"])
@pytest.mark.parametrize("method", play.METHODS)
def test_every_method_runs_and_is_shown(method: str, task: str) -> None:
    it = finished(Panel(replace(SMALL, method=method, task=task)))
    (run,) = it.runs
    x_true = images.load("coffee", 32)
    _, y = it.choice().measure(x_true)
    assert f": done · step {run.steps} of {run.steps} · " in it.status.value
    assert f"<b>PSNR {run.psnr:.2f} dB</b>, SSIM {run.ssim:.3f}" in it.status.value
    assert (it.bar.value, it.bar.max) == (run.steps, run.steps)
    shown = {name: pixels(picture.value) for name, picture in it.pictures.items()}
    assert np.array_equal(shown["target"], images.to_array(x_true))
    assert np.array_equal(shown["measured"], images.to_array(operators.pseudo_inverse(y).float().clamp(-1, 1)))
    assert np.array_equal(shown["estimate"], run.picture)


def test_the_panels_run_is_the_librarys() -> None:
    it = finished(Panel(SMALL))
    _, y = it.choice().measure(images.load("coffee", 32))
    *_, fit = dip.reconstruct(y, dip.DIPConfig.fast(10), compute.generator(0, "dip"))
    assert np.array_equal(it.runs[0].picture, images.to_array(fit.x0_hat))
    finished(it)
    assert np.array_equal(it.runs[1].picture, it.runs[0].picture), "the same seed, the same picture"
    it.controls["seed"].value = 1
    finished(it)
    assert not np.array_equal(it.runs[2].picture, it.runs[0].picture)


def test_without_a_target_there_is_no_score() -> None:
    it = finished(Panel(replace(SMALL, task=OWN_NOISE)))
    assert (it.runs[0].psnr, it.runs[0].ssim) == (None, None)
    assert "PSNR" not in it.status.value
    assert pixels(it.pictures["target"].value).shape == (1, 1, 3)
    assert "target" not in dict(it.left.options)
    assert "<td>–</td>" in it.table.value.split("PSNR")[1]


def test_stop_is_answered_within_a_second_and_keeps_the_image(endless: list[int]) -> None:
    it = Panel(SMALL)
    it.run_button.click()
    until(lambda: ": running · step" in it.status.value)
    assert [b.disabled for b in (it.run_button, it.stop_button, it.continue_button)] == [True, False, True]
    start = time.monotonic()
    it.stop_button.click()
    assert time.monotonic() - start < 1
    assert ": stopped · step" in it.status.value
    assert [b.disabled for b in (it.run_button, it.stop_button, it.continue_button)] == [False, True, False]
    it.wait(LONG)
    assert time.monotonic() - start < 1
    (run,) = it.runs
    assert (run.word, run.steps) == ("stopped", endless[-1])
    assert np.array_equal(pixels(it.pictures["estimate"].value), run.picture)


def test_stop_is_said_at_once_even_while_a_step_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    inside, go = threading.Event(), threading.Event()

    def slow(choice: Choice, upload: Photograph | None = None) -> Iterator[Frame]:
        yield frame(1, 3)
        inside.set()
        assert go.wait(LONG)
        yield frame(2, 3, 0.5)
        yield frame(3, 3, 1.0)

    monkeypatch.setattr(play, "frames", slow)
    it = Panel(SMALL)
    it.run()
    assert inside.wait(LONG)
    it.stop_button.click()
    assert ": stopped · step 1 of 3" in it.status.value
    assert it.run_button.disabled is False
    it.continue_button.click()  # the old step is still under way: the run goes on after it, and twice at once never
    threads = [t for t in threading.enumerate() if t is not threading.main_thread()]
    go.set()
    it.wait(LONG)
    assert all(not t.is_alive() or t.daemon for t in threads)
    (run,) = it.runs
    assert (run.word, run.steps, run.picture.max()) == ("done", 3, 255)


def test_a_stopped_run_is_kept_though_another_starts_before_its_step_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    inside, go = threading.Event(), threading.Event()

    def slow(choice: Choice, upload: Photograph | None = None) -> Iterator[Frame]:
        yield frame(1, 2)
        if not inside.is_set():  # the first run's second step takes long
            inside.set()
            assert go.wait(LONG)
        yield frame(2, 2, 0.5)

    monkeypatch.setattr(play, "frames", slow)
    it = Panel(SMALL)
    it.run()
    assert inside.wait(LONG)
    it.stop()
    it.run()
    go.set()
    it.wait(LONG)
    assert [(run.number, run.word) for run in it.runs] == [(1, "stopped"), (2, "done")]
    assert it.state == "done"
    assert ": done · step 2 of 2" in it.status.value


def test_continue_takes_up_the_same_run_and_ends_at_the_same_bits() -> None:
    choice = replace(SMALL, method="DIP+DDPM", iterations=60)
    whole = finished(Panel(choice)).runs[0]
    it = Panel(choice)
    stops = 0
    it.run()
    while it.state != "done":
        until(lambda: it.state == "done" or (it._job is not None and it._job.last is not None))
        it.stop()
        it.wait(LONG)
        stops += it.state == "stopped"
        it.continue_button.click()
        until(lambda steps=it._job.last.done: it.state == "done" or it._job.last.done > steps)  # type: ignore[union-attr]
    it.wait(LONG)
    assert stops > 1
    assert len(it.runs) == 1, "one run, however often it was stopped"
    assert (it.runs[0].word, it.runs[0].steps) == ("done", whole.steps)
    assert np.array_equal(it.runs[0].picture, whole.picture)


def test_a_second_click_never_starts_a_second_job(endless: list[int]) -> None:
    it = Panel(SMALL)
    before = threading.active_count()
    it.run_button.click()
    first = it._thread
    for _ in range(3):
        it.run_button.click()
        it.continue_button.click()
    assert it._thread is first
    assert threading.active_count() == before + 1
    it.stop_button.click()
    it.run_button.click()
    assert it._count == 2
    until(lambda: len(endless) > 3)
    assert threading.active_count() <= before + 2, "the first thread ends before the second computes"
    it.stop_button.click()
    it.wait(LONG)
    until(lambda: threading.active_count() == before)


def test_time_left_is_told_while_it_runs(endless: list[int]) -> None:
    it = Panel(SMALL)
    it.run()
    until(lambda: ": running · step" in it.status.value)
    it.stop()
    it.wait(LONG)
    # a million steps of 5 ms or more
    assert re.search(r"about (1|2|3|4|5|6)\d* h \d+ min left", it.status.value), it.status.value
    assert it.bar.max == 10**6


def test_no_time_is_told_before_a_step_has_taken_any(monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()

    def tiles(choice: Choice, upload: Photograph | None = None) -> Iterator[Frame]:
        yield frame(0, 4)  # inside the first tile
        assert go.wait(LONG)
        yield frame(1, 4)

    monkeypatch.setattr(play, "frames", tiles)
    it = Panel(SMALL)
    it.run()
    until(lambda: "0 of 4" in it.status.value)
    assert "left" not in it.status.value
    go.set()
    it.wait(LONG)


# ---- a photograph of one's own

TWELVE = (3000, 4000)  # 12 megapixels


def upload(it: Panel, name: str, content: bytes) -> None:
    """As the browser hands it over."""
    file = {"name": name, "type": "image/jpeg", "size": len(content), "content": memoryview(content)}
    it.upload.value = ({**file, "last_modified": datetime.now(UTC)},)
    it._receiver.join(LONG)


def jpeg(height: int, width: int) -> bytes:
    buffer = io.BytesIO()
    x = images.to_array(images.load("rocket"))
    PIL_Image.fromarray(x).resize((width, height)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def test_a_photograph_of_12_megapixels_is_taken_and_its_resizing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    it = Panel(SMALL)
    upload(it, "holiday.jpg", jpeg(*TWELVE))
    assert it.controls["image"].value == "./holiday.jpg"
    assert "holiday.jpg has 4,000 × 3,000 pixels (12.0 megapixels)" in it.note.value
    assert "Its centre is cut to a square and resized to 32 × 32" in it.note.value
    (run,) = finished(it).runs
    assert run.picture.shape == (32, 32, 3)
    assert "-r image ./holiday.jpg" in it.command.value
    # or all of it: the time is measured on a tile and said, and nothing goes on until the reader agrees
    it.controls["task"].value, it.controls["method"].value, it.controls["full"].value = "denoise", "DDPM", True
    assert "Full size: the denoiser in one step on each overlapping tile" in it.note.value
    monkeypatch.setattr(widgets, "PATIENCE", 0.0)
    finished(it)
    assert it.state == "announced"
    said = re.search(r"(\d+) tiles, of which one takes .*about (.*)</b> more: Continue starts it", it.status.value)
    assert said, it.status.value
    assert int(said[1]) == 14 * 18
    assert it.continue_button.disabled is False
    assert len(it.runs) == 1
    assert it.pictures["estimate"].value != widgets.BLANK


def test_tiles_go_on_after_the_announcement(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(widgets, "PATIENCE", 0.0)
    it = Panel(replace(SMALL, task=OWN_NOISE, method="DDPM", full=True))
    upload(it, "small.jpg", jpeg(260, 300))
    finished(it)
    assert it.state == "announced"
    it.continue_button.click()
    it.wait(LONG)
    (run,) = it.runs
    assert (run.word, run.steps, run.picture.shape) == ("done", 4, (260, 300, 3))
    batch = Panel(replace(SMALL, task=OWN_NOISE, method="DDPM", full=True, image="./small.jpg"))
    Path("small.jpg").write_bytes(jpeg(260, 300))
    assert np.array_equal(batch.finish().picture, run.picture), "papermill asks nobody, and gets the same"


NASTY = '"><img src=x onerror=alert(1)>.png'


@pytest.mark.parametrize("content", [b"", b"no picture", jpeg(40, 40)[:200]])
def test_a_bad_upload_is_answered_and_nothing_is_lost(content: bytes) -> None:
    it = finished(Panel(SMALL))
    upload(it, NASTY, content)
    assert "is not a whole PNG, JPEG" in it.hint.value
    assert "&lt;img src=x onerror=alert(1)&gt;.png" in it.hint.value
    assert "<img" not in it.hint.value
    assert it.controls["image"].value == "coffee"
    assert len(finished(it).runs) == 2


def test_an_upload_that_the_machine_cannot_take_is_answered_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Photograph, *_: Any) -> Any:
        raise OSError(28, "No space left on device")

    it = Panel(SMALL)
    monkeypatch.setattr(Photograph, "load", full)
    upload(it, "mine.png", jpeg(40, 40))
    assert "No space left on device" in it.hint.value
    assert it.uploads == {}


def test_a_name_is_no_markup_anywhere() -> None:
    it = Panel(SMALL)
    upload(it, NASTY, jpeg(40, 40))
    finished(it)
    assert it.runs[0].choice.image == f"./{NASTY}"
    for part in (it.note, it.hint, it.status, it.table, it.command):
        assert "<img src=x" not in part.value
    assert "&lt;img src=x" in it.table.value
    assert "&lt;img src=x" in it.command.value


def test_two_photographs_of_one_name_are_two() -> None:
    it = Panel(SMALL)
    for content in (jpeg(40, 40), jpeg(48, 44), jpeg(40, 40)):
        upload(it, "image.jpg", content)
    assert list(it.uploads) == ["./image.jpg", "./image (2).jpg"]
    assert it.sizes["./image (2).jpg"] == (48, 44)
    assert it.choice().image == "./image.jpg", "the third is the first again"


# ---- afterwards


def test_runs_stand_side_by_side_with_the_best_in_bold() -> None:
    it = finished(Panel(SMALL))
    it.controls["iterations"].value = 60
    finished(it)
    assert "<strong>" in it.table.value
    head = re.findall(r'<th scope="col">(.*?)</th>', it.table.value)
    assert head == ["run 1: DIP", "run 2: DIP"]
    rows = dict(re.findall(r'<th scope="row">(.*?)</th>(.*?)</tr>', it.table.value))
    assert rows["iterations"] == "<td>10</td><td>60</td>"
    first, second = it.runs
    assert first.psnr is not None
    assert second.psnr is not None
    assert second.psnr > first.psnr
    assert rows["PSNR (dB)"] == f"<td>{first.psnr:.2f}</td><td><strong>{second.psnr:.2f}</strong></td>"
    assert it.table.value.count('<img alt="the image of run') == 2
    assert it.results.layout.display is None
    it.controls["seed"].value = 1
    assert "<strong>" not in finished(it).table.value, "another measurement: nothing to rank it with"


def test_only_the_last_runs_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(play, "frames", lambda choice, upload=None: iter([frame(1, 1)]))
    it = Panel(SMALL)
    for _ in range(widgets.KEPT + 3):
        finished(it)
    assert [run.number for run in it.runs] == list(range(4, widgets.KEPT + 4))
    assert f"The last {widgets.KEPT} runs are kept" in it.table.value


def test_what_was_compared_may_be_gone_after_the_next_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its target where the next photograph has none; its run where only the last ones are kept."""
    it = Panel(SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(play, "frames", lambda choice, upload=None: iter([frame(1, 1)]))
        finished(it)
        it.left.value, it.right.value = "1", "target"
        patch.setattr(play, "frames", lambda choice, upload=None: iter([replace(frame(1, 1), target=None)]))
        assert finished(it).state == "done"
        assert "target" not in dict(it.right.options).values()
        for _ in range(widgets.KEPT - 2):
            finished(it)
        it.left.value, it.right.value = "3", "1"
        assert finished(it).state == "done"
        assert (it.left.value, it.right.value) == ("measured", str(widgets.KEPT + 1))


def test_the_comparison_is_divided_where_the_slider_stands() -> None:
    it = finished(Panel(SMALL))
    it.controls["seed"].value = 1
    finished(it)
    one, two = (run.picture for run in it.runs)
    it.left.value, it.right.value = "1", "2"
    for at in (0, 25, 100):
        it.split.value = at
        edge = round(at / 100 * 32)
        shown = pixels(it.comparison.value)
        assert np.array_equal(shown[:, :edge], one[:, :edge])
        assert np.array_equal(shown[:, edge:], two[:, edge:])
    it.controls["size"].value = 48
    finished(it)
    it.left.value, it.right.value, it.split.value = "1", "3", 50
    assert pixels(it.comparison.value).shape == (48, 48, 3), "pictures of two sizes"


def test_save_writes_a_png_with_its_settings() -> None:
    it = finished(Panel(replace(SMALL, seed=3)))
    it.save_button.click()
    (path,) = Path("saved").iterdir()
    assert str(path) in it.hint.value
    with PIL_Image.open(path) as file:
        assert np.array_equal(np.asarray(file), it.runs[0].picture)
        assert Choice(**json.loads(file.text["settings"])) == it.choice().explicit()  # type: ignore[attr-defined]
        again = Panel(Choice(**json.loads(file.text["settings"])))  # type: ignore[attr-defined]
    assert np.array_equal(finished(again).runs[0].picture, it.runs[0].picture), "the settings repeat the picture"


def test_a_folder_that_cannot_be_written_is_said() -> None:
    it = finished(Panel(SMALL))
    Path("saved").write_text("a file in its place")
    it.save_button.click()
    assert "not saved: " in it.hint.value


# ---- what goes wrong is said, and nothing is lost


@pytest.mark.parametrize(
    ("values", "part"),
    [
        ({"t_start": 5, "steps": 8}, "8 of them do not fit between t₀ = 5 and 0"),
        ({"t_start": 700, "T": 500}, "expected a whole number from 0 to T = 500, got 700"),
        ({"T": 1}, "T counts the steps of the diffusion"),
        ({"task": "super", "size": 34}, "needs a side that 4 divides, got 34"),
        ({"strength": 120}, "strength of compressive: expected a number from 1 to 100"),
        ({"full": True}, "full size works tile by tile"),
        ({"seed": -1}, "seed: expected a whole number of 0 or more"),
    ],
)
def test_values_that_cannot_work_are_one_line_and_nothing_is_computed(
    values: dict[str, Any], part: str, endless: list[int]
) -> None:
    it = Panel(replace(SMALL, method="DIP+DDPM"))
    it.run_button.click()
    until(lambda: len(endless) > 2)
    it.stop_button.click()
    it.wait(LONG)
    taken, picture = len(endless), it.pictures["estimate"].value
    before = {name: it.controls[name].value for name in values}
    it.auto.value = "t_start" not in values
    for name, value in values.items():
        it.controls[name].value = value
    assert part in it.hint.value, "said while the values are chosen"
    it.run_button.click()
    it.wait(LONG)
    assert part in it.hint.value
    assert "\n" not in it.hint.value
    assert len(endless) == taken
    assert (it.pictures["estimate"].value, len(it.runs)) == (picture, 1)
    for name, value in before.items():
        it.controls[name].value = value
    assert it.hint.value == ""
    it.continue_button.click()  # the stopped run is still there
    until(lambda: len(endless) > taken)
    it.stop_button.click()
    it.wait(LONG)


@pytest.mark.parametrize("method", ["DDPM", "DIP+DDPM"])
def test_a_photograph_that_the_prior_has_seen_is_refused_and_what_was_there_stays(method: str) -> None:
    it = finished(Panel(SMALL))
    picture = it.pictures["estimate"].value
    it.controls["image"].value, it.controls["method"].value = "camera", method
    finished(it)
    assert "camera" in it.hint.value
    assert it.problem.startswith("prior: both bundled priors were trained on this image")
    assert (it.pictures["estimate"].value, len(it.runs), it.state) == (picture, 1, "done")
    it.controls["method"].value = "DIP"
    assert len(finished(it).runs) == 2, "DIP may"


def test_a_missing_file_is_said_and_ends_a_batch() -> None:
    it = Panel(replace(SMALL, image="./nobody.png"))
    with pytest.raises(InputError, match=r"nobody\.png.* is neither a file nor a bundled photograph"):
        it.finish()
    with pytest.raises(InputError, match="t₀ is a position"):
        Panel(replace(SMALL, method="DIP+DDPM", t_start=2000))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"image": "camera", "method": "DDPM"}, "prior: both bundled priors were"),
        ({"task": "super", "size": 33}, "size"),
    ],
)
def test_an_earlier_run_is_no_answer_to_settings_that_are_refused(changed: dict[str, Any], said: str) -> None:
    """Whether before the run's thread starts, or in it."""
    it = finished(Panel(SMALL))
    for name, value in changed.items():
        it.controls[name].value = value
    with pytest.raises(InputError, match=said):
        it.finish()
    assert len(it.runs) == 1


def test_a_defect_is_said_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(choice: Choice, upload: Photograph | None = None) -> Iterator[Frame]:
        yield frame(1)
        raise ZeroDivisionError("<script>")

    it = Panel(SMALL)
    with monkeypatch.context() as patch:
        patch.setattr(play, "frames", broken)
        finished(it)
    assert it.state == "failed"
    assert "failed: ZeroDivisionError: &lt;script&gt;" in it.hint.value
    assert "failed" in it.status.value
    assert "left" not in it.status.value, "nothing goes on"
    assert [(run.word, run.steps) for run in it.runs] == [("failed", 1)], "its last image is kept"
    assert finished(it).state == "done", "the panel is usable again"
