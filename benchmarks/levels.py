"""At which noise level to hand over: the released configuration at seven ρ, by PSNR.

Each row is one image, one task and one seed, from DIP and from the start that `hybrid.settle` chooses where that is
another. handoff.py asks the same of a single hand-off and of all starts; here it is asked of what users get.

python benchmarks/levels.py    # writes levels.json, which Appendix C shows

The two tasks of noise have three seeds in it: --degradations denoise_25,denoise_50 --seeds 3 --add.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from handoff import SCHEDULE, measured
from records import SIZE, arguments, fill

from dipddpm_lib import compute, hybrid, images, metrics, priors
from dipddpm_lib.hybrid import HybridConfig, Start

RHOS = (2.0, 2.8, 4.0, 5.6, 8.0, 11.2, 16.0)
WHITE = 4.0  # from y itself, where σ_t = σ_y by theory, a quarter of each is tried


def row(image: str, degradation: str, seed: int) -> dict[str, Any]:
    """Each start's PSNR and error, true and estimated, and what it leads to by ρ."""
    x_true = images.load(image, SIZE)
    m = measured(x_true, degradation, seed)
    denoiser = priors.load(x_true)
    starts: dict[Start, Any] = {}
    for asked in get_args(Start)[:2]:  # "auto" and "dip"
        settled = hybrid.settle(m, replace(HybridConfig(), start=asked))
        if settled.start in starts:
            continue
        *_, fit = hybrid.begin(m, settled, compute.generator(seed, "dip"))
        after = {}
        for rho in RHOS:
            config = replace(settled, rho=rho / WHITE if settled.start == "measurement" else rho)
            *_, last = hybrid.denoise(fit, m, denoiser, SCHEDULE, config, compute.generator(seed, "sample"))
            after[f"{config.rho:g}"] = round(metrics.psnr(last.x0_hat, x_true), 3)
        starts[settled.start] = {
            "psnr": round(metrics.psnr(fit.x0_hat, x_true), 3),
            "rmse": float((fit.x0_hat - x_true).square().mean().sqrt()),
            "rmse_hat": fit.rmse_hat,
            "calls": settled.calls,
            "after": after,
        }
    return {"image": image, "degradation": degradation, "seed": seed, "starts": starts}


def main() -> None:
    options = arguments(__doc__, "levels").parse_args()
    fill(row, Path(__file__), options, {})


if __name__ == "__main__":
    main()
