"""The smallest cell of each method, its key, and its result as values that compare."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from dipddpm_lib import store
from dipddpm_lib.cells import Cell, Config
from dipddpm_lib.classical import ClassicalConfig
from dipddpm_lib.ddpm import SampleConfig, TrainConfig
from dipddpm_lib.dip import DIPConfig
from dipddpm_lib.hybrid import HybridConfig
from dipddpm_lib.types import Result

DIP = DIPConfig(filters=(8, 8), skip=4, in_channels=8, iterations=6, held_out=0.1)
SAMPLE = SampleConfig(steps=3)
HYBRID = HybridConfig(dip=DIP, sample=SAMPLE, start="dip")
TRAINING = TrainConfig(channels=(8,), steps=3, batch=2, warmup=1)


def cell(config: Config = DIP, image: str = "coffee", seed: int = 0, **more: Any) -> Cell:
    """A cell whose denoiser, where there is one, is trained in three steps."""
    return Cell(image, 32, seed, config, **{"prior": "single", "training": TRAINING, **more})


CELLS: dict[str, Callable[[], Cell]] = {
    "DIP": lambda: cell(DIP, task="inpaint_50"),
    "DIP of the target": lambda: cell(replace(DIP, stop="none")),
    "DDPM": lambda: cell(SAMPLE),
    "DDPM with data": lambda: cell(replace(SAMPLE, eta=1.0), task="denoise_25", T=10),
    "DIP+DDPM": lambda: cell(HYBRID, task="compressive_10"),
    "DIP+DDPM, renoised": lambda: cell(replace(HYBRID, kind="renoise", t_start=2, consistency=False)),
    "DDPM, handed over": lambda: cell(replace(HYBRID, t_start=300), task="deblur", first=SAMPLE),
    "classical": lambda: cell(ClassicalConfig(), task="super_x4"),
}


def plain(result: Result) -> dict[str, Any]:
    """A result as values that compare, tensors to the bit."""
    fields = {name: getattr(result, name) for name in Result.__dataclass_fields__}
    return {k: (str(v.dtype), v.shape, v.numpy().tobytes()) if torch.is_tensor(v) else v for k, v in fields.items()}


def measured(result: Result) -> dict[str, Any]:
    """What of a result does not depend on the clock."""
    fields = plain(result)
    scores = [(i, p, q) for i, _, p, q in result.trace]
    extra = {k: v for k, v in result.extra.items() if k != "training_seconds"}
    return {k: fields[k] for k in ("config", "seed", "digest", "x0_hat", "frames", "evaluations")} | {
        "scores": scores,
        "extra": extra,
    }


def key(asked: Cell) -> str:
    return store.key("experiment.run", asked.parameters(asked.x_true()))
