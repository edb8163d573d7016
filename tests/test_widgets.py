"""The panel without a browser: it starts, shows, stops, and says what is wrong."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as PIL_Image

from dipddpm_lib import compute, ddpm, dip, hybrid, images, metrics, operators, priors, widgets
from dipddpm_lib.types import Image, Measurement, Step
from dipddpm_lib.widgets import CLEAN, Choice, Panel

LONG = 60.0  # seconds that a busy machine may need for what takes one


@pytest.fixture(autouse=True)
def _root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPDDPM_STORE", str(tmp_path / "store"))


def panel(method: str = "DIP", image: str = "coffee", task: str = "inpaint_50") -> Panel:
    """A panel set to its smallest and shortest."""
    it = Panel(method, image, 32)
    it.task.value, it.iterations.value, it.steps.value = task, 10, 2
    return it


def finished(it: Panel) -> Panel:
    it.run()
    it.wait(LONG)
    assert it._thread is not None
    assert not it._thread.is_alive()
    assert (it.run_button.disabled, it.stop_button.disabled) == (False, True)
    return it


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def shown(it: Panel) -> np.ndarray:
    return np.array(PIL_Image.open(io.BytesIO(it.picture.value)))


def endless(choice: Choice, x_true: Image, y: Measurement) -> Iterator[Step]:
    index = 0
    while True:
        time.sleep(0.005)
        yield Step(index, 0, x_true, x_true / 2)
        index += 1


def test_nothing_is_computed_before_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("computed")

    for module, name in (
        *((images, "load"), (priors, "load"), (dip, "reconstruct"), (ddpm, "sample"), (hybrid, "reconstruct")),
        *((operators, "task"), (operators, "measure"), (metrics, "psnr")),
    ):
        monkeypatch.setattr(module, name, refuse)
    threads = threading.active_count()
    it = Panel()
    it.size.value = 64
    it.method.value = "DDPM"
    it.image.value = "no such image"
    assert threading.active_count() == threads
    assert (it.picture.value, it.status.value, it.last) == (b"", "ready", None)
    assert (it.run_button.disabled, it.stop_button.disabled) == (False, True)
    it.stop()
    it.wait()
    assert it.status.value == "ready", "stopping what does not run does nothing"


def test_the_controls_are_the_choice() -> None:
    it = Panel("DDPM", "rocket", 64)
    it.task.value, it.iterations.value, it.steps.value, it.seed.value = "holes", 30, 7, 5
    assert it.choice() == Choice("rocket", 64, "holes", 30, 7, 5)
    assert it.method.value == "DDPM"
    assert set(it.task.options) == {CLEAN, *operators.TASKS}
    assert set(it.method.options) == set(widgets.METHODS) == {"DIP", "DDPM", "DIP+DDPM"}
    assert set(it.image.options) == set(images.photographs())


@pytest.mark.parametrize("task", [CLEAN, "super_x4"])
@pytest.mark.parametrize("method", widgets.METHODS)
def test_every_method_runs_and_is_shown(method: str, task: str) -> None:
    it = finished(panel(method, task=task))
    assert it.last is not None
    x_true, y = it.choice().measured()
    psnr, ssim = metrics.psnr(it.last.x0_hat, x_true), metrics.ssim(it.last.x0_hat, x_true)
    assert it.status.value.startswith("done: ")
    assert f"PSNR {psnr:.2f} dB, SSIM {ssim:.3f}" in it.status.value
    seen = operators.pseudo_inverse(y).float().clamp(-1, 1)
    three = [images.to_array(x) for x in (x_true, seen, it.last.x0_hat)]
    assert np.array_equal(shown(it), np.concatenate(three, axis=1)), "target, measurement, estimate"


def test_the_panels_run_is_the_librarys() -> None:
    it = finished(panel("DIP"))
    choice = it.choice()
    _, y = choice.measured()
    *_, fit = dip.reconstruct(y, dip.DIPConfig.fast(10), compute.generator(0, "dip"))
    assert it.last is not None
    assert torch.equal(it.last.x0_hat, fit.x0_hat)
    again = finished(panel("DIP"))
    assert again.last is not None
    assert torch.equal(again.last.x0_hat, it.last.x0_hat), "the same seed, the same picture"
    again.seed.value = 1
    finished(again)
    assert not torch.equal(again.last.x0_hat, it.last.x0_hat)


def test_stop_ends_a_run_within_a_second_and_keeps_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(widgets.METHODS, "DIP", endless)
    it = panel()
    it.run_button.click()
    until(lambda: it.last is not None and it.last.index > 3)
    assert (it.run_button.disabled, it.stop_button.disabled) == (True, False)
    until(lambda: it.status.value.startswith("running: step"))
    start = time.monotonic()
    it.stop_button.click()
    it.wait(LONG)
    assert time.monotonic() - start < 1
    assert it.last is not None
    assert it.status.value.startswith(f"stopped: step {it.last.index + 1},")
    assert np.array_equal(shown(it)[:, -32:], images.to_array(it.last.x0_hat))
    assert (it.run_button.disabled, it.stop_button.disabled) == (False, True)


def test_a_long_fit_is_stopped() -> None:
    it = panel()
    it.iterations.value = 2000
    it.run()
    until(lambda: it.last is not None)
    it.stop()
    it.wait(LONG)
    assert it.last is not None
    assert 0 <= it.last.index < 1999
    assert it.status.value.startswith("stopped: ")
    it.iterations.value = 10
    finished(it)
    assert it.status.value.startswith("done: "), "a stopped panel runs again to its end"


def test_a_second_run_while_one_runs_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(widgets.METHODS, "DIP", endless)
    it = panel()
    before = threading.active_count()
    it.run()
    first = it._thread
    for _ in range(3):
        it.run()
    assert it._thread is first
    assert threading.active_count() == before + 1
    it.stop()
    it.wait(LONG)
    assert threading.active_count() == before


def test_a_run_pressed_again_forgets_the_earlier_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(widgets.METHODS, "DIP", endless)
    it = panel()
    it.stop()
    it.run()
    until(lambda: it.last is not None and it.last.index > 3)
    it.stop()
    it.wait(LONG)


# ---- what goes wrong is said

NASTY = '"><img src=x onerror=alert(1)>.png'


def told(it: Panel) -> str:
    """What a failed panel says; it is usable again, and holds no markup but its own."""
    text = finished(it).status.value
    assert text.startswith("<b>")
    assert text.endswith("</b>")
    assert "<" not in text[3:-4]
    assert ">" not in text[3:-4]
    assert it.picture.value == b""
    it.image.value, it.method.value, it.task.value = "coffee", "DIP", "inpaint_50"
    assert finished(it).status.value.startswith("done: ")
    return text


@pytest.mark.parametrize("there", [True, False])
def test_a_name_is_no_markup(tmp_path: Path, there: bool) -> None:
    path = tmp_path / NASTY
    if there:
        path.write_text("no picture")
    text = told(panel(image=str(path)))
    assert "&lt;img src=x onerror=alert(1)&gt;.png" in text


@pytest.mark.parametrize("method", ["DDPM", "DIP+DDPM"])
def test_a_photograph_that_the_prior_has_seen_is_refused(method: str) -> None:
    assert "camera" in told(panel(method, "camera"))


def test_dip_may_run_on_any_photograph() -> None:
    assert finished(panel("DIP", "camera")).status.value.startswith("done: ")


def test_a_size_that_does_not_fit_the_task_is_said() -> None:
    it = panel(task="super_x4")
    it.size.value = 34
    text = finished(it).status.value
    assert text.startswith("<b>")
    assert "4" in text
    assert "failed" not in text


def test_a_defect_is_said_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(choice: Choice, x_true: Image, y: Measurement) -> Iterator[Step]:
        raise ZeroDivisionError("<script>")
        yield

    monkeypatch.setitem(widgets.METHODS, "DDPM", broken)
    assert "failed: ZeroDivisionError: &lt;script&gt;" in told(panel("DDPM"))
