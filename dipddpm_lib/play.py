"""What the panel runs: settings that can be checked, the frames of a run, the command that repeats it, its PNG."""

from __future__ import annotations

import io
import json
import math
import os
import shlex
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import torch
from PIL import Image as PIL_Image
from PIL import PngImagePlugin

from . import cells, compute, ddpm, dip, hybrid, images, metrics, operators, priors, tiles
from .ddpm import SampleConfig
from .dip import DIPConfig
from .hybrid import HandOff, HybridConfig, Start
from .schedules import NoiseSchedule, ScheduleName, SpacingKind, spacing
from .types import Image, InputError, LinearOperator, Measurement, Step, check_fields, require

CLEAN, OWN_NOISE = "clean", "own_noise"
TASKS = {
    "inpaint": "missing pixels",
    "holes": "square holes",
    "denoise": "added noise",
    OWN_NOISE: "the photograph's own noise",
    "super": "super-resolution",
    "deblur": "blur",
    "compressive": "compressive measurements",
    "fourier": "Fourier rows",
    CLEAN: "none, fit the clean image (protocol A)",
}
METHODS = ("DIP", "DDPM", "DIP+DDPM")
SCHEDULES = get_args(ScheduleName)
SPACINGS = get_args(SpacingKind)
HAND_OFFS = get_args(HandOff)
STARTS = {
    "auto": "what the measurement asks for",
    "dip": "a DIP fit",
    "classical": "a classical method",
    "measurement": "the measurement itself",
}
# DDPM alone, as in 07_restoration; the search is in the report, appendix C: "DDPM from noise at its best"
FROM_NOISE = SampleConfig(steps=100, spacing="quadratic", zeta=1.0, turn=True, lam=1.0)
NOTEBOOK = "notebooks/playground.ipynb"
LARGE = 1024**2  # pixels from which SSIM is taken tile by tile, for its memory


def _one_of(name: str, value: Any, known: Any) -> None:
    require(value in tuple(known), f"{name}: expected one of {', '.join(known)}, got {value!r}")


