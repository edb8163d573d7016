"""Interactive panels over the layers below: choose, run, stop, see."""

from __future__ import annotations

import html
import io
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import ipywidgets as w
import torch
from PIL import Image as PIL_Image

from . import compute, ddpm, dip, hybrid, images, metrics, operators, priors
from .schedules import NoiseSchedule
from .types import Image, InputError, Measurement, Step

CLEAN = "clean (protocol A)"


@dataclass(frozen=True)
class Choice:
    """What the panel's controls say when Run is pressed."""

    image: str
    size: int
    task: str
    iterations: int
    steps: int
    seed: int

    def measured(self) -> tuple[Image, Measurement]:
        x_true = images.load(self.image, self.size)
        if self.task == CLEAN:
            return x_true, Measurement(x_true, operators.Identity(), 0.0)
        draw = compute.generator(self.seed, f"measure/{self.task}")
        operator, sigma_y = operators.task(self.task, x_true.shape[-2], x_true.shape[-1], draw)
        return x_true, operators.measure(operator, x_true, sigma_y, draw)


def _dip_steps(choice: Choice, x_true: Image, y: Measurement) -> Iterator[Step]:
    return dip.reconstruct(y, dip.DIPConfig.fast(choice.iterations), compute.generator(choice.seed, "dip"))


def _ddpm_steps(choice: Choice, x_true: Image, y: Measurement) -> Iterator[Step]:
    schedule = NoiseSchedule.cosine(1000)
    x_T = torch.randn(x_true.shape, generator=compute.generator(choice.seed, "x_T"))
    data = None if choice.task == CLEAN else y
    config = ddpm.SampleConfig(choice.steps, "quadratic", zeta=1.0)
    draw = compute.generator(choice.seed, "sample")
    return ddpm.sample(priors.load(x_true), schedule, x_T, 1000, config, draw, data)


def _hybrid_steps(choice: Choice, x_true: Image, y: Measurement) -> Iterator[Step]:
    clean = choice.task == CLEAN
    usual = hybrid.HybridConfig()
    config = replace(
        usual,
        dip=replace(dip.DIPConfig.fast(choice.iterations), runs=usual.dip.runs),
        sample=replace(usual.sample, steps=choice.steps),
        rho=1.0 if clean else usual.rho,
        consistency=not clean,
    )
    schedule = NoiseSchedule.cosine(1000)
    return hybrid.reconstruct(y, priors.load(x_true), schedule, config, compute.generator(choice.seed, "hybrid"))


METHODS: dict[str, Callable[[Choice, Image, Measurement], Iterator[Step]]] = {
    "DIP": _dip_steps,
    "DDPM": _ddpm_steps,
    "DIP+DDPM": _hybrid_steps,
}


class Panel:
    """Choose an image and settings, run, stop, see. Nothing is computed before Run is pressed.

    The work runs on a thread of its own and looks at the stop flag at every step.

    >>> panel = Panel("DIP")     # then, in a notebook: panel.widget
    """

    def __init__(self, method: str = "DIP+DDPM", image: str = "astronaut", size: int = 96):
        self.image = w.Combobox(
            value=image,
            options=list(images.photographs()),
            description="image",
            ensure_option=False,
            tooltip="a bundled photograph's name, or the path of an image file",
        )
        self.size = w.BoundedIntText(value=size, min=32, max=512, step=32, description="size")
        self.task = w.Dropdown(options=[CLEAN, *operators.TASKS], value="inpaint_50", description="task")
        self.method = w.Dropdown(options=list(METHODS), value=method, description="method")
        self.iterations = w.IntSlider(value=200, min=10, max=2000, step=10, description="DIP fit")
        self.steps = w.IntSlider(value=8, min=1, max=1000, description="steps")
        self.seed = w.BoundedIntText(value=0, min=0, max=10**6, description="seed")
        self.run_button = w.Button(description="Run", button_style="success")
        self.stop_button = w.Button(description="Stop", disabled=True)
        self.status = w.HTML("ready")
        self.picture = w.Image(format="png", width=3 * 240, height=240)
        self.last: Step | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.run_button.on_click(lambda _: self.run())
        self.stop_button.on_click(lambda _: self.stop())
        controls = [self.image, self.size, self.task, self.method, self.iterations, self.steps, self.seed]
        buttons = w.HBox([self.run_button, self.stop_button])
        self.widget = w.HBox([w.VBox([*controls, buttons]), w.VBox([self.picture, self.status])])

    def choice(self) -> Choice:
        return Choice(
            self.image.value,
            self.size.value,
            self.task.value,
            self.iterations.value,
            self.steps.value,
            self.seed.value,
        )

    def run(self) -> None:
        """Start; a second call while one runs does nothing."""
        if self._thread is not None and self._thread.is_alive():
            return
        self._stop.clear()
        self.run_button.disabled, self.stop_button.disabled = True, False
        work = (self.choice(), METHODS[self.method.value])
        self._thread = threading.Thread(target=self._work, args=work, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop at the next step and keep the last image."""
        self._stop.set()

    def wait(self, timeout: float | None = None) -> None:
        """Until the run has ended."""
        if self._thread is not None:
            self._thread.join(timeout)

    def _work(self, choice: Choice, method: Callable[[Choice, Image, Measurement], Iterator[Step]]) -> None:
        try:
            x_true, y = choice.measured()
            seen = operators.pseudo_inverse(y)
            start, drawn = time.perf_counter(), 0.0
            for step in method(choice, x_true, y):
                self.last = step
                if time.perf_counter() - drawn > 0.25:  # four pictures a second are plenty
                    drawn = time.perf_counter()
                    self._draw(step, x_true, seen, start)
                if self._stop.is_set():
                    break
            if self.last is not None:
                self._draw(self.last, x_true, seen, start, "stopped" if self._stop.is_set() else "done")
        except InputError as error:
            self.status.value = f"<b>{html.escape(str(error))}</b>"
        except Exception as error:
            self.status.value = f"<b>failed: {html.escape(f'{type(error).__name__}: {error}')}</b>"
        finally:
            self.run_button.disabled, self.stop_button.disabled = False, True

    def _draw(self, step: Step, x_true: Image, seen: Image, start: float, word: str = "running") -> None:
        shown = torch.cat([x_true, seen.float().clamp(-1, 1), step.x0_hat.cpu()], dim=-1)
        buffer = io.BytesIO()
        PIL_Image.fromarray(images.to_array(shown)).save(buffer, "PNG")
        self.picture.value = buffer.getvalue()
        psnr, ssim = metrics.psnr(step.x0_hat.cpu(), x_true), metrics.ssim(step.x0_hat.cpu(), x_true)
        self.status.value = (
            f"{word}: step {step.index + 1}, t = {step.t}, {time.perf_counter() - start:.1f} s, "
            f"PSNR {psnr:.2f} dB, SSIM {ssim:.3f} &emsp; target · measured · estimate"
        )
