"""Interactive panels over the layers below: choose, run, stop, go on, compare, keep."""

from __future__ import annotations

import base64
import html
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ipywidgets as w
import numpy as np
from PIL import Image as PIL_Image

from . import images, operators, play, priors
from .dip import DIPConfig
from .play import CLEAN, Choice, Frame, Photograph, Run
from .types import InputError

SAVED = Path("saved")  # beside the notebook
PATIENCE = 15.0  # seconds of tiles that are not worth asking for
KEPT = 6  # runs in the table: their images are held in memory
DRAWN = 0.25  # seconds between two pictures

STYLE = """<style>
.dd-panel { container-type: inline-size; font-size: 13px; color: var(--jp-ui-font-color1, #222); }
.dd-body { display: grid; grid-template-columns: 22.5rem minmax(0, 1fr); gap: 0 1.75rem; overflow: visible; }
@container (max-width: 46rem) { .dd-body { grid-template-columns: minmax(0, 1fr); } }
.dd-panel .widget-label { font-size: 13px; }
.dd-controls, .dd-view, .dd-controls > *, .dd-view > * { overflow: visible; }
.dd-panel .jupyter-widgets { margin-left: 0; margin-right: 0; }
.dd-panel .widget-hbox { gap: 0 .3rem; }
.dd-panel h4 { margin: .55rem 0 .1rem; padding-bottom: .15rem; font-size: 12px; font-weight: 600; line-height: 1.3;
  letter-spacing: .04em; text-transform: uppercase; color: var(--jp-ui-font-color2, #666);
  border-bottom: 1px solid var(--jp-border-color2, #ddd); }
.dd-panel .dd-controls .widget-checkbox { margin-left: calc(6.5rem + 8px); width: auto; }
.dd-panel .dd-note { margin: 0 2px 0 calc(6.5rem + 10px); font-size: 12px; line-height: 1.4;
  color: var(--jp-ui-font-color2, #666); }
.dd-panel .dd-status { line-height: 1.45; min-height: 1.45em; font-variant-numeric: tabular-nums; }
.dd-panel .dd-alert { padding: .35rem .6rem; border-left: 4px solid #d55e00; line-height: 1.4;
  background: color-mix(in srgb, #d55e00 10%, transparent); }
.dd-pictures { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: .75rem; overflow: visible; }
.dd-pictures img, .dd-compare img { width: 100%; height: auto; image-rendering: pixelated; border-radius: 3px; }
.dd-pictures .widget-image, .dd-compare .widget-image { margin: 0; width: 100%; max-width: none; }
.dd-pictures .widget-image { aspect-ratio: 1; object-fit: contain; background: var(--jp-layout-color2, #eee); }
.dd-compare { display: grid; grid-template-columns: minmax(0, 22rem) minmax(12rem, 1fr); gap: 0 1rem; }
.dd-panel table.dd-runs { border-collapse: collapse; font-variant-numeric: tabular-nums; line-height: 1.4; }
.dd-runs th, .dd-runs td { padding: .2rem .7rem .2rem 0; text-align: left; vertical-align: top; white-space: nowrap; }
.dd-runs tbody th { font-weight: 400; color: var(--jp-ui-font-color2, #666); }
.dd-runs img { width: 104px; height: 104px; object-fit: contain; image-rendering: pixelated; border-radius: 3px; }
.dd-scroll { overflow-x: auto; }
.dd-panel pre.dd-command { margin: 0; padding: .5rem .7rem; white-space: pre-wrap; word-break: break-word;
  font-size: 12px; line-height: 1.45; user-select: all; border-radius: 3px;
  background: var(--jp-layout-color2, #f4f4f4); }
</style>"""

SCORES = {"psnr": ".2f", "ssim": ".3f"}
BLANK = play.png(np.full((1, 1, 3), 238, dtype=np.uint8))  # a browser shows nothing for a broken picture
WIDE = {"width": "100%"}
ALIGNED = {"description_width": "6.5rem"}


def _escaped(text: object) -> str:
    return html.escape(str(text))


def _alert(text: str) -> str:
    return f'<div class="dd-alert" role="alert">{_escaped(text)}</div>' if text else ""


def _heading(text: str) -> w.HTML:
    return w.HTML(f"<h4>{text}</h4>", layout=WIDE)


