"""A cell of a grid: which image, what is seen of it, which method, which seed; refused before it is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from . import compute, hybrid, images, operators, priors, store
from .classical import ClassicalConfig
from .ddpm import SampleConfig, TrainConfig
from .dip import DIPConfig, together
from .hybrid import HybridConfig
from .schedules import NoiseSchedule, ScheduleName, spacing
from .types import Image, InputError, Measurement, check_fields, require

Config = DIPConfig | SampleConfig | HybridConfig | ClassicalConfig

BUNDLED_CHANNELS = TrainConfig.bundled().channels


@lru_cache(maxsize=16)
def _read(image: str, size: int, written: int) -> Image:
    """written: when the file last changed"""
    return images.load(image, size)


@dataclass(frozen=True)
class Cell:
    """One run: which image, what is seen of it, which method, which seed.

    task:  one of `operators.TASKS`, or another that `operators.task` knows, as "inpaint_70" (protocol B); None is the
           clean target itself (protocol A)
    prior: "single" trains on the target (`training`), "bundled" never saw it
    label: what tables call it; the method's name where it is left empty
    first: DDPM from noise, whose result is handed over in place of the hybrid's own start; `config` gives t_start
    """

    image: str
    size: int
    seed: int
    config: Config
    task: str | None = None
    prior: Literal["single", "bundled"] = "bundled"
    training: TrainConfig | None = None
    schedule: ScheduleName = "cosine"
    T: int = 1000
    label: str = ""
    first: SampleConfig | None = None

    @property
    def method(self) -> str:
        return METHOD[type(self.config)] if self.first is None else f"{METHOD[type(self.first)]}+DDPM"

    def check(self, among: int = 1) -> None:
        """Everything that can be refused before computing is refused here, as `InputError`.

        among: how many such cells share this machine's memory; 0 where it is computed on others, which check it too
        """
        check_fields(self)
        if among:
            check_memory(self.config, self.size, self.training if self.prior == "single" else None, among)
        x_true = self.x_true()
        measured = self.measurement(x_true)
        schedule = NoiseSchedule.named(self.schedule, self.T)
        sample = self.config.sample if isinstance(self.config, HybridConfig) else self.config
        if isinstance(sample, SampleConfig):
            spacing(schedule, self.T, sample.steps, sample.spacing)
            require(self.prior in ("single", "bundled"), f"prior: expected single or bundled, got {self.prior!r}")
            if self.prior == "bundled":
                unseen_fold(x_true)
            elif self.training is None:
                raise InputError("prior: single needs a TrainConfig in `training`")
            else:
                crop, side = self.training.crop, min(x_true.shape[-2:])
                require(crop is None or crop <= side, f"crop: expected at most {side}, the image's side, got {crop}")
        if self.first is not None:
            require(
                isinstance(self.config, HybridConfig) and self.config.t_start is not None,
                "first: its result has no error estimate; give a HybridConfig with t_start",
            )
            replace(self, config=self.first, first=None).check(among)
        if isinstance(self.config, HybridConfig):
            if self.config.t_start is not None:
                schedule.check_t(self.config.t_start, "t_start")
            hybrid.check_start(measured, hybrid.settle(measured, self.config))
            require(
                self.task is not None or not self.config.consistency,
                "consistency: without a task the measurement is the target, and to agree with it hands that over: "
                "expected a task, or consistency=False",
            )

    def x_true(self) -> Image:
        try:
            written = Path(self.image).stat().st_mtime_ns
        except (OSError, ValueError):  # no file: a bundled photograph, or what is refused
            return images.load(self.image, self.size)
        # a sweep asks for each image again and again, and a large file takes a second to read and resize
        return _read(self.image, self.size, written).clone()

    def measurement(self, x_true: Image) -> Measurement:
        """y of this image, task and seed: the same for every method, so that comparisons are paired."""
        if self.task is None:
            return Measurement(x_true, operators.Identity(), 0.0)
        draw = compute.generator(self.seed, f"measure/{self.task}")
        operator, sigma_y = operators.task(self.task, x_true.shape[-2], x_true.shape[-1], draw)
        return operators.measure(operator, x_true, sigma_y, draw)

    def parameters(self, x_true: Image) -> dict[str, Any]:
        """JSON values of all that a result depends on, and no more; the image by its content, labels left out."""
        content = asdict(replace(self, image="", label=""))
        content |= {"digest": images.digest(x_true), "method": self.method}
        if self.first is None:
            del content["first"]
        if not isinstance(self.config, SampleConfig | HybridConfig):
            for unread in ("prior", "training", "schedule", "T"):
                content.pop(unread)
        elif self.prior == "bundled":
            content["training"] = priors.weights_digest(unseen_fold(x_true, keep=True))
        started = self.config.start if isinstance(self.config, HybridConfig) and self.first is None else "dip"
        if isinstance(self.config, ClassicalConfig) or started in ("auto", "classical"):
            content["scikit-image"] = compute.versions()["scikit-image"]  # whose methods these are
        return content

    def work(self) -> float:
        """How long it may take, at most and roughly, in the time that a channel of a denoiser's call takes a pixel.

        For the time that a sweep has left, whose cells may differ a thousandfold: neither training nor what the
        store spares is counted, and a fit may stop earlier.
        """
        passes = 1.0
        fit = self.config.dip if isinstance(self.config, HybridConfig) and _fits(self.config) else self.config
        if isinstance(fit, DIPConfig) and self.first is None:
            each = LEAN_ITERATION if fit.lean else FULL_ITERATION
            passes += fit.iterations * fit.runs * each * _channels(fit.filters)
        widths = self.training.channels if self.prior == "single" and self.training else BUNDLED_CHANNELS
        for sampled in (self.first, self.config):
            if isinstance(sampled, SampleConfig | HybridConfig):
                calls = sampled.calls if isinstance(sampled, HybridConfig) else sampled.steps * sampled.views
                passes += calls * _channels(widths)
        return passes * self.size**2

    def plain(self) -> dict[str, Any]:
        """The cell as JSON values, which `Cell.restored` reads."""
        return {"cell": asdict(self), "config": type(self.config).__name__}

    @classmethod
    def restored(cls, entry: Mapping[str, Any]) -> Cell:
        """A cell from its JSON values; KeyError, TypeError or ValueError where they are none."""
        values = dict(entry["cell"])
        kinds = {kind.__name__: kind for kind in METHOD}
        values["config"] = _restored(kinds[entry["config"]], values["config"])
        if values["training"] is not None:
            values["training"] = _restored(TrainConfig, values["training"])
        if values.get("first") is not None:
            values["first"] = _restored(SampleConfig, values["first"])
        return cls(**values)

    def __str__(self) -> str:
        return f"{self.image} {self.size}², {self.task or 'clean'}, {self.label or self.method}, seed {self.seed}"


METHOD: dict[type, str] = {
    DIPConfig: "DIP",
    SampleConfig: "DDPM",
    HybridConfig: "DIP+DDPM",
    ClassicalConfig: "classical",
}


def _restored(kind: type, values: Mapping[str, Any]) -> Any:
    """A configuration from JSON: lists were tuples, and a hybrid's parts are configurations themselves."""
    inner = {"dip": DIPConfig, "sample": SampleConfig} if kind is HybridConfig else {}
    return kind(
        **{
            k: _restored(inner[k], v) if k in inner else tuple(v) if isinstance(v, list) else v
            for k, v in values.items()
        }
    )


