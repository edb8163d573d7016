"""Other ways to couple DIP and DDPM than the one-way hand-off, each from the same fit: PSNR by image, task and seed.

python benchmarks/couplings.py    # writes couplings.json, which Appendix C shows
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from handoff import SCHEDULE, measured
from records import SIZE, arguments, fill
from torch import Tensor

from dipddpm_lib import compute, ddpm, dip, hybrid, images, metrics, priors
from dipddpm_lib.ddpm import SampleConfig
from dipddpm_lib.hybrid import HybridConfig
from dipddpm_lib.types import Image, Measurement

USUAL = replace(HybridConfig(), start="dip")
PLAIN, TURN = SampleConfig(8), SampleConfig(8, turn=True)
MORE = 100  # iterations of a fit that goes on with a second target


class Anchored(dip.Fitting):
    """A fit that goes on where another ended, with an image as its second target."""

    anchor: Image

    def _loss(self, output: Image) -> Tensor:
        # of each network, as the first term is
        return super()._loss(output) + (output - self.anchor.to(output)).square().mean((1, 2, 3)).sum()


def _goes_on(fit: dip.Fitting, measurement: Measurement, anchor: Image, seed: int) -> Image:
    config = replace(USUAL.dip, iterations=fit.index + MORE, stop="none")
    again = Anchored(measurement, config, compute.generator(seed, "dip"))
    again.restore(fit.state())
    again.anchor = anchor
    *_, last = again
    return last.x0_hat


def row(image: str, degradation: str, seed: int) -> dict[str, Any]:
    """The PSNR that each coupling ends at."""
    x_true = images.load(image, SIZE)
    m = measured(x_true, degradation, seed)
    denoiser = priors.load(x_true)
    fit = dip.reconstruct(m, USUAL.dip, compute.generator(seed, "dip"))
    *_, last = fit
    t = hybrid.choose_t(last, SCHEDULE, USUAL)
    rmse_hat = last.rmse_hat or 0.0

    def run(x_t: Image, config: SampleConfig = PLAIN) -> Image:
        *_, end = ddpm.sample(denoiser, SCHEDULE, x_t, t, config, compute.generator(seed, "sample"), m)
        return end.x0_hat

    def handed(x: Image) -> Image:
        return hybrid.hand_off(x, SCHEDULE, t)

    def renoised(draw: int) -> Image:
        return hybrid.hand_off(last.x0_hat, SCHEDULE, t, "renoise", compute.generator(draw, "renoise"))

    def again(times: int, config: SampleConfig = PLAIN) -> Image:
        settled = replace(USUAL, t_start=t, again=times, sample=config)
        *_, end = hybrid.denoise(last, m, denoiser, SCHEDULE, settled, compute.generator(seed, "sample"))
        return end.x0_hat

    x_t = handed(last.x0_hat)
    one_way = run(x_t)
    white = torch.randn(x_true.shape, generator=compute.generator(seed, "renoise"))
    alone = (fit.averages / (1 - fit.unseen)).to(x_true).split(1)
    ways: dict[str, Callable[[], Image]] = {
        "one-way": lambda: one_way,
        "4 steps": lambda: run(x_t, SampleConfig(4)),
        "16 steps": lambda: run(x_t, SampleConfig(16)),
        "quadratic spacing": lambda: run(x_t, SampleConfig(8, "quadratic")),
        "Karras spacing": lambda: run(x_t, SampleConfig(8, "karras")),
        "DPM-Solver++(2M)": lambda: run(x_t, SampleConfig(8, solver="dpmpp_2m")),
        "a third of the noise drawn anew": lambda: run(x_t, SampleConfig(8, zeta=1 / 3)),
        "renoised": lambda: run(renoised(0)),
        "renoised, the mean of four": lambda: torch.cat([run(renoised(n)) for n in range(4)]).mean(0, keepdim=True),
        "error topped up with as much white noise": lambda: run(handed(last.x0_hat + rmse_hat * white)),
        "each of the two networks handed over, the mean": lambda: torch.cat([run(handed(x)) for x in alone]).mean(
            0, keepdim=True
        ),
        "each call mirrored or turned": lambda: run(x_t, TURN),
        "each call the mean of eight, mirrored and turned": lambda: run(x_t, replace(TURN, views=ddpm.SYMMETRIES)),
        "handed over again, at half the noise": lambda: again(1),
        "handed over again, each call mirrored or turned": lambda: again(1, TURN),
        "handed over twice again, at 0.7 and at half the noise": lambda: again(2),
        "handed over twice again, each call mirrored or turned": lambda: again(2, TURN),
        f"DIP goes on for {MORE}, the result its second target": lambda: run(handed(_goes_on(fit, m, one_way, seed))),
    }
    return {
        "image": image,
        "degradation": degradation,
        "seed": seed,
        "fit": metrics.psnr(last.x0_hat, x_true),
        "after": {name: metrics.psnr(way(), x_true) for name, way in ways.items()},
    }


def main() -> None:
    options = arguments(__doc__, "couplings").parse_args()
    fill(row, Path(__file__), options, {"steps": USUAL.sample.steps, "rho": USUAL.rho})


if __name__ == "__main__":
    main()