def _slider(description: str, value: int, low: int, high: int, step: int = 1) -> w.IntSlider:
    """Its bounds make room for a value from outside: no setting is changed in silence."""
    bounds = {"min": min(low, value), "max": max(high, value), "step": step}
    return w.IntSlider(value, **bounds, description=description, layout=WIDE, style=ALIGNED)


def _duration(seconds: float) -> str:
    """12 s, 3 min 20 s, 1 h 5 min."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _img(array: np.ndarray, alt: str) -> str:
    return f'<img alt="{_escaped(alt)}" src="data:image/png;base64,{base64.b64encode(play.png(array)).decode()}">'


class _Job:
    """A run under way, which can be left and taken up again: its frames, and how long they took."""

    def __init__(self, number: int, choice: Choice, frames: Iterator[Frame]):
        self.number, self.choice, self.frames = number, choice, frames
        self.last: Frame | None = None
        self.seconds = 0.0
        self.pace = 0.0  # seconds a step, or a tile, lately
        self._begun = 0.0  # seconds when the step that is under way began
        self.agreed = False  # the time that the tiles take was announced
        self.problem = ""  # what ended it

    def advance(self) -> bool:
        """One frame more; False at the end. The clock runs here alone: drawing and pauses do not count."""
        start, done = time.perf_counter(), self.last.done if self.last else 0
        frame = next(self.frames, None)
        self.seconds += time.perf_counter() - start
        if frame is None:
            return False
        if frame.done > done:
            took = (self.seconds - self._begun) / (frame.done - done)
            # the first step loads and warms up: it says little of the others
            self.pace = took if done < 2 else 0.9 * self.pace + 0.1 * took
            self._begun = self.seconds
        self.last = frame
        return True

    @property
    def left(self) -> float:
        """Seconds to the end, at the pace of the last steps."""
        return self.pace * (self.last.total - self.last.done) if self.last else 0.0


class Panel:
    """Choose a photograph and settings; run, stop, go on; compare, save. Nothing is computed before Run is pressed.

    A run has a thread of its own, so the controls answer while it computes; there is never a second one.

    >>> panel = Panel()  # then, in a notebook: panel.widget
    """

    def __init__(self, choice: Choice | None = None):
        self.uploads: dict[str, Photograph] = {}
        self.sizes: dict[str, tuple[int, int]] = {}  # height and width of the uploads
        self.runs: list[Run] = []
        self.problem = ""
        self.state = "ready"  # running, stopped, announced, done, failed
        self._job: _Job | None = None
        self._thread: threading.Thread | None = None
        self._halt = threading.Event()
        self._lock = threading.RLock()  # what is shown changes as a whole
        self._count = 0
        self._listing = False  # the two lists of what can be compared are changing
        self._shown: _Job | None = None  # whose target and measurement are on the screen
        choice = choice or Choice()
        choice.check()
        self._controls(choice)
        self._view()
        self.widget = w.VBox([w.HTML(STYLE, layout={"display": "none"}), self._body()], layout=WIDE)
        self.widget.add_class("dd-panel")
        for control in self.controls.values():
            control.observe(self._revise, "value")
        self.auto.observe(self._revise, "value")
        self.by_hand.observe(self._revise, "value")
        self._revise()

    # ---- what it is made of

    def _controls(self, choice: Choice) -> None:
        known = [*priors.EVALUATION, *(name for name in images.photographs() if name not in priors.EVALUATION)]
        options = known if choice.image in known else [*known, choice.image]
        tasks, starts = ([(text, name) for name, text in names.items()] for names in (play.TASKS, play.STARTS))
        it, usual = choice.explicit(), DIPConfig().filters
        wide: dict[str, Any] = {"layout": WIDE, "style": ALIGNED}
        self.controls: dict[str, w.ValueWidget] = {
            "image": w.Dropdown(options=options, value=it.image, description="photograph", **wide),
            "size": _slider("side (pixels)", it.size, 32, 512, 4),
            "full": w.Checkbox(it.full, description="full size, by tiles", indent=False),
            "task": w.Dropdown(options=tasks, value=it.task, description="task", **wide),
            "strength": w.FloatText(it.strength, description="strength", **wide),
            "method": w.ToggleButtons(options=play.METHODS, value=it.method, style={"button_width": "6.6rem"}),
            "depth": _slider("depth", it.depth or len(usual), 1, 6),
            "filters": _slider("filters", it.filters or max(usual), 4, 128, 4),
            "iterations": _slider("iterations", it.iterations, 10, 2000, 10),
            "schedule": w.Dropdown(options=play.SCHEDULES, value=it.schedule, description="schedule", **wide),
            "T": w.IntText(it.T, description="T", **wide),
            "steps": _slider("steps", it.steps, 1, 1000),
            "spacing": w.Dropdown(options=play.SPACINGS, value=it.spacing, description="spacing", **wide),
            "start": w.Dropdown(options=starts, value=it.start, description="from", **wide),
            "hand_off": w.Dropdown(options=play.HAND_OFFS, value=it.hand_off, description="hand-off", **wide),
            "t_start": _slider("t₀", it.t_start if it.t_start >= 0 else it.T // 4, 0, 1000),
            "seed": w.IntText(it.seed, description="seed", **wide),
        }
        self.by_hand = w.Checkbox(it.depth > 0, description="network by hand: depth × filters", indent=False)
        self.auto = w.Checkbox(it.t_start < 0, description="t₀ from the start's own error", indent=False)
        self.note, self.unit, self.settled = (w.HTML(layout=WIDE) for _ in range(3))
        for note in (self.note, self.unit, self.settled):
            note.add_class("dd-note")
        self.upload = w.FileUpload(
            accept=".png,.jpg,.jpeg,.tif,.tiff,.webp,.bmp", description="your own …", layout=WIDE
        )
        self.upload.observe(self._received, "value")
        self.controls["task"].observe(self._usual_strength, "value")
        self.controls["method"].observe(self._usual_lengths, "value")

    def _view(self) -> None:
        self.run_button = w.Button(description="Run", button_style="success", icon="play")
        self.stop_button = w.Button(description="Stop", button_style="warning", icon="stop", disabled=True)
        self.continue_button = w.Button(description="Continue", icon="forward", disabled=True)
        self.save_button = w.Button(description="Save PNG", icon="download", disabled=True)
        self.run_button.on_click(lambda _: self.run())
        self.stop_button.on_click(lambda _: self.stop())
        self.continue_button.on_click(lambda _: self.go_on())
        self.save_button.on_click(lambda _: self.save())
        self.bar = w.IntProgress(0, 0, 1, layout=WIDE, style={"bar_color": "#009E73"})
        self.status, self.hint = w.HTML("ready", layout=WIDE), w.HTML(layout=WIDE)
        self.pictures = {name: w.Image(value=BLANK, format="png") for name in ("target", "measured", "estimate")}
        self.left, self.right = (w.Dropdown(description=d, layout=WIDE, style=ALIGNED) for d in ("left", "right"))
        self.split = w.IntSlider(50, 0, 100, readout=False, layout=WIDE)
        self.comparison = w.Image(value=BLANK, format="png")
        self.table, self.command = w.HTML(layout=WIDE), w.HTML(layout=WIDE)
        for control in (self.left, self.right, self.split):
            control.observe(lambda _: self._compare(), "value")

    def _body(self) -> w.Widget:
        c = self.controls
        controls = w.VBox(
            [
                *(_heading("photograph and task"), c["image"], self.upload, c["size"], c["full"], self.note),
                *(c["task"], c["strength"], self.unit, c["seed"]),
                *(_heading("method"), c["method"]),
                *(_heading("DIP"), c["iterations"], self.by_hand, c["depth"], c["filters"]),
                *(_heading("diffusion"), c["schedule"], c["T"], c["steps"], c["spacing"]),
                *(_heading("hand-off"), c["start"], self.settled, c["hand_off"], self.auto, c["t_start"]),
            ]
        )
        cells = [w.VBox([w.HTML(f"{name}"), picture]) for name, picture in self.pictures.items()]
        pictures = w.Box(cells)
        pictures.add_class("dd-pictures")
        compare = w.Box([w.VBox([self.comparison, self.split]), w.VBox([self.left, self.right])])
        compare.add_class("dd-compare")
        self.results = w.VBox(
            [
                *(_heading("compare"), compare, _heading("runs so far"), self.table),
                *(_heading("the last run again, from a terminal"), self.command),
            ],
            layout={"display": "none"},
        )
        buttons = w.HBox([self.run_button, self.stop_button, self.continue_button, self.save_button])
        view = w.VBox([buttons, self.bar, self.status, self.hint, pictures, self.results])
        for box, name in (
            (controls, "dd-controls"),
            (view, "dd-view"),
            (self.status, "dd-status"),
        ):
            box.add_class(name)
        body = w.Box([controls, view])
        body.add_class("dd-body")
        return body

    # ---- settings

    def choice(self) -> Choice:
        """What the controls say."""
        values = {name: control.value for name, control in self.controls.items()}
        if not self.by_hand.value:
            values |= {"depth": 0, "filters": 0}
        if self.auto.value:
            values["t_start"] = -1
        return Choice(**values)

    def _usual_strength(self, change: Any) -> None:
        """Another task counts its strength in other units."""
        if change["new"] != CLEAN:
            self.controls["strength"].value = replace(self.choice(), strength=0.0).explicit().strength

    def _usual_lengths(self, change: Any) -> None:
        """Another method has other usual lengths; those that were set by hand stay."""
        at = {
            name: replace(Choice(), method=change[name], T=self.controls["T"].value).explicit()
            for name in ("old", "new")
        }
        for name in ("iterations", "steps", "spacing"):
            if self.controls[name].value == getattr(at["old"], name):
                self.controls[name].value = getattr(at["new"], name)

    def _revise(self, _: Any = None) -> None:
        """After every change: what the method does not read is greyed out, and what cannot work is said at once."""
        choice = self.choice()
        try:
            choice.check()
            problem = ""
        except InputError as error:
            problem = str(error)
        hybrid = choice.method == "DIP+DDPM"
        settled = choice.settled() if hybrid and not problem else None
        fits = choice.method == "DIP" or (hybrid and (settled is None or settled.start == "dip"))
        # by tiles the denoiser takes one step, and so does DIP+DDPM from a noisy measurement
        steps = not (choice.method == "DDPM" and choice.full) and (
            settled is None or settled.start != "measurement" or settled.t_start is not None
        )
        read = {
            **dict.fromkeys(("iterations", "depth", "filters"), fits),
            **dict.fromkeys(("schedule", "T"), choice.method != "DIP" and (hybrid or not choice.full)),
            **dict.fromkeys(("steps", "spacing"), choice.method != "DIP" and steps),
            "start": hybrid,
            "hand_off": hybrid and steps,
            "t_start": hybrid and not self.auto.value,
            "size": not choice.full,
            "strength": choice.task != CLEAN,
        }
        for name, used in read.items():
            self.controls[name].disabled = not used
        self.by_hand.disabled, self.auto.disabled = not fits, not hybrid
        for name in ("depth", "filters"):
            self.controls[name].disabled = not (fits and self.by_hand.value)
        self.settled.value = f"here: {play.STARTS[settled.start]}" if settled and choice.start == "auto" else ""
        self.unit.value = "" if choice.task == CLEAN else operators.DEGRADATIONS[choice.kind].counts
        self.note.value, self.hint.value = self._about(choice), _alert(problem)

    def _about(self, choice: Choice) -> str:
        lines = []
        if photograph := self.uploads.get(choice.image):
            height, width = self.sizes[choice.image]
            size = f"{width:,} × {height:,} pixels ({width * height / 1e6:.1f} megapixels)"
            lines.append(f"{_escaped(photograph.name)} has {size}.")
        if choice.full:
            how = "the denoiser in one step" if choice.method == "DDPM" else f"{choice.method} anew"
            lines.append(f"Full size: {how} on each overlapping tile; the time is said before it starts.")
        elif lines:
            lines.append(f"Its centre is cut to a square and resized to {choice.size} × {choice.size}.")
        return "<br>".join(lines)

    # ---- uploads

    def _received(self, change: Any) -> None:
        for file in change["new"]:
            photograph = Photograph(Path(str(file["name"])).name or "photograph", bytes(file["content"]))
            # 12 megapixels take a second to decode: not on the interface's thread
            self._receiver = threading.Thread(target=self._take, args=(photograph,), daemon=True)
            self._receiver.start()

    def _named_apart(self, photograph: Photograph) -> Photograph:
        """Another photograph of the same name, as phones give them, gets a number: "image (2).jpg"."""
        name, number = Path(photograph.name), 2
        while (other := self.uploads.get(photograph.path)) is not None and other.content != photograph.content:
            photograph = replace(photograph, name=f"{name.stem} ({number}){name.suffix}")
            number += 1
        return photograph

    def _take(self, photograph: Photograph) -> None:
        try:
            height, width = photograph.load().shape[-2:]
        except Exception as error:
            with self._lock:
                self.hint.value = _alert(_told(error))
            return
        with self._lock:
            photograph = self._named_apart(photograph)
            path = photograph.path
            self.uploads[path], self.sizes[path] = photograph, (height, width)
            picture = self.controls["image"]
            if path not in picture.options:
                picture.options = [*picture.options, path]
            picture.value = path
            self._revise()

    # ---- running

    def run(self) -> None:
        """Start; does nothing while a run is under way, and nothing but a line where the settings cannot work."""
        with self._lock:
            if self.state == "running":
                return
            choice = self.choice().explicit()
            try:
                choice.check()
            except InputError as error:
                self._say(str(error))
                return
            self._count += 1
            self._start(_Job(self._count, choice, play.frames(choice, self.uploads.get(choice.image))))

    def go_on(self) -> None:
        """Take a stopped run up again where it was left."""
        with self._lock:
            if self.state in ("stopped", "announced") and self._job is not None:
                self._start(self._job)

    def stop(self) -> None:
        """Said at once; the thread ends with its step, and the last image stays."""
        with self._lock:
            if self.state == "running":
                self._halt.set()
                self._become("stopped")
                self._tell("stopped")

    def wait(self, timeout: float | None = None) -> None:
        """Until the run has ended."""
        if self._thread is not None:
            self._thread.join(timeout)

    def finish(self) -> Run:
        """Run to the end without a reader, as papermill does; InputError where it cannot."""
        self.run()
        self.wait()
        if self.state == "announced":
            self.go_on()
            self.wait()
        if self.state != "done" or self.problem:  # an earlier run is no answer to settings that are refused
            raise InputError(self.problem)
        return self.runs[-1]

    def save(self) -> None:
        """The last run's image, with its settings, in the folder `saved`."""
        if not self.runs:
            return
        try:
            path = self.runs[-1].save(SAVED)
        except (OSError, InputError) as error:
            self._say(f"not saved: {error}")
            return
        self.hint.value = f"saved as {_escaped(path)}, with its settings inside"

    def _start(self, job: _Job) -> None:
        earlier = (self._thread, self._job, self.state)
        self._job, self._halt, self.problem, self.hint.value = job, threading.Event(), "", ""
        self._become("running")
        self._tell("running")
        self._thread = threading.Thread(target=self._work, args=(job, self._halt, *earlier), daemon=True)
        self._thread.start()

    def _work(
        self, job: _Job, halt: threading.Event, thread: threading.Thread | None, earlier: _Job | None, state: str
    ) -> None:
        """A thread's whole life. `earlier`, in `state`, is what Run took the place of."""
        if thread is not None:
            thread.join()  # the step that was under way when its run was stopped
        end, problem = "failed", ""
        try:
            end = self._consume(job, halt)
        except Exception as error:
            job.problem = _told(error)
        if job.problem:  # by an earlier thread of the same run, perhaps, whose step failed after Stop
            end, problem = "failed", job.problem
        try:
            if job.last is not None:  # the last image of a run that failed is kept, like that of one that was stopped
                self._conclude(job, halt, end)
        except Exception as error:
            problem = problem or _told(error)
        if not problem:
            return
        with self._lock:
            if self._job is not job:
                return
            if job.last is None:  # nothing came of it: what was there before can still go on
                self._job = earlier
                self._become(state)
                self._tell(state)
            else:
                self._become("failed")
                self._tell("failed")
            self._say(problem)

    def _consume(self, job: _Job, halt: threading.Event) -> str:
        """Frames until the end or a halt; returns how it ended."""
        drawn, cost = 0.0, 0.0
        while not halt.is_set():
            if not job.advance():
                return "done"
            assert job.last is not None
            if job.choice.full and not job.agreed and job.last.done == 2:
                job.agreed = True
                if job.left > PATIENCE:
                    return "announced"
            # drawing takes at most a fifth of the time
            start = time.perf_counter()
            if start - drawn > max(DRAWN, 4 * cost):
                self._draw(job, halt)
                drawn = time.perf_counter()
                cost = drawn - start
        return "stopped"

    def _draw(self, job: _Job, halt: threading.Event) -> None:
        frame = job.last
        assert frame is not None
        # the pixels of 12 megapixels are compared once, at the end
        scored = None if frame.target is None or job.choice.full else play.scores(frame.x0_hat, frame.target)
        estimate = play.png(play.preview(frame.x0_hat))
        with self._lock:
            if not halt.is_set():
                self._show(job, frame, estimate)
                self._tell("running", scored)

    def _conclude(self, job: _Job, halt: threading.Event, end: str) -> None:
        frame = job.last
        assert frame is not None
        estimate, made, scored = play.png(play.preview(frame.x0_hat)), None, None
        if end != "announced":
            scored = None if frame.target is None else play.scores(frame.x0_hat, frame.target)
            target = None if frame.target is None else play.preview(frame.target)
            psnr, ssim = scored or (None, None)
            pictures = images.to_array(frame.x0_hat), target, play.preview(frame.seen)
            made = Run(job.number, job.choice, end, *pictures, psnr, ssim, job.seconds, frame.done)
        with self._lock:
            late = self._job is not job or (halt.is_set() and self.state != "stopped")  # something was started since
            if not late:
                self._show(job, frame, estimate)
            if made is not None:
                others = [run for run in self.runs if run.number != job.number]
                self.runs = sorted([*others[1 - KEPT :], made], key=lambda run: run.number)
                self._tabulate()
            if late:
                return
            self._tell(end, scored)
            self._become(end)

    # ---- what is shown

    def _become(self, state: str) -> None:
        self.state = state
        running = state == "running"
        self.run_button.disabled, self.stop_button.disabled = running, not running
        self.continue_button.disabled = state not in ("stopped", "announced")
        self.save_button.disabled = running or not self.runs

    def _say(self, problem: str) -> None:
        self.problem, self.hint.value = problem, _alert(problem)

    def _tell(self, word: str, scored: tuple[float, float] | None = None) -> None:
        """The line under the bar, and the bar."""
        job = self._job
        if job is None:
            self.status.value = ""
            return
        frame, name = job.last, f"<b>run {job.number}</b>, {job.choice.method}"
        if frame is None:
            self.bar.value, self.status.value = (
                0,
                f"{name}: {'reading the photograph …' if word == 'running' else word}",
            )
            return
        unit = "tile" if job.choice.full else "step"
        total = frame.done if word == "done" else frame.total
        self.bar.max, self.bar.value = total, frame.done
        parts = [f"{name}: {word}", f"{unit} {frame.done} of {total}", f"{job.seconds:.1f} s"]
        if word not in ("done", "failed") and job.pace:
            parts.append(f"about {_duration(job.left)} left")
        if frame.t:
            parts.append(f"t = {frame.t}")
        if scored:
            parts.append(f"<b>PSNR {scored[0]:.2f} dB</b>, SSIM {scored[1]:.3f}")
        if word == "announced":
            parts = [
                f"{name}: {frame.total} tiles, of which one takes {_duration(job.pace)}",
                f"the whole photograph takes <b>about {_duration(job.left)}</b> more: Continue starts it",
            ]
        self.status.value = " · ".join(parts)

    def _show(self, job: _Job, frame: Frame, estimate: bytes) -> None:
        if self._shown is not job:
            self._shown = job
            self.pictures["measured"].value = play.png(play.preview(frame.seen))
            self.pictures["target"].value = BLANK if frame.target is None else play.png(play.preview(frame.target))
        self.pictures["estimate"].value = estimate

    def _tabulate(self) -> None:
        """The table of runs, the command of the last one, and what there is to compare."""
        last = self.runs[-1]
        gone = self.runs[0].number - 1 if len(self.runs) == KEPT else 0
        said = f"<p>The last {KEPT} runs are kept; earlier ones are gone.</p>" if gone else ""
        self.table.value = _table(self.runs) + said
        self.command.value = f'<pre class="dd-command">{_escaped(play.command(last.choice))}</pre>'
        options = [(f"run {run.number}, {run.choice.method}", str(run.number)) for run in reversed(self.runs)]
        still = [("measured", "measured"), *([("target", "target")] if last.target is not None else [])]
        self._listing = True  # while one side lists what the other does not yet, there is nothing to compare
        try:
            self.left.options, self.right.options = [*still, *options], [*options, *still]
            self.left.value, self.right.value = "measured", str(last.number)
        finally:
            self._listing = False
        self._compare()
        self.results.layout.display = None

    def _compare(self) -> None:
        """Left of the slider one picture, right of it the other."""
        with self._lock:  # a run that ends meanwhile changes what there is to compare
            if self._listing or not self.runs or self.left.value is None or self.right.value is None:
                return
            left, right = (self._picture(side.value) for side in (self.left, self.right))
        if left.shape != right.shape:
            left = np.asarray(PIL_Image.fromarray(left).resize(right.shape[1::-1], PIL_Image.Resampling.BICUBIC))
        at = round(self.split.value / 100 * right.shape[1])
        both = np.concatenate([left[:, :at], right[:, at:]], axis=1)
        self.comparison.value = play.png(both)

    def _picture(self, name: str) -> np.ndarray:
        last = self.runs[-1]
        if name in ("measured", "target"):
            still = last.seen if name == "measured" else last.target
            assert still is not None
            return still
        (run,) = [run for run in self.runs if str(run.number) == name]
        return play.shrunk(run.picture)


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, InputError) else f"failed: {type(error).__name__}: {error}"