@dataclass(frozen=True)
class Choice:
    """The settings of one run, which are the parameters of notebooks/playground.ipynb by the same names.

    full:     the whole photograph at its own size, by overlapping tiles; size then says nothing
    task:     one of `TASKS`, strength what `operators.DEGRADATIONS` says of it; 0 is the usual one
    depth, filters: scales of DIP's network and their channels; 0 and 0 for the recommended network
    iterations, steps: of the DIP fit, of the reverse process; 0 for what the method recommends
    spacing, hand_off: "auto" for what the method recommends
    start:    the image that DIP+DDPM's reverse process starts from; "auto" asks the measurement (`hybrid.settle`)
    t_start:  where on the schedule it starts; -1 chooses it from the start's own error
    """

    image: str = "astronaut"
    size: int = 96
    full: bool = False
    task: str = "compressive"
    strength: int | float = 0.0
    method: str = "DIP+DDPM"
    depth: int = 0
    filters: int = 0
    iterations: int = 0
    schedule: str = "cosine"
    T: int = 1000
    steps: int = 0
    spacing: str = "auto"
    start: str = "auto"
    hand_off: str = "auto"
    t_start: int = -1
    seed: int = 0

    def explicit(self) -> Choice:
        """The same with the recommended numbers written out; what follows from the measurement stays "auto"."""
        usual = HybridConfig()
        fit, sample = (usual.dip, usual.sample) if self.method == "DIP+DDPM" else (DIPConfig(), FROM_NOISE)
        return replace(
            self,
            strength=self.strength or (0.0 if self.task == CLEAN else self._strength.usual),
            iterations=self.iterations or fit.iterations,
            steps=self.steps or min(sample.steps, self.T),
            spacing=sample.spacing if self.spacing == "auto" else self.spacing,
            hand_off=usual.kind if self.hand_off == "auto" else self.hand_off,
        )

    @property
    def kind(self) -> str:
        """Of its degradation, which says what the strength counts."""
        return "denoise" if self.task == OWN_NOISE else self.task

    @property
    def _strength(self) -> operators.Strength:
        return operators.DEGRADATIONS[self.kind]

    def check(self) -> None:
        """Refuse what cannot work, in one line, before an image is read or anything computed."""
        check_fields(self)
        _one_of("method", self.method, METHODS)
        _one_of("task", self.task, TASKS)
        _one_of("spacing", self.spacing, ("auto", *SPACINGS))
        _one_of("start", self.start, STARTS)
        _one_of("hand_off", self.hand_off, ("auto", *HAND_OFFS))
        least = {"size": images.SMALLEST_SIDE, "depth": 0, "filters": 0, "iterations": 0, "steps": 0, "seed": 0}
        for name, low in (least | {"t_start": -1}).items():
            value = getattr(self, name)
            require(value >= low, f"{name}: expected a whole number of {low} or more, got {value}")
        it = self.explicit()
        if self.task != CLEAN:
            self._strength.check(self.task, it.strength)
        require(
            self.task != "super" or self.full or self.size % int(it.strength) == 0,
            f"size: super-resolution ×{it.strength:g} needs a side that {it.strength:g} divides, got {self.size}; "
            f"{self.size // int(it.strength or 1) * int(it.strength)} would do",
        )
        require(
            not self.full or self.kind == "denoise",
            f"full size works tile by tile, and is there for tasks of noise alone: choose one, or resize for "
            f"{TASKS[self.task]}",
        )
        require(
            (self.depth > 0) == (self.filters > 0),
            f"depth and filters: expected both above 0, or both 0 for the recommended network, "
            f"got {self.depth} and {self.filters}",
        )
        if self.method != "DIP" and not (self.method == "DDPM" and self.full):  # these read no schedule
            schedule = NoiseSchedule.named(self.schedule, self.T)
            spacing(schedule, self.T, it.steps, cast(SpacingKind, it.spacing))
            if self.method == "DIP+DDPM" and self.t_start >= 0:
                schedule.check_t(self.t_start, "t₀")
                require(
                    self.t_start == 0 or it.steps <= self.t_start,
                    f"steps: {it.steps} of them do not fit between t₀ = {self.t_start} and 0; "
                    f"take {self.t_start} or fewer, or a larger t₀",
                )
        if self.method == "DIP+DDPM":
            self._check_start()
        if not self.full:  # a tile is small
            cells.check_memory(self.config(), self.size)

    def _check_start(self) -> None:
        require(
            self.task != CLEAN or self.start in ("auto", "dip"),
            "start: under protocol A the measurement is the target, and nothing is left to do: expected auto or dip",
        )
        told = {"classical": ("inpaint", "holes"), "measurement": ("denoise",)}.get(self.start)
        require(
            told is None or self.kind in told or self.t_start >= 0,
            f"start: the error of {STARTS[self.start]} is not known for {TASKS[self.task]}, so t₀ cannot follow "
            "from it: choose t₀ by hand, or another start",
        )

    def config(self) -> DIPConfig | SampleConfig | HybridConfig:
        """Of the method, with everything that is not chosen here as the method recommends it."""
        it, usual = self.explicit(), HybridConfig()
        kind, hand_off = cast(SpacingKind, it.spacing), cast(HandOff, it.hand_off)  # `check` knows them
        if self.method == "DDPM":
            return replace(FROM_NOISE, steps=it.steps, spacing=kind)
        fit = DIPConfig.fast(it.iterations)
        if self.depth:
            fit = replace(fit, filters=(self.filters,) * self.depth, lift=min(fit.lift, self.depth - 1))
        if self.method == "DIP":
            return fit
        clean = self.task == CLEAN
        return replace(
            usual,
            dip=replace(fit, runs=usual.dip.runs),
            sample=replace(usual.sample, steps=it.steps, spacing=kind),
            kind=hand_off,
            start=cast(Start, self.start),
            t_start=None if self.t_start < 0 else self.t_start,
            rho=2.0 if clean else usual.rho,  # as 03_hybrid
            consistency=not clean,
        )

    def settled(self) -> HybridConfig:
        """DIP+DDPM's configuration with its start chosen, as the run will choose it: no image is needed for that."""
        factor = int(self.explicit().strength) if self.task == "super" else 1
        side = factor * math.ceil(32 / factor)  # a small one that super-resolution can reduce
        config, (operator, sigma_y, _) = self.config(), self._degradation(side, side)
        assert isinstance(config, HybridConfig)
        return hybrid.settle(Measurement(operator.A(torch.zeros(1, 3, side, side)), operator, sigma_y), config)

    @property
    def fits(self) -> bool:
        """Does the run hold a DIP fit?"""
        return self.method == "DIP" or (self.method == "DIP+DDPM" and self.settled().start == "dip")

    def measure(self, x: Image) -> tuple[Image | None, Measurement]:
        """The target, where anybody knows it, and what the method may see."""
        operator, sigma_y, draw = self._degradation(x.shape[-2], x.shape[-1])
        if self.kind == self.task and self.task != CLEAN:
            return x, operators.measure(operator, x, sigma_y, draw)
        return (x if self.task == CLEAN else None), Measurement(x, operator, sigma_y)

    def _degradation(self, height: int, width: int) -> tuple[LinearOperator, float, torch.Generator]:
        """The operator, the noise sigma_y, and the generator that the noise is drawn from."""
        strength = self.explicit().strength
        # streams by the names of the nine tasks, so that at their strengths the panel sees what the report measured
        names = {"inpaint": "inpaint_{}", "denoise": "denoise_{}", "compressive": "compressive_{}"}
        names |= {"super": "super_x{}", "fourier": "fourier_x{}"}
        draw = compute.generator(self.seed, f"measure/{names.get(self.task, self.task).format(f'{strength:g}')}")
        if self.task == CLEAN:
            return operators.Identity(), 0.0, draw
        return *operators.degradation(self.kind, strength, height, width, draw), draw


