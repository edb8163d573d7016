"""DIP alone, when it may fit for longer: PSNR, iterations and seconds by the most iterations that it may take.

`07_restoration` gives DIP a limit, which it may come to before its own stop; this asks what a limit costs. Two hybrids
stand beside: from DIP's short fit, and from the very fit that DIP alone has with the higher limit.

python benchmarks/longer.py    # writes longer.json, which Appendix C shows
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from records import SIZE, arguments, fill

from dipddpm_lib import experiment
from dipddpm_lib.cells import Cell
from dipddpm_lib.dip import DIPConfig
from dipddpm_lib.hybrid import HybridConfig
from dipddpm_lib.types import Result

LIMITS = (450, 1500)  # the first as on the committed page, the second as in `make paper`


def row(image: str, degradation: str, seed: int) -> dict[str, Any]:
    """What each limit comes to, and the hybrid."""

    def ran(config: DIPConfig | HybridConfig) -> Result:
        return experiment.run(Cell(image, SIZE, seed, config, degradation))

    whole, hybrid = DIPConfig.fast(max(LIMITS)), replace(HybridConfig(), start="dip")
    results = {f"DIP, {whole.iterations}": ran(whole)}
    stopped = results[f"DIP, {whole.iterations}"].extra["iterations"]
    for limit in LIMITS:  # a fit that stopped by itself knows nothing of a limit above that
        alike = DIPConfig.fast(limit) == replace(whole, iterations=limit)  # not below 400: the rate warms up otherwise
        if limit < stopped or not alike:
            results[f"DIP, {limit}"] = ran(DIPConfig.fast(limit))
        else:
            results[f"DIP, {limit}"] = results[f"DIP, {whole.iterations}"]
    results |= {"DIP+DDPM": ran(hybrid), "DIP+DDPM, whole fit": ran(replace(hybrid, dip=whole))}
    out: dict[str, Any] = {"image": image, "degradation": degradation, "seed": seed}
    for name, result in results.items():
        out[name] = {
            "psnr": round(result.psnr, 3),
            "ssim": round(result.ssim, 4),
            "seconds": round(result.total_seconds, 2),
            **({"iterations": int(result.extra["iterations"])} if "iterations" in result.extra else {}),
        }
    return out


def main() -> None:
    options = arguments(__doc__, "longer").parse_args()
    fill(row, Path(__file__), options, {"limits": LIMITS})


if __name__ == "__main__":
    main()
