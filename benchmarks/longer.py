"""DIP alone, when it may fit for longer: PSNR, iterations and seconds by the most iterations that it may take.

`07_restoration` gives DIP a limit, which it may come to before its own stop; this asks what a limit costs. The hybrid
from DIP's short fit stands beside.

python benchmarks/longer.py    # writes longer.json, which Appendix C shows
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from handoff import SIZE, arguments, collect, write

from dipddpm_lib import experiment
from dipddpm_lib.dip import DIPConfig
from dipddpm_lib.experiment import Cell
from dipddpm_lib.hybrid import HybridConfig

LIMITS = (450, 1500)  # the first as on the committed page, the second as in `make paper`


def row(image: str, degradation: str, seed: int) -> dict[str, Any]:
    """What each limit comes to, and the hybrid."""
    methods: dict[str, DIPConfig | HybridConfig] = {f"DIP, {limit}": DIPConfig.fast(limit) for limit in LIMITS}
    methods["DIP+DDPM"] = replace(HybridConfig(), start="dip")
    out: dict[str, Any] = {"image": image, "degradation": degradation, "seed": seed}
    for name, config in methods.items():
        result = experiment.run(Cell(image, SIZE, seed, config, degradation))
        out[name] = {
            "psnr": round(result.psnr, 3),
            "ssim": round(result.ssim, 4),
            "seconds": round(result.total_seconds, 2),
            **({"iterations": int(result.extra["iterations"])} if "iterations" in result.extra else {}),
        }
    return out


def main() -> None:
    options = arguments(__doc__, "longer").parse_args()
    write(options, collect("longer.row", row, Path(__file__), options), limits=LIMITS)


if __name__ == "__main__":
    main()