@dataclass(frozen=True)
class Photograph:
    """An uploaded file; its bytes are read anew for each run, through the checks of `images.load`."""

    name: str
    content: bytes

    def load(self, size: int | None = None) -> Image:
        with tempfile.TemporaryDirectory(prefix="dipddpm-") as folder:  # readable by this user alone
            path = Path(folder) / "photograph"
            path.write_bytes(self.content)
            try:
                return images.load(path, size)
            except InputError as error:
                raise InputError(str(error).replace(repr(str(path)), repr(self.name))) from None

    @property
    def path(self) -> str:
        """What it is called in a `Choice`: a file beside whoever repeats the run, never a bundled photograph."""
        return f"./{self.name}"


@dataclass(frozen=True)
class Frame:
    """What there is to see after a step.

    done:   steps or tiles that are behind, of `total` at most
    target: the clean image, None where nobody knows it; seen: the pseudo-inverse of the measurement
    """

    done: int
    total: int
    t: int
    x0_hat: Image
    target: Image | None
    seen: Image


def frames(choice: Choice, upload: Photograph | None = None) -> Iterator[Frame]:
    """The run that `choice` describes, one frame a step; InputError for an image that cannot be taken."""
    choice.check()
    size = None if choice.full else choice.size
    x = upload.load(size) if upload else images.load(choice.image, size)
    target, y = choice.measure(x)
    seen = operators.pseudo_inverse(y).float().clamp(-1, 1)
    denoiser = None if choice.method == "DIP" else priors.load_fold(cells.unseen_fold(x))
    if choice.full:
        for tile in tiles.restore(y.y, lambda part, index: _tile(choice, y, part, index, denoiser)):
            yield Frame(tile.done, tile.count, 0, tile.image, target, seen)
        return
    config = choice.settled() if choice.method == "DIP+DDPM" else choice.config()
    total, fit = _total(config), None
    for step in _steps(choice, y, denoiser):
        if isinstance(step, dip.Fit):
            fit = step
        elif fit is not None and isinstance(config, HybridConfig) and step.index > fit.index:
            total, fit = fit.index + 1 + _calls(fit, choice, config), None  # the fit may have stopped early
        yield Frame(step.index + 1, max(total, step.index + 1), step.t, step.x0_hat.cpu(), target, seen)


def _total(config: DIPConfig | SampleConfig | HybridConfig) -> int:
    if isinstance(config, HybridConfig):
        return (config.dip.iterations if config.start == "dip" else 1) + config.calls
    return config.iterations if isinstance(config, DIPConfig) else config.steps * config.views


def _calls(fit: dip.Fit, choice: Choice, config: HybridConfig) -> int:
    """Of the reverse process from this fit: fewer than asked where fewer places lie between t₀ and 0."""
    schedule = NoiseSchedule.named(choice.schedule, choice.T)
    starts = hybrid.passes(hybrid.choose_t(fit, schedule, config), schedule, config)
    places = (len(spacing(schedule, t, config.sample.steps, config.sample.spacing)) - 1 for t in starts)
    return sum(max(1, n * config.sample.views) for n in places)


def _steps(choice: Choice, y: Measurement, denoiser: Any, part: str = "") -> Iterator[Step]:
    """With the draws of `experiment.run`, so that at its settings the panel shows the report's own result.

    part: names a tile's draws, so that each has its own
    """
    config, seed = choice.config(), choice.seed
    schedule = NoiseSchedule.named(choice.schedule, choice.T)
    if isinstance(config, DIPConfig):
        return dip.reconstruct(y, config, compute.generator(seed, f"dip{part}"))
    if isinstance(config, HybridConfig):
        of_fit, of_sample = (compute.generator(seed, f"{stream}{part}") for stream in ("dip", "sample"))
        return hybrid.reconstruct(y, denoiser, schedule, config, of_fit, of_sample)
    x_T = torch.randn(1, 3, *y.image_size, generator=compute.generator(seed, f"x_T{part}"))
    data = None if choice.task == CLEAN else y
    draw = compute.generator(seed, f"sample{part}")
    return ddpm.sample(denoiser, schedule, x_T, choice.T, config, draw, data)