def unseen_fold(x_true: Image, keep: bool = False) -> priors.Fold:
    """`priors.fold_for`, whose search among all that the priors have seen takes seconds: searched once in a process.

    InputError where both have seen the image.

    keep: in the store too, for other processes; a check before computing keeps nothing
    """
    both: tuple[priors.Fold, ...] = (1, 2)
    asked = (images.digest(x_true), *(priors.weights_digest(fold) for fold in both))
    if asked in _FOLDS and (_FOLDS[asked].kept or not keep):
        return _FOLDS[asked].fold
    # the answer is the same on any number of threads, as a sweep's workers have
    name = store.key("priors.fold_for", {"asked": asked}, replace(compute.default(), threads=1))
    if asked not in _FOLDS:
        record, _ = store.get(name) or ({}, {})
        stored = next((fold for fold in both if fold == record.get("fold")), None)
        _FOLDS[asked] = _Unseen(stored or priors.fold_for(x_true), kept=stored is not None)
    if keep and not _FOLDS[asked].kept:
        with suppress(InputError):  # a store that cannot be written is refused where a result is to be kept
            store.put(name, {"fold": _FOLDS[asked].fold}, {})
        _FOLDS[asked] = replace(_FOLDS[asked], kept=True)
    return _FOLDS[asked].fold


