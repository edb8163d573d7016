"""Large holes, which Ulyanov et al. fill with a network without skip connections: is it ours that fails there?

Each network alone and handed over, beside the classical start, which `HybridConfig()` chooses there. `fast`'s was
searched for on denoising; of the others two differ from it in one thing or two, and one follows the authors' for holes.

The photographs of the search (`search.py`), which are not scored, stand beside those that are.

python benchmarks/holes.py    # writes holes.json, which Appendix C shows
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from records import SIZE, arguments, fill
from search import PHOTOGRAPHS

from dipddpm_lib import experiment, priors
from dipddpm_lib.cells import Cell
from dipddpm_lib.dip import DIPConfig
from dipddpm_lib.hybrid import HybridConfig

FAST = DIPConfig.fast(1500)  # as `07_restoration` gives it in `make paper`
# "skip_depth6" of their notebook on inpainting: its widths, input, rate and iterations, with 3×3 convolutions where it
# has 5×5 on the way down, without its noise on the weights, and with the running average of `published`
THEIRS = replace(
    DIPConfig.published(3000),
    skip=0,
    filters=(16, 32, 64, 128, 128, 128),
    in_channels=1,
    upsampling="nearest",
    jitter=0.0,
)
TWO = "the same, the mean of two"
NETWORKS = {
    "fast": FAST,
    "fast, without skips": replace(FAST, skip=0),
    "fast, six scales without skips": replace(FAST, skip=0, filters=(16, 16, 32, 64, 64, 64)),
    "after Ulyanov et al., six scales without skips": THEIRS,
    # whose disagreement tells of the error that no measurement sees, for the hand-off; run to the end as that
    TWO: replace(THEIRS, runs=2, held_out=0.02),
}


def row(image: str, degradation: str, seed: int) -> dict[str, Any]:
    """PSNR of each fit, at its most on the way too, and after the hand-off where the fit estimates its error."""
    out: dict[str, Any] = {"image": image, "degradation": degradation, "seed": seed, "networks": {}}
    scored = image in priors.EVALUATION  # the priors have seen the others
    for name, config in NETWORKS.items():
        if name == TWO and not scored:
            continue
        fit = experiment.run(Cell(image, SIZE, seed, config, degradation))
        found = {
            "psnr": round(fit.psnr, 3),
            "most": round(max(psnr for _, _, psnr, _ in fit.trace), 3),
            "iterations": int(fit.extra["iterations"]),
        }
        if config.held_out and scored:
            hybrid = replace(HybridConfig(), start="dip", dip=config)
            found["handed over"] = round(experiment.run(Cell(image, SIZE, seed, hybrid, degradation)).psnr, 3)
        out["networks"][name] = found
    if scored:
        chosen = experiment.run(Cell(image, SIZE, seed, HybridConfig(), degradation))
        out["classical"] = {"psnr": round(chosen.trace[0][2], 3), "handed over": round(chosen.psnr, 3)}
    return out


def main() -> None:
    parser = arguments(__doc__, "holes", ("holes",))
    parser.set_defaults(images=",".join((*priors.EVALUATION, *PHOTOGRAPHS)))
    options = parser.parse_args()
    fill(row, Path(__file__), options, {"networks": list(NETWORKS)})


if __name__ == "__main__":
    main()