def _table(runs: list[Run]) -> str:
    """Runs side by side; of those that saw what the last one saw, the best PSNR and SSIM in bold."""
    alike = [run for run in runs if _measured(run.choice) == _measured(runs[-1].choice)]
    ranked = {run.number for run in alike} if len(alike) > 1 else set()
    values = {name: [getattr(run, name) for run in alike if getattr(run, name) is not None] for name in SCORES}
    best = {name: max(found, default=None) for name, found in values.items()}

    def scored(run: Run, name: str) -> str:
        value = getattr(run, name)
        if value is None:
            return "–"
        text = format(value, SCORES[name])
        return f"<strong>{text}</strong>" if run.number in ranked and value == best[name] else text

    rows: dict[str, Callable[[Run], str]] = {
        "": lambda run: _img(play.shrunk(run.picture, 208), f"the image of run {run.number}"),
        "photograph": lambda run: _escaped(run.choice.image),
        "task": lambda run: _escaped(play.TASKS[run.choice.task]),
        "strength": lambda run: f"{run.choice.strength:g}" if run.choice.task != CLEAN else "–",
        "side": lambda run: "full" if run.choice.full else str(run.choice.size),
        "network": lambda run: _network(run.choice),
        "iterations": lambda run: str(run.choice.iterations) if run.choice.fits else "–",
        "steps, spacing": lambda run: _steps(run.choice),
        "schedule": lambda run: "–" if run.choice.method == "DIP" else f"{run.choice.schedule}, T = {run.choice.T}",
        "hand-off": lambda run: "–" if run.choice.method != "DIP+DDPM" else _hand_off(run.choice),
        "seed": lambda run: str(run.choice.seed),
        "PSNR (dB)": lambda run: scored(run, "psnr"),
        "SSIM": lambda run: scored(run, "ssim"),
        "seconds": lambda run: f"{run.seconds:.1f}",
        "ended": lambda run: f"{run.word}, {run.steps} {'tiles' if run.choice.full else 'steps'}",
    }
    head = "".join(f'<th scope="col">run {run.number}: {run.choice.method}</th>' for run in runs)
    body = "".join(
        f'<tr><th scope="row">{name}</th>{"".join(f"<td>{show(run)}</td>" for run in runs)}</tr>'
        for name, show in rows.items()
    )
    table = f'<table class="dd-runs"><thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="dd-scroll">{table}</div>'