def _tile(choice: Choice, y: Measurement, part: Image, index: int, denoiser: Any) -> Iterator[Image]:
    """The estimates of one tile: DDPM's denoiser in one step, the fits of DIP and DIP+DDPM from start to end."""
    if choice.method == "DDPM":
        yield ddpm.denoise_once(denoiser, part, y.sigma_y)
        return
    for step in _steps(choice, replace(y, y=part), denoiser, f"/tile {index}"):
        yield step.x0_hat


def scores(x0_hat: Image, target: Image) -> tuple[float, float]:
    """PSNR in dB, and SSIM; the SSIM of a large photograph is the mean over squares of it."""
    psnr, (height, width) = metrics.psnr(x0_hat, target), target.shape[-2:]
    if height * width <= LARGE:
        return psnr, metrics.ssim(x0_hat, target)
    parts = [metrics.ssim(x0_hat[..., r, c], target[..., r, c]) for r, c in tiles.boxes(height, width, 512, 0)]
    return psnr, float(np.mean(parts))


def preview(image: Image) -> np.ndarray:
    """An image as (h, w, 3) uint8 for the screen."""
    return shrunk(images.to_array(image))


def shrunk(array: np.ndarray, side: int = 512) -> np.ndarray:
    """An (h, w, 3) uint8 picture, no longer than `side`."""
    shrink = side / max(array.shape[:2])
    if shrink >= 1:
        return array
    size = (max(1, round(array.shape[1] * shrink)), max(1, round(array.shape[0] * shrink)))
    return np.asarray(PIL_Image.fromarray(array).resize(size, PIL_Image.Resampling.BOX))


def png(array: np.ndarray, **texts: str) -> bytes:
    """An (h, w, 3) uint8 picture as PNG, with text chunks."""
    info, buffer = PngImagePlugin.PngInfo(), io.BytesIO()
    for name, text in texts.items():
        info.add_itxt(name, text)
    PIL_Image.fromarray(array).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def command(choice: Choice) -> str:
    """The papermill command that repeats this run from the root of the repository, where `make` keeps papermill too.

    A file of the reader's disk is named from there; an upload keeps its name, for whoever puts it there.
    """
    root = Path(__file__).resolve().parents[1]
    papermill = ".venv/bin/papermill" if (root / ".venv/bin/papermill").is_file() else "papermill"
    words = [papermill, NOTEBOOK, "playground.out.ipynb", "-p", "run", "True"]
    usual, written = Choice(), choice.explicit()
    if not choice.image.startswith("./") and os.path.isfile(choice.image):  # noqa: PTH113 (any text may stand there)
        written = replace(written, image=os.path.relpath(choice.image, root))
    for field in fields(Choice):
        value = getattr(written, field.name)
        if value != getattr(usual, field.name):
            # -r keeps text as text: -p would make a number of a name like 1e3
            words += ["-r" if isinstance(value, str) else "-p", field.name, str(value)]
    return shlex.join(words)


@dataclass(frozen=True)
class Run:
    """A finished or stopped run: its settings, written out, its image, and what it scored and took.

    picture, target, seen: (h, w, 3) uint8; target is None where nobody knows it, psnr and ssim are too
    """

    number: int
    choice: Choice
    word: str
    picture: np.ndarray
    target: np.ndarray | None
    seen: np.ndarray
    psnr: float | None
    ssim: float | None
    seconds: float
    steps: int

    def result(self) -> str:
        """What came of it, in a line."""
        scored = "" if self.psnr is None else f"PSNR {self.psnr:.2f} dB, SSIM {self.ssim:.3f}, "
        return f"{scored}{self.steps} {'tiles' if self.choice.full else 'steps'} in {self.seconds:.1f} s"

    def save(self, folder: Path) -> Path:
        """A PNG under a name that is not taken, with its settings, scores and command as text chunks."""
        require(not folder.is_symlink(), f"save: {folder} is a link to elsewhere; put a folder in its place")
        folder.mkdir(parents=True, exist_ok=True)
        settings = json.dumps(asdict(self.choice), ensure_ascii=False)
        numbers = {"psnr": self.psnr, "ssim": self.ssim, "seconds": self.seconds, "steps": self.steps, "end": self.word}
        texts = {"settings": settings, "result": json.dumps(numbers), "command": command(self.choice)}
        content = png(self.picture, Software="dipddpm_lib", **texts)
        name = f"{Path(self.choice.image).stem[:60]}-{self.choice.method.replace('+', '-')}-{self.choice.task}"
        for count in range(1, 10_000):
            path = folder / f"{name}-{count}.png"
            try:
                with path.open("xb") as file:
                    file.write(content)
            except FileExistsError:
                continue
            return path
        raise InputError(f"save: {folder} holds 9,999 pictures of this name; move some of them away")
