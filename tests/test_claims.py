"""Verdicts follow the evidence: evidence made by hand turns every one of them both ways."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from dipddpm_lib import claims, store
from dipddpm_lib.cells import Cell, Config
from dipddpm_lib.claims import CLAIMS, Claim, Evidence, Missing, Verdict, judge, ledger, summary
from dipddpm_lib.ddpm import SampleConfig
from dipddpm_lib.dip import DIPConfig
from dipddpm_lib.evidence import Results, ends, note, noted
from dipddpm_lib.hybrid import HybridConfig
from dipddpm_lib.types import Interval, Result

SEEDS, NAN = 3, math.nan
DIP, DDPM, HYBRID = DIPConfig(), SampleConfig(), HybridConfig()


@pytest.fixture(autouse=True)
def _root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIPDDPM_STORE", str(tmp_path / "store"))


def row(config: Config, psnr: float, seconds: float, evaluations: int = 0, **more: Any) -> dict[str, Any]:
    return {"config": config, "psnr": psnr, "seconds": seconds, "evaluations": evaluations, "ssim": 0.8, **more}


def hybrid_of(steps: int, **more: Any) -> HybridConfig:
    return HybridConfig(sample=SampleConfig(steps), **more)


# where every claim holds that can
BASE: dict[str, dict[str, dict[str, Any]]] = {
    "dip": {"DIP": row(DIP, 27.0, 10.0)},
    "hybrid": {
        "DIP": row(DIP, 26.5, 10.0),
        claims.LONGER: row(DIP, 27.0, 20.0),
        "DDPM, 1000 steps": row(DDPM, 25.0, 30.0, 1000),
        "DDPM, 100 steps": row(DDPM, 24.5, 3.0, 100),
        "DIP+DDPM": row(HYBRID, 28.0, 11.0, 20),
        "DIP+DDPM, short fit": row(HYBRID, 26.0, 4.0, 20),
    },
    "calls": {
        "DDPM, 5": row(SampleConfig(5), 24.0, 1.0, 5, label="DDPM"),
        "DDPM, 20": row(SampleConfig(20), 25.0, 3.0, 20, label="DDPM"),
        "DDPM, 100": row(SampleConfig(100), 25.05, 9.0, 100, label="DDPM"),
        "DDIM, 5": row(SampleConfig(5), 24.8, 1.0, 5, label="DDIM"),
        "DIP+DDPM, 3": row(hybrid_of(3), 25.0, 6.0, 3, label="DIP+DDPM", fit_psnr=22.0),
        "slow, 3": row(hybrid_of(3), 25.0, 60.0, 3, label="a slow fit", fit_psnr=23.0),
        # fewer places than steps lie below the hand-off, and how many depends on the seed's fit
        "DIP+DDPM, 20": row(hybrid_of(20), 26.0, 8.0, 15, label="DIP+DDPM", fit_psnr=22.0, unequal=2),
    },
    "architecture": {"2 × 16": row(DIP, 25.0, 5.0), "4 × 64": row(DIP, 27.0, 20.0)},
    "timesteps": {
        "1000": row(DDPM, 25.0, 30.0, 1000, T=1000, label="DDPM"),
        "500": row(DDPM, 24.6, 15.0, 500, T=500, label="DDPM"),
        "10": row(DDPM, 20.0, 0.3, 10, T=10, label="DDPM"),
        "hybrid": row(HYBRID, 1.0, 999.0, 10, T=2000, label="DIP+DDPM"),  # no row of these claims
    },
    "restoration": {
        "DIP": row(DIP, 22.0, 1.0),
        **{
            f"DDPM, {n}, {i}": row(SampleConfig(n), p, 1.0, n, image=i, task="deblur", label=f"DDPM, {n}")
            for n, p in ((8, 20.0), (100, 24.0), (300, 23.9))
            for i in ("coffee", "rocket")
        },
    },
}
NUMBERS: dict[str, dict[str, float]] = {
    "introduction": {"image_db": 27.3, "noise_db": 15.2, "iterations": 120},
    "oracle": {**ends("white_gain", Interval(2.34, 2.1, 2.6, 3)), **ends("smooth_gain", Interval(-0.45, -0.6, -0.3, 3))}
    | {"steps_enough": 7},
    "generation": {
        "diversity": 0.61,
        "images": 1,
        "seeds": 4,
        "swd_corners": 0.05,
        "swd_samples": 0.123,
        "swd_other": 0.789,
        "detail_corners": 0.06,
        **ends("detail_samples", Interval(0.111, 0.1, 0.122, 4)),
        "detail_other": 0.678,
        "detail_phases": 0.345,
    },
    "dial": {
        **ends("detail_apart", Interval(-0.02, -0.03, -0.01, 4)),
        "varied": 0.47,
        "at": 900,
        "varied_anew": 0.76,
        "steps": 20,
        "steps_anew": 100,
        "seconds": 4.2,
        "seconds_anew": 5.7,
        "kept": 27.1,
        "kept_at": 300,
        "kept_least": 10.2,
        "fit": 24.3,
        "images": 1,
        "seeds": 4,
    },
    "lengths": {
        "images": 1,
        "seeds": 2,
        "part_ddpm": 9.2,
        **ends("part_over_ddpm", Interval(22.2, 21.0, 23.0, 2)),
        **ends("part_over_whole", Interval(6.2, 5.0, 7.0, 2)),
        "part_hybrid": 31.4,
        "part_blurred": 30.6,
        "whole_ddpm": 25.2,
        "longer_ddpm": 25.2,
        "longer_hybrid": 24.7,
        "fit": 21.3,
    },
    "bundled": {"psnr_25": 29.1, "psnr_50": 26.2},
    "architecture": {
        **ends("wider", Interval(0.57, 0.4, 0.7, 3)),
        **ends("deeper", Interval(0.68, 0.5, 0.9, 3)),
        "wider_least": 0.11,
        "deeper_least": 0.22,
        "time_ratio": 3.1,
        "memory_ratio": 2.2,
    },
    "noise": {
        "needed_low": 3,
        "needed_high": 11,
        "needed_rises": 1,
        "adaptive_gain": 0.52,
        "adaptive_low": 0.31,
        "adaptive_high": 0.73,
        "adaptive_worst": 0.02,
        "adaptive_worst_rho": 1,
        "adaptive_best": 1.41,
        "adaptive_best_rho": 8,
        "steps": 17,
        "adaptive_needs": 6,
        "uniform_needs": 13,
        "most_steps": 50,
    },
    "restoration": {
        "images": 2,
        "seeds": 1,
        "size": 96,
        "over_dip": 1.23,
        "whole": 0.57,
        "whole_low": 0.21,
        "whole_high": 0.83,
        "dip_limit": 1500,
        "over_ddpm": 2.34,
        "above_ddpm": 9,
        "above_classical": 9,
        "tasks": 9,
        "tasks_chosen": 0,
        "speed": 3.4,
        "calls": 24.0,
        "rival_calls": 72.0,
        "over_dip_low": 0.9,
        "over_ddpm_low": 1.8,
        "over_ddpm_high": 2.9,
        "over_dip_high": 1.6,
        "over_handed": -0.31,
        "over_handed_low": -1.4,
        "over_handed_high": 0.6,
        "sure_dip": 5,
        "sure_ddpm": 6,
        "chosen_sure_classical": 7,
        "over_ddpm_crossed": 2.17,
        "over_ddpm_crossed_low": 1.7,
        "over_ddpm_crossed_high": 2.6,
        "over_dip_crossed": 1.13,
        "over_dip_crossed_low": 0.8,
        "over_dip_crossed_high": 1.5,
        "over_ddpm_median": 2.28,
        "ddpm_pairs": 18,
        "ddpm_pairs_ahead": 17,
        "chosen_low": 2.1,
        "chosen_high": 2.8,
        "chosen_speed": 4.6,
        "above_dip": 9,
        "chosen_dip": 4,
        "chosen_over_ddpm": 2.5,
        "chosen_above_classical": 8,
    },
    "unseen": {"images": 13, "seeds": 1, "speed": 1.7}
    | ends("over_dip", Interval(1.07, 0.8, 1.4, 13))
    | ends("over_ddpm", Interval(1.9, 1.5, 2.2, 13))
    | ends("over_handed", Interval(-0.4, -0.7, -0.1, 13))
    | ends("chosen_over_ddpm", Interval(2.2, 1.9, 2.6, 13)),
    "starts": {"images": 4, "seeds": 1, "tasks": 9, "better": 2, "level": 5, "behind": 1, "near": 0.2},
    "colour": {"images": 4, "seeds": 1, "own": 2.31, "spectrum": 6.97, "white": 10.27},
    "replay": {
        "noise_low": -1.31,
        "noise_high": -1.12,
        "draws_apart": 1.7,
        "untrained_end": 5.6,
        "honest_speed": 1.4,
        "claimed_speed": 39.0,
        "noise_psnr": -1.21,
    },
}


def results(rows: Mapping[str, Mapping[str, Any]]) -> Results:
    """Three seeds of every row, a hundredth of a decibel apart."""
    pairs = []
    for name, r in rows.items():
        for seed in range(SEEDS):
            cell = Cell(
                r.get("image", "coffee"),
                32,
                seed,
                r["config"],
                r.get("task"),
                T=r.get("T", 1000),
                label=r.get("label", name),
            )
            psnr = r["psnr"] + 0.01 * (seed - 1) + r.get("spread", 0.0) * (seed - 1)
            ssim = r["ssim"] + r.get("ssim_spread", 0.0) * (seed - 1)
            trace = [(0, r["seconds"], psnr, ssim)]
            image, nothing = torch.zeros(1, 3, 16, 16), dict[str, Any]()
            seconds = {"sample": r["seconds"]}
            calls = r["evaluations"] + r.get("unequal", 0) * (seed - 1)
            extra = {"fit_psnr": r["fit_psnr"]} if "fit_psnr" in r else {}
            result = Result(nothing, seed, "", image, trace, seconds, calls, 0, nothing, {}, extra)
            pairs.append((cell, result))
    return Results(pairs)


def evidence(changes: Mapping[str, float] | None = None) -> Evidence:
    """BASE and NUMBERS with changes: "hybrid/DIP+DDPM/psnr" of a row, "noise.steps" of a number."""
    rows, numbers = copy.deepcopy(BASE), copy.deepcopy(NUMBERS)
    for path, value in (changes or {}).items():
        if "/" in path:
            name, label, field = path.split("/")
            rows[name][label][field] = value
        else:
            name, key = path.split(".")
            assert key in numbers[name]
            numbers[name][key] = value
    return Evidence({name: results(r) for name, r in rows.items()}, numbers)


HOLDS, CONDITIONS, FAILS, OPEN = get_args(Verdict)[:4]
Rule = Callable[[Evidence], claims.Finding]

LATE: dict[str, float] = {"calls/DIP+DDPM, 3/psnr": 24.0, "calls/slow, 3/psnr": 24.0}  # three steps are not enough
SMOOTH = {f"oracle.smooth_gain{k}": 0.5 for k in ("", "_low", "_high")}
QUICK: dict[str, float] = {"calls/DIP+DDPM, 20/seconds": 2.0}
ENOUGH = {f"restoration/DDPM, 8, {i}/psnr": 24.0 for i in ("coffee", "rocket")}  # as many as do any good
FLIPS: list[tuple[Rule, dict[str, float], str]] = [
    (claims._dip_quality, {}, CONDITIONS),  # of a target that is given
    (claims._dip_quality, {"dip/DIP/psnr": 23.0}, FAILS),
    (claims._dip_quality, {"dip/DIP/psnr": 24.1, "dip/DIP/spread": 1.0}, OPEN),
    (claims._diverse, {}, CONDITIONS),
    (claims._diverse, {"generation.diversity": 0.1}, FAILS),
    (claims._diverse, {"generation.swd_samples": 0.5}, FAILS),
    (claims._diverse, {"generation.detail_samples": 0.4}, FAILS),
    (claims._diverse, {"generation.detail_samples_high": 0.4}, OPEN),  # the interval allows both
    (claims._diverse, {"generation.detail_phases": 0.1}, OPEN),  # no nearer than noise of the photograph's spectrum
    (claims._diverse, {"generation.detail_phases": 0.1, "generation.diversity": 0.1}, FAILS),
    (claims._diverse, {"generation.detail_phases": 0.1, "generation.swd_samples": 0.5}, FAILS),
    (claims._both, {"calls/DIP+DDPM, 20/seconds": 2.0}, HOLDS),
    (claims._both, {}, FAILS),  # better and faster than the longest chain, as DDPM's own fewer steps are
    (claims._both, {"calls/DIP+DDPM, 20/spread": 5.0, "calls/DIP+DDPM, 20/seconds": 2.0}, OPEN),
    (claims._both, {"calls/DIP+DDPM, 20/psnr": 25.0, "calls/DIP+DDPM, 20/seconds": 2.0}, FAILS),
    (claims._generates, {}, CONDITIONS),
    (claims._generates, {"dial.detail_apart_high": 0.01}, OPEN),
    (claims._generates, {"dial.detail_apart_low": NAN, "dial.detail_apart_high": NAN}, OPEN),  # one pair
    (claims._generates, {"dial.seconds": 6.0}, FAILS),  # quality and speed
    (claims._generates, {"dial.varied": 0.1}, FAILS),  # copies
    (claims._maintains, {}, FAILS),
    (claims._maintains, QUICK, HOLDS),
    (claims._maintains, QUICK | {"calls/DIP+DDPM, 20/psnr": 25.0}, HOLDS),  # as good, and faster
    (claims._both, QUICK | {"calls/slow, 3/psnr": 27.0}, HOLDS),  # though its best is slower
    (claims._generates, {f"dial.detail_apart{k}": 0.02 for k in ("", "_low", "_high")}, FAILS),
    (claims._structure, {}, HOLDS),
    (claims._structure, {"introduction.noise_db": 25.0}, FAILS),
    (claims._reverses, {}, HOLDS),
    (claims._reverses, {"bundled.psnr_25": 21.0}, FAILS),
    (claims._costly, {}, HOLDS),
    (claims._costly, {"hybrid/DDPM, 1000 steps/seconds": 10.0}, CONDITIONS),
    (claims._costly, {"hybrid/DDPM, 1000 steps/seconds": 4.0}, FAILS),
    (claims._reaches, {}, CONDITIONS),
    (claims._reaches, {"dial.kept_least": 26.0}, FAILS),
    (claims._fewer_steps, {}, HOLDS),
    (claims._fewer_steps, LATE | {"calls/DIP+DDPM, 20/evaluations": 20}, FAILS),  # as many as DDPM
    (claims._fewer_steps, LATE, HOLDS),  # 13, 15 and 17 by seed
    (claims._fewer_steps, LATE | {"calls/DIP+DDPM, 20/psnr": 24.9}, FAILS),  # never as far
    (claims._fewer_steps, {"calls/DDIM, 5/psnr": 25.0}, HOLDS),
    (claims._fewer_steps, LATE | {"calls/DDIM, 5/psnr": 25.0}, FAILS),
    (claims._fewer_steps, {"calls/DIP+DDPM, 3/spread": 5.0}, OPEN),
    (claims._fewer_steps, {"lengths.longer_ddpm": 27.0}, CONDITIONS),  # a longer training takes DDPM further
    (claims._fewer_steps, {f"calls/DIP+DDPM, {n}/fit_psnr": 25.5 for n in (3, 20)}, CONDITIONS),  # nothing left to do
    (claims._partial_view, {}, HOLDS),
    (claims._partial_view, {f"lengths.part_over_whole{k}": -1.0 for k in ("", "_low")}, CONDITIONS),  # no need of it
    (claims._partial_view, {f"lengths.part_over_ddpm{k}": 0.05 for k in ("", "_low", "_high")}, FAILS),
    (claims._partial_view, {"lengths.part_over_ddpm_low": -0.1}, OPEN),
    (claims._partial_view, {"lengths.fit": 31.4}, FAILS),  # DIP's own work
    (claims._over_dip, {}, HOLDS),
    (claims._over_dip, {"hybrid/DIP+DDPM/psnr": 27.0}, CONDITIONS),  # above its own fit, and not above a longer one
    (claims._over_dip, {"restoration.over_dip": 0.02, "restoration.over_dip_high": 0.05}, CONDITIONS),  # known targets
    (claims._over_dip, {"restoration.above_dip": 8}, CONDITIONS),  # in the mean, and not in every task
    (claims._over_dip, {"restoration.over_dip_low": -0.1}, CONDITIONS),  # nor surely
    (claims._over_dip, {"restoration.tasks_chosen": 1}, CONDITIONS),  # nor in tasks that were not chosen by hand
    (claims._over_dip, {"restoration.whole_low": -0.1}, CONDITIONS),  # and more of DIP would do as well
    (claims._over_dip, {"restoration.over_dip_low": NAN}, CONDITIONS),  # one photograph is no proof
    (claims._over_dip, {"hybrid/DIP+DDPM/spread": 5.0}, CONDITIONS),  # a mean of +1 dB within a wide interval
    (
        claims._over_dip,
        {"hybrid/DIP+DDPM/psnr": 26.0, "restoration.over_dip": -1.0, "restoration.over_dip_high": -0.5},
        FAILS,
    ),
    (
        claims._over_dip,
        {"hybrid/DIP+DDPM/psnr": 26.0, "restoration.over_dip_low": -0.3},
        OPEN,
    ),  # the mean alone is ahead
    (claims._over_dip, {"hybrid/DIP+DDPM/spread": 5.0, "restoration.over_dip_low": NAN}, OPEN),
    (claims._over_dip, {"restoration.over_dip_crossed_low": -0.1}, CONDITIONS),  # with what was not chosen on them
    (claims._over_dip, {"hybrid/DIP+DDPM/psnr": 26.0, "restoration.over_dip_crossed_low": -0.3}, OPEN),
    (
        claims._over_dip,  # one says no, the other leaves it open: it is no
        {
            "hybrid/DIP+DDPM/psnr": 26.0,
            "restoration.over_dip": -1.0,
            "restoration.over_dip_high": -0.5,
            "restoration.over_dip_crossed_low": -0.3,
        },
        FAILS,
    ),
    (claims._restores, {"restoration.over_ddpm_crossed_low": -0.1}, OPEN),
    (claims._over_dip, {"unseen.over_dip_low": -0.1}, CONDITIONS),  # nor on photographs that chose nothing
    (claims._over_dip, {"hybrid/DIP+DDPM/psnr": 26.0, "unseen.over_dip_low": -0.1}, OPEN),
    (claims._restores, {"unseen.over_ddpm_low": -0.1}, OPEN),
    (claims._restores, {f"unseen.over_ddpm{k}": 0.05 for k in ("", "_low", "_high")}, FAILS),
    (claims._restores, {"unseen.speed": 0.9}, FAILS),
    (claims._practical, {"unseen.chosen_over_ddpm_low": -0.1}, OPEN),
    (claims._practical, {f"unseen.chosen_over_ddpm{k}": 0.05 for k in ("", "_low", "_high")}, FAILS),
    (claims._restores, {f"restoration.over_ddpm_crossed{k}": 0.05 for k in ("", "_low", "_high")}, FAILS),
    (claims._reported_dip, {"dip/DIP/ssim": 0.91}, CONDITIONS),  # of another target, perhaps
    (claims._reported_dip, {}, OPEN),  # with another SSIM
    (claims._reported_dip, {"dip/DIP/psnr": 24.4}, OPEN),
    (claims._reported_dip, {"dip/DIP/ssim": 0.91, "dip/DIP/seconds": 17.0}, OPEN),  # later: its trace has one point
    (claims._strengths, {}, CONDITIONS),
    (claims._strengths, {"hybrid/DIP+DDPM/spread": 5.0, "restoration.over_dip_low": NAN}, OPEN),
    (claims._reported_dip, {"dip/DIP/psnr": 20.0}, FAILS),
    (claims._filters, {}, HOLDS),
    (claims._filters, {f"architecture.deeper{k}": -0.5 for k in ("", "_low", "_high")}, CONDITIONS),
    (claims._filters, {f"architecture.{k}_low": -0.1 for k in ("deeper", "wider")}, OPEN),
    (claims._filters, {"architecture.deeper_least": -1.7}, CONDITIONS),  # the mean gains, one width loses
    (claims._filters, {"architecture.wider_least": -0.2}, CONDITIONS),
    (
        claims._filters,
        {f"architecture.{of}{k}": 0.05 for of in ("deeper", "wider") for k in ("", "_low", "_high")},
        FAILS,
    ),
    (claims._architecture_cost, {}, HOLDS),
    (claims._architecture_cost, {"architecture.memory_ratio": 1.0}, FAILS),
    (claims._architecture_cost, {"architecture.time_ratio": 1.0}, FAILS),
    (claims._half_quality, {}, HOLDS),
    (claims._half_quality, {"timesteps/500/spread": 3.0}, OPEN),
    (claims._half_quality, {"timesteps/500/psnr": 25.02}, FAILS),  # nothing is lost
    (claims._half_quality, {"timesteps/500/psnr": 24.98}, FAILS),
    (claims._half_quality, {"timesteps/500/psnr": 25.3}, FAILS),
    (claims._half_quality, {"timesteps/500/psnr": 23.0}, FAILS),
    (claims._half_quality, {"timesteps/500/psnr": 27.0}, FAILS),
    (claims._half_time, {}, HOLDS),
    (claims._half_time, {"timesteps/500/seconds": 29.0}, FAILS),
    (claims._trade_off, {}, HOLDS),
    (claims._trade_off, {"timesteps/10/psnr": 24.97}, CONDITIONS),  # of a prior that knows the target nothing is lost
    (claims._trade_off, ENOUGH, CONDITIONS),  # nor of one that does not
    (claims._trade_off, ENOUGH | {"timesteps/10/psnr": 26.0}, FAILS),  # speed for nothing
    (claims._trade_off, ENOUGH | {"timesteps/10/psnr": 24.8, "timesteps/10/spread": 1.0}, OPEN),
    (claims._noise_steps, {}, HOLDS),
    (claims._noise_steps, {"noise.needed_rises": 0}, CONDITIONS),
    (claims._noise_steps, {"noise.needed_high": 3}, FAILS),
    (claims._adaptive, {}, HOLDS),
    (claims._adaptive, {"noise.adaptive_low": -0.3}, OPEN),
    (claims._adaptive, {"noise.adaptive_low": NAN, "noise.adaptive_high": NAN}, OPEN),
    (claims._adaptive, {"noise.adaptive_worst": -0.8}, CONDITIONS),  # level over all, not at every level
    (claims._adaptive, {"noise.adaptive_low": -0.9, "noise.adaptive_high": -0.3}, CONDITIONS),
    (claims._adaptive, {f"noise.adaptive_{k}": -0.3 for k in ("low", "high", "worst", "best")}, FAILS),
    (claims._restores, {}, HOLDS),
    (claims._restores, {"restoration.above_classical": 8}, CONDITIONS),
    (claims._restores, {"restoration.tasks_chosen": 1}, CONDITIONS),  # where they were chosen by hand
    (claims._restores, {"restoration.speed": 0.5}, FAILS),  # quality and speed
    (claims._restores, {"restoration.over_ddpm_low": -0.1}, OPEN),
    (claims._restores, {"restoration.over_ddpm_low": -0.1, "restoration.speed": 0.5}, FAILS),  # whichever it is
    (claims._restores, {"restoration.over_ddpm_low": NAN, "restoration.over_ddpm_high": NAN}, OPEN),  # one photograph
    (claims._restores, {"restoration.over_ddpm": 0.02}, OPEN),
    (
        claims._restores,
        {f"restoration.over_ddpm{k}": v for k, v in (("", 0.02), ("_low", 0.01), ("_high", 0.05))},
        FAILS,
    ),
    (claims._restores, {"restoration.over_ddpm": -0.5, "restoration.over_ddpm_high": -0.1}, FAILS),
    (claims._practical, {}, CONDITIONS),
    (claims._practical, {"restoration.chosen_low": NAN, "restoration.chosen_high": NAN}, OPEN),
    (claims._practical, {"restoration.chosen_low": -0.1}, OPEN),
    (claims._practical, {"restoration.chosen_speed": 0.9}, FAILS),
    (claims._practical, {"restoration.chosen_over_ddpm": 0.05, "restoration.chosen_high": 0.08}, FAILS),
    (claims._validated, {}, CONDITIONS),  # the theory's
    (claims._validated, SMOOTH, HOLDS),
    (claims._validated, SMOOTH | {"restoration.speed": 0.5}, FAILS),  # the experiments'
    (claims._validated, SMOOTH | {"restoration.over_ddpm_low": -0.1}, OPEN),
    (claims._dips_start, {}, CONDITIONS),
    (claims._dips_start, {"starts.better": 9}, HOLDS),
    (claims._dips_start, {"starts.better": 0}, OPEN),  # of three the photographs do not tell
    (claims._dips_start, {"starts.better": 0, "starts.behind": 4}, FAILS),
    (claims._reported_ddpm, {}, FAILS),
    (claims._reported_ddpm, {"hybrid/DDPM, 1000 steps/psnr": -1.3}, HOLDS),
    (claims._reported_hybrid, {}, FAILS),
    (claims._reported_hybrid, {"hybrid/DIP+DDPM/psnr": -1.3}, HOLDS),
    (claims._reported_time, {}, FAILS),
    (claims._reported_time, {"replay.honest_speed": 38.0}, HOLDS),
    (claims._balance, {}, OPEN),
    (claims._balance, {"architecture/2 × 16/psnr": 26.9, "architecture/2 × 16/seconds": 1.0}, CONDITIONS),
    (claims._theory, {}, CONDITIONS),
    (claims._theory, SMOOTH, HOLDS),
    (
        claims._theory,
        {f"oracle.{of}_gain_low": -1.0 for of in ("white", "smooth")} | {"oracle.smooth_gain_high": 0.3},
        OPEN,
    ),
    (claims._theory, {"oracle.steps_enough": 0.0}, CONDITIONS),  # no number of steps is
    (claims._theory, {f"oracle.{of}_gain{k}": 0.0 for of in ("white", "smooth") for k in ("", "_low", "_high")}, FAILS),
    (claims._adaptive_speed, {}, CONDITIONS),
    (claims._adaptive_speed, {"noise.adaptive_needs": 20}, FAILS),
    (claims._adaptive_speed, {"noise.adaptive_needs": 1000}, FAILS),
    (claims._fidelity, {"hybrid/DDPM, 1000 steps/psnr": 26.0}, CONDITIONS),
    (claims._fidelity, {"hybrid/DDPM, 1000 steps/psnr": 20.0}, FAILS),
    (claims._both_scores, {"calls/DIP+DDPM, 20/ssim": 0.95}, FAILS),  # slower
    (claims._both_scores, QUICK | {"calls/DIP+DDPM, 20/ssim": 0.95}, HOLDS),
    (claims._both_scores, QUICK | {"calls/DIP+DDPM, 20/ssim": 0.1}, FAILS),
    (claims._both_scores, QUICK | {"calls/DIP+DDPM, 20/ssim": 0.9, "calls/DIP+DDPM, 20/ssim_spread": 0.5}, OPEN),
]


@pytest.mark.parametrize(("rule", "changes", "verdict"), FLIPS, ids=lambda v: getattr(v, "__name__", None) or str(v))
def test_the_verdict_follows_the_evidence(rule: Rule, changes: dict[str, float], verdict: str) -> None:
    found, numbers = rule(evidence(changes))
    assert found == verdict
    assert any(c.isdigit() for c in numbers)
    assert "nan" not in numbers


def test_calls_count_before_seconds_and_a_longer_training_is_told() -> None:
    """A place that takes more calls and less time is not the fewest calls."""
    assert ", the hybrid 3 after" in claims._fewer_steps(evidence({"calls/DIP+DDPM, 20/seconds": 2.0}))[1]
    verdict, said = claims._fewer_steps(evidence({"lengths.longer_ddpm": 27.0}))
    assert verdict == CONDITIONS
    assert said.endswith("; a prior trained longer takes DDPM to 27.0 dB, the hybrid after a short fit to 24.7")
    assert "longer" not in claims._fewer_steps(evidence())[1]


def test_every_rule_can_turn() -> None:
    reached: dict[Rule, set[str]] = {}
    for rule, _, verdict in FLIPS:
        reached.setdefault(rule, set()).add(verdict)
    rules = {c.judge for c in CLAIMS} | set(claims.SUMMARY.values())
    assert {rule for rule, verdicts in reached.items() if len(verdicts) > 1} == rules


def test_the_longest_chain_is_told_of_and_decides_nothing() -> None:
    said = claims._both(evidence())[1]
    assert said.endswith(
        "DIP+DDPM with 15 calls is +0.95 [+0.95, +0.95] dB over DDPM's 100 steps at 1.1× the speed, but "
        "its own 20 are 3.0× as fast as those"
    )
    assert "100 steps" not in claims._both(evidence(QUICK))[1], "the hybrid is ahead of the best already"


def test_a_choice_that_is_as_good_and_slower_is_no_balance() -> None:
    alone = claims._balance(evidence({"architecture/2 × 16/psnr": 20.0}))
    slower = claims._balance(evidence({"architecture/2 × 16/psnr": 26.9, "architecture/2 × 16/seconds": 40.0}))
    assert "no other is within 0.5 dB" in alone[1]
    assert "of those within 0.5 dB of the best none is faster" in slower[1]


def test_numbers_stand_in_the_text() -> None:
    every = [*CLAIMS, *(claims.Claim("", "", rule) for rule in claims.SUMMARY.values())]
    said = {c.judge: judge(c, evidence())[1] for c in every}
    for rule, parts in {
        claims._dip_quality: ("27.00 [26.97, 27.03] dB", "0.800", "10.0 s"),
        claims._diverse: ("0.61", "0.123", "0.789", "0.111", "0.678"),
        claims._both: ("DDPM with 20 calls, the hybrid with 15: +1.00 [+1.00, +1.00] dB at 0.38× its speed",),
        claims._maintains: ("0.38× its speed",),
        claims._generates: (
            "20 steps",
            "t = 900",
            "100 from",
            "SWD −0.020 [−0.030, −0.010]",
            "0.47 against 0.76",
            "4.2 s",
            "5.7 s",
        ),
        claims._strengths: ("+1.23 [+0.90, +1.60] dB", "0.38× the speed"),
        claims._both_scores: ("+1.00", "SSIM against DDPM at its best +0.000 [+0.000, +0.000]"),
        claims._structure: ("27.3", "15.2", "120 iterations"),
        claims._reverses: ("29.10", "26.20"),
        claims._costly: ("30.0 s", "DIP 10.0 s"),
        claims._reaches: ("at t = 300", "27.1 dB", "10.2 dB", "24.3 dB"),
        claims._fewer_steps: (
            "25.1 dB, takes 20 network calls, the hybrid 3 after a fit of 22.0 dB (+0.00 [+0.00, +0.00] dB)",
        ),
        claims._partial_view: ("9.2 dB", "a fit of 21.3 dB, to 31.4 dB", "DDPM to 25.2 dB", "place ends at 30.6 dB"),
        claims._over_dip: (
            "+1.00",
            "+1.23 [+0.90, +1.60] dB",
            "surely in 5",
            "DIP's own whole fit over adds +0.57 [+0.21, +0.83] dB to it",
        ),
        claims._reported_dip: ("24.46 dB comes after 10.0 s, with an SSIM of 0.80", "27.00 dB after 10.0 s"),
        claims._reported_ddpm: ("[−1.31, −1.12]", "25.00"),
        claims._reported_hybrid: ("1.7 standard", "5.6 dB"),
        claims._reported_time: ("1.4×", "39×", "2.7×"),
        claims._filters: ("+0.57 [+0.40, +0.70]", "+0.68", "+0.11", "+0.22"),
        claims._architecture_cost: ("3.1×", "2.2×"),
        claims._balance: ("no other is within 0.5 dB",),
        claims._half_quality: ("T = 500 against 1000", "−0.40"),
        claims._half_time: ("30.00 s → 15.00 s",),
        claims._trade_off: ("1000 → 10", "−5.00 [−5.00, −5.00] dB", "100×", "−4.00 [−4.00, −4.00]"),
        claims._noise_steps: ("3 steps", "11 at"),
        claims._adaptive: ("17 steps", "+0.02 dB at ρ = 1 to +1.41 dB at ρ = 8", "+0.52 [+0.31, +0.73] dB"),
        claims._restores: ("+2.34", "9 of 9", "surely in 6", "3.4×"),
        claims._dips_start: ("2 of 9", "within 0.2 dB of it in 5", "behind in 1, and in 1"),
        claims._practical: (
            "DIP in 4 of 9 tasks: +2.50 [+2.10, +2.80] dB",
            "4.6× its speed",
            "method in 8 by the means, surely ahead of it in 7; it restores",
        ),
        claims._validated: ("+2.34", "7 steps", "3.4×"),
        claims._theory: ("+2.34 [+2.10, +2.60] dB", "−0.45", "7 steps from t = 100 are"),
        claims._adaptive_speed: ("6 steps", "13"),
        claims._fidelity: ("25.00 dB", "24.99"),
    }.items():
        text = said.pop(rule)
        assert all(part in text for part in parts), text
    assert said == {}


# ---- single seeds, missing seeds


def test_one_seed_decides_nothing() -> None:
    """Without a spread nothing is bracketed, and what is judged by an interval is not decided."""
    one = evidence(QUICK)
    one = Evidence({n: Results(p for p in r if p[0].seed == 0) for n, r in one.results.items()}, one.numbers)
    verdict, numbers = claims._both(one)
    assert verdict == OPEN
    assert "[" not in numbers
    assert "nan" not in numbers
    changed = ledger(one).verdict != ledger(evidence(QUICK)).verdict
    turned = ledger(one)[changed].set_index("claim").verdict
    both = next(c.sentence for c in CLAIMS if c.judge is claims._trade_off)
    assert turned.pop(both) == CONDITIONS, "in restoration the photographs are its spread"
    assert set(turned) == {OPEN}
    assert len(turned) >= 8


def test_differences_are_paired_by_seed() -> None:
    """Seeds that lift both methods alike add no doubt."""
    table = evidence({"hybrid/DIP+DDPM/spread": 3.0, "hybrid/DDPM, 1000 steps/spread": 3.0}).table
    d = table.difference("DIP+DDPM", table.ddpm)
    assert (d.mean, d.low, d.high) == pytest.approx((3.0, 3.0, 3.0))
    assert d.n == SEEDS


def test_the_rival_is_ddpm_at_its_best_and_the_writeups_its_longest_chain() -> None:
    table = evidence().table
    assert (table.ddpm, table.longest) == ("DDPM, 1000 steps", "DDPM, 1000 steps")
    # as good as the long chain within a tie, and cheaper
    table = evidence({"hybrid/DDPM, 100 steps/psnr": 24.95}).table
    assert (table.ddpm, table.longest) == ("DDPM, 100 steps", "DDPM, 1000 steps")
    assert evidence({"hybrid/DDPM, 100 steps/evaluations": 2000}).table.longest == "DDPM, 100 steps"


# ---- the ledger


def test_an_empty_store_gives_no_verdicts() -> None:
    table = ledger()
    assert set(table.verdict) == {"not measured"}
    assert len(table) == len(CLAIMS) == 31
    assert list(table.columns) == ["section", "claim", "verdict", "numbers", "rests on"]
    assert {s.split(".")[0] for s in table.section} == set("12345")
    assert list(table.section) == sorted(table.section)
    assert table.claim.is_unique
    assert table.numbers.str.startswith("needs the results called ").all()
    assert summary().count("not measured") == len(claims.SUMMARY)


def test_whole_evidence_leaves_no_claim_unmeasured() -> None:
    table = ledger(evidence())
    assert set(table.verdict) <= {HOLDS, CONDITIONS, FAILS, OPEN}
    assert not table.numbers.str.contains("nan").any()
    rests = table.set_index("claim")["rests on"]
    assert rests["Integrating DIP with DDPM significantly improves quality and speed."] == (
        "restoration: 2 photographs, 3 seeds; unseen: 13 photographs, 1 seed"
    )
    assert rests.str.len().min() > 0, "each verdict says what it read"
    assert rests.str.contains("hybrid: 1 photograph, 3 seeds").any()
    text = summary(evidence())
    assert len(text.splitlines()) == len(claims.SUMMARY)
    assert all(line.startswith("- **") and line.endswith(").") for line in text.splitlines())
    assert "+1.00 [+1.00, +1.00] dB" in text
    assert "not measured" not in text
    assert summary(evidence({"hybrid/DIP+DDPM/psnr": 20.0})) != text


def test_the_finding_is_three_sentences_that_follow_the_evidence() -> None:
    paragraphs = claims.finding(evidence()).split("\n\n")
    assert all(p.endswith(".") and not re.search(r"\. [A-Z]", p) for p in paragraphs), "a sentence each"
    reported, known, restored = paragraphs
    assert "pure noise scores (−1.21 dB on our photograph), and its 39× speed is 1.4×" in reported
    assert "**Done right, a better start saves steps, but no time**" in known
    assert "DDPM comes to 25.1 dB, for which it needs 20 network calls; DIP+DDPM needs 3 for as much" in known
    assert known.endswith("from a fit of 22.0 dB, and with the fit counted takes 2.0 times as long.")
    sooner = {"calls/slow, 3/evaluations": 2}
    assert "takes 20 times as long, or with 3 calls 2.0 times." in claims.finding(evidence(sooner))
    longer = claims.finding(evidence({"lengths.longer_ddpm": 27.0, "calls/DIP+DDPM, 3/seconds": 1.0}))
    assert "**Done right, a better start can save steps**" in longer
    assert (
        "the hybrid is ahead of DIP and of DDPM**: over 9 tasks (2 photographs at 96², 1 seed), in 0 of which"
        in restored
    )
    assert "it ends +1.23 [+0.90, +1.60] dB over DIP, +2.34 [+1.80, +2.90] dB over DDPM at its best" in restored
    assert "at 3.4× the speed, and −0.31 [−1.40, +0.60] dB over DDPM's result handed over (one seed); " in restored
    there = "+1.07 [+0.80, +1.40], +1.90 [+1.50, +2.20] and −0.40 [−0.70, −0.10] dB"
    assert f"; on 13 photographs that chose nothing {there}; " in restored
    assert restored.endswith("with its start chosen +2.50 [+2.10, +2.80] dB over DDPM.")
    assert all(len(paragraph.split()) <= 100 for paragraph in paragraphs), "short enough for a first screen"
    few = {"restoration.tasks": 1.0, "restoration.tasks_chosen": 1.0}
    assert "over 1 task, chosen by hand (2 photographs" in claims.finding(evidence(few))
    assert "and +2.50 [" in claims.finding(evidence({"restoration.over_handed": 2.5}))
    open_ = {"calls/DIP+DDPM, 3/spread": 5.0}
    assert claims._fewer_steps(evidence(open_))[0] == OPEN
    assert "**Done right, a better start may save steps, but no time**" in claims.finding(evidence(open_))
    never = claims.finding(evidence(LATE | {"calls/DIP+DDPM, 20/psnr": 24.5}))
    assert "a better start does not save steps" in never
    assert (
        "DIP+DDPM comes to 24.5 dB at most, with 15, from a fit of 22.0 dB, and with the fit counted takes 2.7" in never
    )
    assert "is 3.0 times as fast." in claims.finding(evidence({"calls/DIP+DDPM, 3/seconds": 1.0}))
    for changes, said in {
        ("over_dip_low", -0.2): "the hybrid is ahead of DDPM, and of DIP not surely**: ",
        ("over_ddpm_low", -0.2): "the hybrid is ahead of DIP, and of DDPM not surely**: ",
        ("above_ddpm", 8.0): "the hybrid is ahead of DIP and of DDPM, on average and not everywhere**: ",
        ("over_dip_low", NAN): "the hybrid is ahead of DDPM, and of DIP not surely**: ",  # one photograph
        ("over_ddpm_crossed_low", -0.2): "the hybrid is ahead of DIP, and of DDPM not surely**: ",
    }.items():
        assert said in claims.finding(evidence({f"restoration.{changes[0]}": changes[1]}))
    for changes, said in {
        "over_dip_low": "the hybrid is ahead of DDPM, and of DIP not surely**: ",
        "over_ddpm_low": "the hybrid is ahead of DIP, and of DDPM not surely**: ",
    }.items():
        assert said in claims.finding(evidence({f"unseen.{changes}": -0.2}))
    behind = {f"restoration.over_{k}": -0.5 for k in ("dip", "ddpm", "dip_low", "ddpm_low")}
    assert "the hybrid is not surely ahead**: " in claims.finding(evidence(behind))
    assert "−0.50 [−0.50, +2.90] dB over DDPM at its best" in claims.finding(evidence(behind))
    assert claims.finding().count("*Not measured yet*") == 3


def test_what_stands_behind_the_finding_is_told() -> None:
    said = claims.what_decides(evidence())
    assert "+2.28 dB in the median of 18 pairs of task and photograph, of which the hybrid is ahead in 17" in said
    assert "and +2.17 dB in the mean with a ρ that other photographs chose" in said
    assert "may take 1500 iterations; that fit of DIP's gains +0.57 [+0.21, +0.83] dB" in said
    assert "surely ahead of the better one that needs no fit in 2 of 9 tasks" in said
    assert "gains +2.3 dB on DIP's image, +7.0 on one whose error has the same size and spectrum" in said
    assert "and +10.3 on one whose error is as large and white" in said
    assert "DIP's in 4, the result is no worse than the classical method in 8 of 9" in said
    assert "DDPM comes to 9.2 dB at most and the hybrid to 31.4 dB; a blurred copy of the target in" in said
    assert claims.what_decides() == "*Not measured yet*: needs the results called restoration."


def test_what_the_summary_alone_asks_for_is_named_too() -> None:
    numbers = {name: values for name, values in evidence().numbers.items() if name != "starts"}
    assert "not measured (needs the results called starts)" in summary(Evidence(evidence().results, numbers))


@pytest.mark.parametrize(
    "gone", [*BASE, *(n for n in NUMBERS if n not in ("architecture", "starts", "lengths", "colour"))]
)
def test_what_is_missing_is_named(gone: str) -> None:
    whole = evidence()
    less = Evidence(
        {n: r for n, r in whole.results.items() if n != gone}, {n: v for n, v in whole.numbers.items() if n != gone}
    )
    table = ledger(less)
    lost = table[table.verdict == "not measured"]
    assert 0 < len(lost) < len(table)
    assert set(lost.numbers) == {f"needs the results called {gone}"}
    before = ledger(whole)
    kept = table.verdict != "not measured"
    if gone == "restoration":  # of two halves of a claim the other is judged
        half = table.claim == next(c.sentence for c in CLAIMS if c.judge is claims._trade_off)
        assert table[half].numbers.item().endswith("of a prior that does not know it nothing was measured")
        assert table[half].verdict.item() == CONDITIONS
        kept &= ~half
    assert list(table[kept].numbers) == list(before[kept].numbers), "the others are judged as before"


@pytest.mark.parametrize("label", ["DIP", claims.LONGER, "DIP+DDPM", "DIP+DDPM, short fit", "DDPM"])
def test_a_table_that_lacks_a_row_is_not_judged(label: str) -> None:
    whole = evidence()
    pairs = [p for p in whole.results["hybrid"] if p[0].label != label and not p[0].label.startswith(f"{label},")]
    if label == "DIP":  # "DIP+DDPM" stays
        pairs = [p for p in whole.results["hybrid"] if p[0].label != "DIP"]
    less = Evidence({**whole.results, "hybrid": Results(pairs)}, whole.numbers)
    found = {c.judge: judge(c, less)[0] for c in CLAIMS}
    assert found[claims._strengths] == "not measured"
    assert found[claims._dip_quality] == CONDITIONS


def test_one_number_of_timesteps_compares_nothing() -> None:
    whole = evidence()
    one = Results(p for p in whole.results["timesteps"] if p[0].T == 1000)
    found = {c.judge: judge(c, Evidence({**whole.results, "timesteps": one}, whole.numbers))[0] for c in CLAIMS}
    for rule in (claims._half_quality, claims._half_time, claims._trade_off):
        assert found[rule] == "not measured"


def test_evidence_is_read_from_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = evidence()
    monkeypatch.setattr("dipddpm_lib.evidence.collected", lambda name, pictures: whole.results[name])
    for name, numbers in NUMBERS.items():
        note(name, **{k: float(v) for k, v in numbers.items()})
    assert ledger().equals(ledger(whole))
    assert set(claims.COLLECTIONS) == set(BASE)
    assert set(claims.NUMBERS) == set(NUMBERS)


def test_a_defect_in_a_rule_is_not_missing_evidence() -> None:
    def broken(e: Evidence) -> claims.Finding:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        judge(Claim("1", "…", broken), evidence())
    with pytest.raises(Missing):
        evidence().number("noise", "no such number")
    assert math.isnan(evidence({"noise.steps": NAN}).number("noise", "steps"))


def test_the_evidence_names_its_images_and_seeds() -> None:
    text = claims.provenance(evidence())
    assert "hybrid: coffee at 32², 3 seeds" in text
    assert "starts: 4 photographs, 1 seed" in text
    assert text.count("restoration:") == 1, "its results say it already"
    assert "hybrid: nothing yet" in claims.provenance(Evidence({"hybrid": Results(())}, {}))
    single = Results((replace(c, prior="single"), r) for c, r in evidence().results["hybrid"])
    told = claims.provenance(Evidence({"hybrid": single}, {}))
    assert told == "hybrid: coffee at 32², 3 seeds, all with one training of the prior", "its spread is not in theirs"


def test_results_of_other_source_code_are_no_evidence(monkeypatch: pytest.MonkeyPatch) -> None:
    note("noise", steps=3.0)
    assert noted("noise") == {"steps": 3.0}
    monkeypatch.setattr(store, "source_digest", lambda: "another")
    assert noted("noise") == {}