@dataclass(frozen=True)
class _Unseen:
    fold: priors.Fold
    kept: bool


_FOLDS: dict[tuple[str, ...], _Unseen] = {}  # a sweep asks for the same images again and again


# What a run keeps in memory: numbers a pixel for each channel of its network, a channel of scale i counting 4^-i, and
# bytes a pixel whatever the network. Fitted from below to peaks that compute.peak_memory measured on one thread, at
# 512² but for the U-Net's call (1024²) and its training (128², a batch of 4). Bytes a pixel: `fast` 1352,
# `shaped(5, 64)` 2056, the U-Net's call 868, its training 13518, all in bf16; `published` 10262, `snail` 1969,
# `deep_decoder` 3901 in float32. A test holds that the estimate lies between two fifths of a peak and the whole.
LEAN_FIT, FULL_FIT, DECODER_FIT, CALL, TRAINING = 6.5, 11, 3.8, 3.5, 25
PIXEL_BYTES = 300
STATES = 4  # float32 copies of each weight: itself, its gradient and Adam's two moments
# An iteration's time by channel, in that of a denoiser's call: `fast`, `published` and the networks between them took
# 0.49 to 0.89 at 128² (one thread of two, float32), each network computed by itself.
LEAN_ITERATION, FULL_ITERATION = 0.5, 0.8


def bytes_needed(
    config: Config | TrainConfig, size: int, training: TrainConfig | None = None, threads: int = 0
) -> float:
    """Peak memory of computing at size², estimated from below: what this says does not fit does not fit.

    threads: on which the networks of a fit run side by side, in groups; 0: as many as this process has
    """
    needs = [0.0]
    number = 2 if compute.default().dtype == "bfloat16" else 4
    fit = config
    if isinstance(config, HybridConfig):
        fit = config.dip if _fits(config) else config.sample
    if isinstance(fit, DIPConfig):
        each = DECODER_FIT if fit.network == "deep_decoder" else LEAN_FIT if fit.lean else FULL_FIT
        # groups of networks run side by side on the CPU, elsewhere in turn
        lanes = (threads or compute.default().threads) if compute.default().device == "cpu" else 1
        # a size that is no size is refused later, in its own words
        at_once = min(fit.runs, lanes * together(fit.runs, max(1, size**2), lanes)) * (4 if fit.float32 else number)
        padded = 2**fit.depth * -(-size // 2**fit.depth)  # every scale halves the side
        # z and the skips are kept once or more, at the sizes of their scales
        extra = fit.in_channels / 4**fit.lift + _channels(fit.skips)
        needs.append(
            at_once * (each * _channels(fit.filters) + extra) * padded**2 + fit.runs * _weight_bytes(fit.filters)
        )
    if isinstance(config, SampleConfig | HybridConfig):
        needs.append(CALL * number * _channels(training.channels if training else BUNDLED_CHANNELS) * size**2)
    if training := config if isinstance(config, TrainConfig) else training:
        area = training.batch * (training.crop or size) ** 2
        needs.append(TRAINING * number * _channels(training.channels) * area + _weight_bytes(training.channels))
    return max(needs) + PIXEL_BYTES * size**2


def check_memory(config: Config | TrainConfig, size: int, training: TrainConfig | None = None, among: int = 1) -> None:
    """Refuse, before it begins, what one of `among` runs on this machine has no memory for."""
    threads = 0 if among == 1 else 1  # as workers have
    need, have = bytes_needed(config, size, training, threads), compute.memory() / among
    method = METHOD.get(type(config), "a training")
    workers = "" if among == 1 else f" for each of {among} workers"
    require(
        need <= have,
        f"size: {method} at {size} × {size} needs at least {need / 2**30:,.1f} GiB of memory, this "
        f"machine has {have / 2**30:,.1f}{workers}; lower the size, or the widths and the batch of the networks",
    )


def _fits(config: HybridConfig) -> bool:
    """Whether its start may be DIP's, as one that is not settled yet."""
    return config.start in ("auto", "dip")


def _channels(widths: Sequence[int]) -> float:
    """Channels a pixel of the image, all scales together."""
    return sum(width / 4**scale for scale, width in enumerate(widths))


def _weight_bytes(widths: Sequence[int]) -> float:
    """Of the 3×3 convolutions within each scale, with what training keeps beside them; at least one a scale."""
    return float(4 * STATES * sum(9 * width**2 for width in widths))