def _measured(choice: Choice) -> tuple[object, ...]:
    """What a choice shows its method: only runs that agree in it can be ranked."""
    strength = 0.0 if choice.task == CLEAN else choice.strength  # nothing reads it there
    return choice.image, choice.full or choice.size, choice.task, strength, choice.seed


def _network(choice: Choice) -> str:
    if not choice.fits:
        return "–"
    return f"{choice.depth} × {choice.filters}" if choice.depth else "recommended"


def _steps(choice: Choice) -> str:
    if choice.method == "DIP":
        return "–"
    if choice.method == "DDPM" and choice.full:
        return "1"
    steps, passes = choice.steps, 1
    if choice.method == "DIP+DDPM":
        settled = choice.settled()
        steps, passes = settled.sample.steps, settled.calls // settled.sample.steps
        if settled.sample.views > 1:
            return f"{steps}, seen {settled.sample.views} ways"
    return f"{f'{passes} × ' if passes > 1 else ''}{steps}, {choice.spacing}" if steps > 1 else "1"


def _hand_off(choice: Choice) -> str:
    t_start = "by its error" if choice.t_start < 0 else f"= {choice.t_start}"
    settled = choice.settled()
    return f"{play.STARTS[settled.start]}, {settled.kind}, t₀ {t_start}"
