"""Each claim of the writeup as a predicate over results: the sentence, the verdict, the numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import pandas as pd

from . import evidence as kept
from .evidence import Results, interval
from .narrative import counted
from .types import Interval

Verdict = Literal["holds", "holds under conditions", "does not hold", "not decided", "not measured"]
"""Not decided: the interval, its absence, or what the writeup leaves unsaid, allows both."""
Finding = tuple[Verdict, str]

LONGER = "DIP, twice the iterations"  # a row of protocol A: more of DIP, in place of the reverse process
SHOWN_TASK = "compressive_10"  # of which the report's first picture is
NOT_ALIKE = 0.2  # a diversity above which no two samples are alike
TIE_DB = 0.1  # differences below this are no difference: well inside the spread between seeds


class Missing(Exception):
    """A claim's evidence has not been computed."""


@dataclass(frozen=True)
class Evidence:
    """Where claims read: collections of results, and notebooks' derived numbers, by name.

    read: the names that were asked for so far, in order
    """

    results: Mapping[str, Results]
    numbers: Mapping[str, Mapping[str, float]]
    read: dict[str, None] = field(default_factory=dict, compare=False)

    def runs(self, name: str) -> Results:
        self.read[name] = None
        found = self.results.get(name)
        if not found:
            raise Missing(name)
        return found

    def frame(self, name: str) -> pd.DataFrame:
        return self.runs(name).frame()

    def number(self, name: str, key: str) -> float:
        self.read[name] = None
        try:
            return float(self.numbers[name][key])
        except KeyError:
            raise Missing(name) from None

    @cached_property
    def table(self) -> Table:
        """The main table of protocol A."""
        frame = self.frame("hybrid")
        needed = {"DIP", LONGER, "DIP+DDPM", "DIP+DDPM, short fit"}
        if not needed <= set(frame.label) or "DDPM" not in set(frame.method):
            raise Missing("hybrid")
        return Table(frame)

    @cached_property
    def calls(self) -> Calls:
        """Protocol A by the number of network calls."""
        frame = self.frame("calls")
        if not {"DDPM", "DIP+DDPM"} <= set(frame.method):
            raise Missing("calls")
        return Calls(frame)


Place = tuple[str, int]  # label and steps


def _place(index: tuple[Any, Any]) -> Place:
    return str(index[0]), int(index[1])


class Calls:
    """How many network calls DDPM and the hybrid need, each with the best of its settings, for DDPM's best PSNR.

    best: that PSNR; what is less than `TIE_DB` below it counts as level
    ddpm, hybrid: label and steps of the fewest calls that are level; where the hybrid never is, of its own best
    peak: label and steps of the hybrid's own best
    longest: those of DDPM's longest chain, which is the writeup's own
    """

    def __init__(self, frame: pd.DataFrame):
        # by the steps that were asked for: where few places lie below a hand-off, the calls differ from seed to seed
        by = frame.groupby(["method", "label", "steps"])[["psnr", "seconds", "evaluations"]].mean()
        self.best = float(by.psnr["DDPM"].max())
        self.means = by.droplevel("method")

        def least(method: str) -> Place:
            level = by.loc[method]
            level = level[level.psnr >= min(self.best - TIE_DB, level.psnr.max())]
            return _place(level.sort_values(["evaluations", "seconds"]).index[0])

        self.ddpm, self.hybrid = least("DDPM"), least("DIP+DDPM")
        self._ours = by.loc["DIP+DDPM"]
        self.peak = _place(self._ours.psnr.idxmax())
        self.longest = _place(by.evaluations["DDPM"].idxmax())
        self._wide = frame.pivot_table(index="seed", columns=["label", "steps"], values=["psnr", "ssim"])
        self.reached = bool(self.means.psnr[self.hybrid] >= self.best - TIE_DB)
        self.difference = self.between(self.hybrid, self.ddpm)
        self.speed = self.speed_over(self.hybrid, self.ddpm)
        self.theirs, self.ours = (float(self.means.evaluations[place]) for place in (self.ddpm, self.hybrid))
        self.fit = float(frame[frame.label == self.hybrid[0]].fit_psnr.mean())

    def between(self, a: Place, b: Place, value: str = "psnr") -> Interval:
        """By how much a is above b, paired by seed."""
        return interval(self._wide[value][a] - self._wide[value][b])

    def speed_over(self, a: Place, b: Place) -> float:
        """How many times as fast as b a is, fits included."""
        return float(self.means.seconds[b] / self.means.seconds[a])

    def quickest(self) -> Place:
        """The hybrid's least time for what `hybrid` is asked for."""
        enough = self._ours[self._ours.psnr >= min(self.best - TIE_DB, self._ours.psnr.max())]
        return _place(enough.seconds.idxmin())

    def rival(self) -> Place:
        """The hybrid's best of those that are faster than DDPM at its best; where none is, its best."""
        faster = self._ours[self._ours.seconds < self.means.seconds[self.ddpm]]
        return self.peak if faster.empty else _place(faster.psnr.idxmax())

    def soonest(self) -> Place | None:
        """The hybrid's best of those that are better and faster than the longest chain, by the means."""
        bar = self.means.loc[self.longest]
        ours = self._ours[(self._ours.psnr > bar.psnr + TIE_DB) & (self._ours.seconds < bar.seconds)]
        return None if ours.empty else _place(ours.psnr.idxmax())


class Table:
    """Paired differences between the rows of protocol A's table."""

    def __init__(self, frame: pd.DataFrame):
        self.frame = frame
        self.mean = frame.groupby("label")[["psnr", "ssim", "seconds", "seconds_sample", "evaluations"]].mean()
        ddpm = frame[frame.method == "DDPM"].groupby("label")[["psnr", "evaluations"]].mean()
        # the fair rival is DDPM at its best: the cheapest of its rows that is as good as any of them
        best = ddpm[ddpm.psnr >= ddpm.psnr.max() - TIE_DB]
        self.ddpm = str(best.evaluations.idxmin())
        # the writeup's own is the longest chain from noise
        self.longest = str(ddpm.evaluations.idxmax())
        wide = frame.pivot(index="seed", columns="label")
        self.wide = wide

    def difference(self, a: str, b: str, value: str = "psnr") -> Interval:
        return interval(self.wide[value][a] - self.wide[value][b])

    def speed_over(self, a: str, b: str) -> float:
        """How many times as fast as b a is, fits included."""
        return float(self.mean.seconds[b] / self.mean.seconds[a])


def _db(i: Interval) -> str:
    return f"{i:+.2f} dB"


def _gains(i: Interval) -> bool | None:
    """Whether there is a gain; None where the interval allows both, or there is none: one value alone is no proof."""
    if i.mean > TIE_DB and i.low > 0:
        return True
    return False if i.high <= TIE_DB else None


def _all_gain(*intervals: Interval) -> bool | None:
    """Whether there is a gain by each of them; None as in `_gains`."""
    gains = [_gains(i) for i in intervals]
    return False if False in gains else None if None in gains else True


def _keeps(i: Interval) -> bool | None:
    """Whether nothing is lost; None as in `_gains`."""
    return True if i.low > -TIE_DB else False if i.high < -TIE_DB else None


def _noted(e: Evidence, name: str, key: str) -> Interval:
    """An interval that a notebook noted: key, key_low and key_high."""
    mean, low, high = (e.number(name, f"{key}{end}") for end in ("", "_low", "_high"))
    return Interval(mean, low, high, 0)


@dataclass(frozen=True)
class Claim:
    """section and sentence: the writeup's; judge: what the evidence says of it."""

    section: str
    sentence: str
    judge: Callable[[Evidence], Finding]


def _dip_quality(e: Evidence) -> Finding:
    f = e.frame("dip")
    p = interval(f.psnr)
    verdict: Verdict = "holds under conditions" if p.low >= 24 else "does not hold" if p.high < 24 else "not decided"
    return verdict, (
        f"{p:.2f} dB and SSIM {f.ssim.mean():.3f} in {f.seconds.mean():.1f} s, without a training set, of a "
        "target that is given: it is reproduced, and no new image generated"
    )


def _diverse(e: Evidence) -> Finding:
    d = e.number("generation", "diversity")
    near, measured = True, []
    for kind, name in (("swd", "patch SWD"), ("detail", "detail SWD")):
        ours, corners, other = (e.number("generation", f"{kind}_{of}") for of in ("samples", "corners", "other"))
        near = near and ours - corners < other - ours  # to the photograph's own rather than to another's
        told = format(_noted(e, "generation", "detail_samples"), ".3f") if kind == "detail" else f"{ours:.3f}"
        measured.append(f"{name} {told} (the photograph's corners {corners:.3f}, another photograph {other:.3f}")
    verdict: Verdict = "holds under conditions" if d > NOT_ALIKE and near else "does not hold"
    samples, phases = _noted(e, "generation", "detail_samples"), e.number("generation", "detail_phases")
    measured[-1] += f", its own spectrum with phases at random, which is no image, {phases:.3f}"
    if (
        verdict != "does not hold" and not samples.high < phases
    ):  # maybe no nearer than noise of the photograph's spectrum
        verdict = "not decided"
    return verdict, (
        f"diversity {d:.2f}, {'), '.join(measured)}); only with a prior trained on crops: one trained on the whole "
        "target mostly returns the target"
    )


def _both(e: Evidence) -> Finding:
    c = e.calls
    lead, speed, said = _against_best(c)
    return _together(_gains(lead), speed, "holds"), said


def _maintains(e: Evidence) -> Finding:
    """Speed is claimed, and quality no worse."""
    lead, speed, said = _against_best(e.calls)
    return _together(_keeps(lead), speed, "holds"), said


def _against_best(c: Calls) -> tuple[Interval, float, str]:
    """The hybrid's lead over DDPM at its best, its speed against it, and what is to be said of both."""
    ours = c.rival()
    d, speed = c.between(ours, c.ddpm), c.speed_over(ours, c.ddpm)
    mine, theirs = (f"{c.means.evaluations[place]:.0f}" for place in (ours, c.ddpm))
    which = "each at its best" if speed <= 1 else "the hybrid at the best of what is faster than DDPM's best"
    said = f"{which}, DDPM with {theirs} calls, the hybrid with {mine}: {_db(d)} at {speed:.2f}× its speed"
    place = c.soonest()
    if place is not None and speed <= 1:
        chain, calls = f"{c.means.evaluations[c.longest]:.0f} steps", counted(c.means.evaluations[place], "call")
        lead, faster = c.between(place, c.longest), c.speed_over(place, c.longest)
        said += f"; {place[0]} with {calls} is {_db(lead)} over DDPM's {chain} at {faster:.1f}× the speed"
        if c.speed_over(c.ddpm, c.longest) > 1:  # it is level with DDPM's best, which the longest chain may not be
            said += f", but its own {theirs} are {c.speed_over(c.ddpm, c.longest):.1f}× as fast as those"
    return d, speed, said


def _together(quality: bool | None, speed: float, most: Verdict) -> Verdict:
    """Quality and speed are claimed together; `most` where both are there."""
    both = quality if speed > 1 else False
    return "not decided" if both is None else most if both else "does not hold"


def _generates(e: Evidence) -> Finding:
    """Of new images of one photograph, so the claim can hold for no more than that."""
    nearer = _noted(e, "dial", "detail_apart")
    ours, theirs, varied, anew = (e.number("dial", k) for k in ("seconds", "seconds_anew", "varied", "varied_anew"))
    few, many, at = (e.number("dial", k) for k in ("steps", "steps_anew", "at"))
    verdict: Verdict = "not decided"
    if ours >= theirs or nearer.low > 0 or varied <= NOT_ALIKE:
        verdict = "does not hold"
    elif nearer.high < 0:
        verdict = "holds under conditions"
    return verdict, (
        f"new images of one photograph, {few:.0f} steps from DIP's image at t = {at:.0f} against {many:.0f} from "
        f"noise: detail SWD {nearer:+.3f} (less is nearer, and t was chosen by it), diversity {varied:.2f} against "
        f"{anew:.2f}, in {ours:.1f} s with the fit against {theirs:.1f} s"
    )


def _structure(e: Evidence) -> Finding:
    image, noise = e.number("introduction", "image_db"), e.number("introduction", "noise_db")
    return ("holds" if image > noise + 3 else "does not hold"), (
        f"{image:.1f} dB on a photograph, {noise:.1f} dB on noise, after "
        f"{e.number('introduction', 'iterations'):.0f} iterations"
    )


def _reverses(e: Evidence) -> Finding:
    p = {s: e.number("bundled", f"psnr_{s}") for s in (25, 50)}
    return ("holds" if p[25] > 26 else "does not hold"), (
        f"one call on unseen photographs: {p[25]:.2f} dB at σ = 25/255, {p[50]:.2f} dB at 50/255"
    )


def _costly(e: Evidence) -> Finding:
    t = e.table
    ratio = t.speed_over("DIP", t.longest)
    return ("holds" if ratio > 1.5 else "holds under conditions" if ratio > 0.5 else "does not hold"), (
        f"{t.longest}: {t.mean.seconds[t.longest]:.1f} s, DIP {t.mean.seconds['DIP']:.1f} s at this size; {t.ddpm} "
        f"take {t.mean.seconds[t.ddpm]:.2f} s and score best; training comes on top"
    )


def _reaches(e: Evidence) -> Finding:
    kept, at, least, fit = (e.number("dial", k) for k in ("kept", "kept_at", "kept_least", "fit"))
    guides = kept > least + 3
    late = f"it guides where it is handed over late enough; how good it is, is the fit's affair ({fit:.1f} dB here)"
    return ("holds under conditions" if guides else "does not hold"), (
        f"handed over at t = {at:.0f}, the output has a PSNR of {kept:.1f} dB to DIP's own image, from noise "
        f"{least:.1f} dB: {late if guides else 'hardly more'}"
    )


def _fewer_steps(e: Evidence) -> Finding:
    c = e.calls
    best = f"DDPM's best, {c.best:.1f} dB, takes {counted(c.theirs, 'network call')}"
    if not c.reached:
        return (
            "does not hold",
            f"{best}; the hybrid comes to {c.means.psnr[c.hybrid]:.1f} dB at most, with {c.ours:.0f}",
        )
    said = f"{best}, the hybrid {c.ours:.0f} after a fit of {c.fit:.1f} dB ({_db(c.difference)})"
    if c.fit >= c.best - TIE_DB:  # then any number does
        return "holds under conditions", f"{said}: DIP's own image is there already"
    longer, ours = (e.number("lengths", k) for k in ("longer_ddpm", "longer_hybrid"))  # 0 where none was longer
    trained = longer > c.means.psnr[c.peak] + TIE_DB
    if trained:
        said += f"; a prior trained longer takes DDPM to {longer:.1f} dB, the hybrid after a short fit to {ours:.1f}"
    verdict: Verdict = "does not hold"
    if c.ours < c.theirs:
        verdict = "holds under conditions" if trained else "holds"
        if not _keeps(c.difference):
            verdict = "not decided"
    return verdict, said


def _partial_view(e: Evidence) -> Finding:
    ddpm, ours, fit = (e.number("lengths", k) for k in ("part_ddpm", "part_hybrid", "fit"))
    whole, copy = (e.number("lengths", k) for k in ("whole_ddpm", "part_blurred"))
    over, beyond = (_gains(_noted(e, "lengths", f"part_over_{k}")) for k in ("ddpm", "whole"))
    verdict: Verdict = "does not hold"
    if ours > fit + TIE_DB and over is not False:
        verdict = "not decided" if over is None else "holds" if beyond else "holds under conditions"
    return verdict, (
        f"of all lengths of training, where the prior's network lacks its coarsest scales and sees a part of the image "
        f"DDPM comes to {ddpm:.1f} dB and the hybrid, from a fit of {fit:.1f} dB, to {ours:.1f} dB; where it sees the "
        f"whole, DDPM to {whole:.1f} dB; a blurred copy of the target in DIP's place ends at {copy:.1f} dB"
    )


def _over_dip(e: Evidence) -> Finding:
    t = e.table
    own, d = t.difference("DIP+DDPM", "DIP"), t.difference("DIP+DDPM", LONGER)
    r, crossed, added = (_noted(e, "restoration", k) for k in ("over_dip", "over_dip_crossed", "whole"))
    unseen = _noted(e, "unseen", "over_dip")
    ours, longer = t.mean.seconds["DIP+DDPM"], t.mean.seconds[LONGER]
    tail = (
        f"protocol A: {_db(own)} over its own fit, {_db(d)} over one of twice the iterations, which takes "
        f"{longer:.1f} s to the hybrid's {ours:.1f}; restoration: {_db(r)} over DIP alone, "
        f"{_db(crossed)} with a ρ that other photographs chose, {_db(unseen)} on {_unseen(e)}"
    )
    above, n = (e.number("restoration", k) for k in ("above_dip", "tasks"))
    won = [_gains(d), _all_gain(r, crossed, unseen)]
    # the lead is no proof where the whole fit gains nothing by the hand-off
    everywhere = above == n and added.low > 0 and not e.number("restoration", "tasks_chosen")
    tail += f", above it in {above:.0f} of {_tasks(e)}, surely in {e.number('restoration', 'sure_dip'):.0f}"
    tail += f"; handing DIP's own whole fit over adds {_db(added)} to it"
    if True in won:
        return "holds" if all(won) and everywhere else "holds under conditions", tail
    return "not decided" if None in won else "does not hold", tail


def _strengths(e: Evidence) -> Finding:
    """Of the limitations only DIP's quality is addressed, so the claim can hold for no more than that."""
    verdict, said = _over_dip(e)
    return "holds under conditions" if verdict == "holds" else verdict, (
        f"{said}; its prior has to be trained, of which DIP is free, and on a known target it has "
        f"{e.calls.speed_over(e.calls.peak, e.calls.ddpm):.2f}× the speed of DDPM, each at its best"
    )


def _reported_dip(e: Evidence) -> Finding:
    f = e.frame("dip")
    psnr, seconds = f.psnr.mean(), f.seconds.mean()
    never = (0, float("inf"), float("nan"), float("nan"))
    first = [next((point for point in r.trace if point[2] >= 24.46), never) for _, r in e.runs("dip")]
    if max(point[1] for point in first) < float("inf"):
        soon, ssim = (sum(point[i] for point in first) / len(first) for i in (1, 3))
        alike = abs(ssim - 0.93) < NEAR_SSIM and soon <= 16.64
        return "holds under conditions" if alike else "not decided", (
            f"here 24.46 dB comes after {soon:.1f} s, with an SSIM of {ssim:.2f}; {psnr:.2f} dB after {seconds:.1f} s; "
            "the writeup names neither target nor size"
        )
    return "not decided" if psnr >= 24.46 - NEAR_DB else "does not hold", (f"here {psnr:.2f} dB in {seconds:.1f} s")


NEAR_SSIM = 0.05
NEAR_DB = 3.0  # a reported PSNR is met by one this near: sizes and targets differ


def _reported_ddpm(e: Evidence) -> Finding:
    low, high = e.number("replay", "noise_low"), e.number("replay", "noise_high")
    t = e.table
    ours = t.mean.psnr[t.longest]
    return ("holds" if abs(ours + 1.22) < NEAR_DB else "does not hold"), (
        f"noise scores [{low:.2f}, {high:.2f}] dB here; a working DDPM {ours:.2f} dB"
    )


def _reported_hybrid(e: Evidence) -> Finding:
    apart, end = e.number("replay", "draws_apart"), e.number("replay", "untrained_end")
    ours = e.table.mean.psnr["DIP+DDPM"]
    return ("holds" if abs(ours + 1.20) < NEAR_DB else "does not hold"), (
        f"differs from the DDPM row by {apart:.1f} standard deviations between two draws of noise; an untrained "
        f"network would end at {end:.1f} dB, a working hybrid at {ours:.1f} dB"
    )


def _reported_time(e: Evidence) -> Finding:
    honest, claimed = e.number("replay", "honest_speed"), e.number("replay", "claimed_speed")
    t = e.table
    return ("holds" if honest > 0.9 * claimed else "does not hold"), (
        f"the fit is left out: {honest:.1f}× the speed of DDPM, not {claimed:.0f}×; "
        f"here {t.speed_over('DIP+DDPM', t.longest):.1f}×"
    )


def _filters(e: Evidence) -> Finding:
    w, d = (_noted(e, "architecture", k) for k in ("wider", "deeper"))
    least_w, least_d = e.number("architecture", "wider_least"), e.number("architecture", "deeper_least")
    # a mean over networks may rise while some of them lose
    gains = [_gains(w), _gains(d)]
    verdict: Verdict = "not decided" if None in gains else "does not hold"
    if True in gains:
        verdict = "holds" if all(gains) and min(least_w, least_d) > -TIE_DB else "holds under conditions"
    return verdict, (
        f"more filters {_db(w)} ({least_w:+.2f} at the depth that gains least), "
        f"more depth {_db(d)} ({least_d:+.2f} at the number of filters that gains least)"
    )


def _architecture_cost(e: Evidence) -> Finding:
    t, m = e.number("architecture", "time_ratio"), e.number("architecture", "memory_ratio")
    return (
        "holds" if min(t, m) > 1.2 else "does not hold"
    ), f"largest against smallest: {t:.1f}× time, {m:.1f}× memory"


def _balance(e: Evidence) -> Finding:
    f = e.frame("architecture")
    g = f.groupby("label")[["psnr", "seconds"]].mean()
    near = g[g.psnr >= g.psnr.max() - 0.5]
    share = near.seconds.min() / g.seconds[g.psnr.idxmax()]
    # the writeup does not name its choice: asked is whether any choice balances
    found = "no other is within 0.5 dB" if len(near) == 1 else "of those within 0.5 dB of the best none is faster"
    if share < 1:
        found = f"one within 0.5 dB of the best takes {share:.2f} of its time"
    return ("holds under conditions" if share < 0.8 else "not decided"), (
        f"the writeup does not name its choice; of ours {found}"
    )


def _timesteps_frame(e: Evidence) -> tuple[pd.DataFrame, int, int]:
    f = e.frame("timesteps")
    f = f[f.label == "DDPM"]
    ts = sorted(f["T"].unique(), reverse=True)
    if len(ts) < 2:
        raise Missing("timesteps")
    return f, int(ts[0]), int(ts[1])


def _half_quality(e: Evidence) -> Finding:
    f, full, half = _timesteps_frame(e)
    wide = f.pivot(index="seed", columns="T", values="psnr")
    d = interval(wide[half] - wide[full])
    if d.high < -1 or d.low > -TIE_DB:  # more than slightly, or not at all
        return "does not hold", f"T = {half} against {full}: {_db(d)}"
    if -1 < d.low and d.high < TIE_DB:
        return "holds", f"T = {half} against {full}: {_db(d)}"
    return "not decided", f"T = {half} against {full}: {_db(d)}; the seeds differ more than T does"


def _half_time(e: Evidence) -> Finding:
    f, full, half = _timesteps_frame(e)
    s = f.groupby("T").seconds.mean()
    return ("holds" if s[full] / s[half] > 1.5 else "does not hold"), f"{s[full]:.2f} s → {s[half]:.2f} s"


def _trade_off(e: Evidence) -> Finding:
    f, full, _ = _timesteps_frame(e)
    wide, s = f.pivot(index="seed", columns="T", values="psnr"), f.groupby("T").seconds.mean()
    least = int(s.index.min())
    d = interval(wide[least] - wide[full])
    said = f"a prior that knows the target, T = {full} → {least}: {_db(d)}, {s[full] / s[least]:.0f}× faster"
    lost = [_loses(d)]
    try:
        loss = _few_steps(e)
    except Missing:  # then it is judged by the half that is there, which is not enough for every prior
        said += "; of a prior that does not know it nothing was measured"
        lost.append(False)
    else:
        said += f"; restoration with one that does not, the fewest steps instead of the best number: {_db(loss)}"
        lost.append(_loses(loss))
    verdict: Verdict = "not decided" if None in lost else "does not hold"
    if True in lost:
        verdict = "holds" if all(lost) else "holds under conditions"
    return verdict, said


def _loses(i: Interval) -> bool | None:
    """Whether something is lost; None as in `_gains`."""
    return _gains(Interval(-i.mean, -i.high, -i.low, i.n))


def _few_steps(e: Evidence) -> Interval:
    """By how much DDPM's shortest chain in restoration is above its best one; over photographs, as tasks are given."""
    f = e.frame("restoration")
    by = f[f.method == "DDPM"].pivot_table(index=["image", "task", "seed"], columns="steps", values="psnr")
    if by.shape[1] < 2:
        raise Missing("restoration")
    # of the longest chains there may be the first seed alone: the best is that of runs that have all, for tasks differ
    loss = (by[by.columns.min()] - by[by.dropna().mean().idxmax()]).dropna()
    return interval(loss.groupby(["image", "task"]).mean().groupby("image").mean())


def _noise_steps(e: Evidence) -> Finding:
    low, high = e.number("noise", "needed_low"), e.number("noise", "needed_high")
    rises = e.number("noise", "needed_rises") > 0  # from each level to the next, or stays
    verdict: Verdict = "does not hold" if high <= low else "holds" if rises else "holds under conditions"
    return verdict, (
        f"{counted(low, 'step')} at the lowest level, {high:.0f} at the highest, for 0.1 dB below the best or less"
        + ("" if rises else "; between them the number falls too")
    )


def _adaptive(e: Evidence) -> Finding:
    gain, low, high = (e.number("noise", f"adaptive_{k}") for k in ("gain", "low", "high"))
    i = Interval(gain, low, high, 0)
    worst, worst_rho, best, best_rho = (
        e.number("noise", f"adaptive_{k}") for k in ("worst", "worst_rho", "best", "best_rho")
    )
    # "maintains" asks for no loss, not for a gain, and at every noise level
    kept_up = _keeps(i)
    verdict: Verdict = "not decided" if kept_up is None else "holds under conditions"
    if kept_up and worst > -TIE_DB:
        verdict = "holds"
    elif kept_up is False and best < TIE_DB:
        verdict = "does not hold"
    return verdict, (
        f"at {e.number('noise', 'steps'):.0f} steps, against uniform: from {worst:+.2f} dB at ρ = {worst_rho:g} to "
        f"{best:+.2f} dB at ρ = {best_rho:g}, {_db(i)} over all"
    )


def _adaptive_speed(e: Evidence) -> Finding:
    adaptive, uniform = e.number("noise", "adaptive_needs"), e.number("noise", "uniform_needs")
    most = e.number("noise", "most_steps")
    if adaptive > most:
        return "does not hold", f"it does not come within 0.1 dB of uniform steps' best, which {uniform:.0f} reach"
    # tried at the highest noise level alone
    verdict: Verdict = "holds under conditions" if adaptive < uniform else "does not hold"
    return verdict, (
        f"at the highest noise level {adaptive:.0f} steps where uniform ones need {uniform:.0f}, to come within 0.1 dB "
        "of the best of these"
    )


def _fidelity(e: Evidence) -> Finding:
    t = e.table
    psnr = t.mean.psnr[t.ddpm]
    worst = float(t.wide["psnr"][t.ddpm].min())
    return "holds under conditions" if worst > 25 else "does not hold", (
        f"{t.ddpm}, single prior: {psnr:.2f} dB on average, {worst:.2f} dB for its worst seed, of the image that it "
        "was trained on, which measures memory"
    )


def _tasks(e: Evidence) -> str:
    """How many tasks of restoration there are, and whether they are others than the usual ones."""
    by_hand = ", chosen by hand" if e.number("restoration", "tasks_chosen") else ""
    return counted(e.number("restoration", "tasks"), "task") + by_hand


def _unseen(e: Evidence) -> str:
    """On what the released configuration was scored that no choice was made on."""
    return f"{counted(e.number('unseen', 'images'), 'photograph')} that chose nothing"


def _restores(e: Evidence) -> Finding:
    above, n = (e.number("restoration", k) for k in ("above_ddpm", "tasks"))
    classical, sure = (e.number("restoration", k) for k in ("above_classical", "sure_ddpm"))
    speed, calls, rival = (e.number("restoration", k) for k in ("speed", "calls", "rival_calls"))
    lead = _noted(e, "restoration", "over_ddpm")
    verdict = _together(_gains(lead), speed, "holds under conditions")
    everywhere = above == n and classical == n and not e.number("restoration", "tasks_chosen")
    if verdict == "holds under conditions" and everywhere:
        verdict = "holds"
    crossed, unseen = _noted(e, "restoration", "over_ddpm_crossed"), _noted(e, "unseen", "over_ddpm")
    speed_there = e.number("unseen", "speed")
    others = (_together(_gains(crossed), speed, "holds"), _together(_gains(unseen), speed_there, "holds"))
    return _weaker(verdict, *others), (
        f"restoration: {_db(lead)} over DDPM from noise (above it in {above:.0f} of {_tasks(e)}, surely in {sure:.0f}, "
        f"{speed:.1f}× its speed, {calls:.0f} network calls against {rival:.0f}; {_db(crossed)} with a ρ that other "
        f"photographs chose; {_db(unseen)} at {speed_there:.1f}× its speed on {_unseen(e)}), above the classical "
        f"method in {classical:.0f} of {n:.0f}"
    )


def _weaker(*verdicts: Verdict) -> Verdict:
    """Of several that must all be so: the one that says the least."""
    order: tuple[Verdict, ...] = ("does not hold", "not decided", "holds under conditions", "holds")
    return min(verdicts, key=order.index)


def _practical(e: Evidence) -> Finding:
    """Of what is released, with its start chosen; it restores, so the claim can hold for no more than that."""
    over, low, high, speed = (e.number("restoration", f"chosen_{k}") for k in ("over_ddpm", "low", "high", "speed"))
    fits, classical = (e.number("restoration", k) for k in ("chosen_dip", "chosen_above_classical"))
    sure = e.number("restoration", "chosen_sure_classical")
    lead, unseen = Interval(over, low, high, 0), _noted(e, "unseen", "chosen_over_ddpm")
    return _together(_all_gain(lead, unseen), speed, "holds under conditions"), (
        f"with the start chosen, DIP in {fits:.0f} of {_tasks(e)}: {_db(lead)} over "
        f"DDPM from noise at {speed:.1f}× its speed, {_db(unseen)} on {_unseen(e)}, "
        f"no worse than the classical method in {classical:.0f} by the means, surely ahead of it in {sure:.0f}; it "
        "restores, and generates nothing new"
    )


def _validated(e: Evidence) -> Finding:
    """Theory and experiments: no more than the weaker of the two."""
    (theory, said), (measured, numbers) = _theory(e), _restores(e)
    return _weaker(theory, measured), f"{said}; {numbers}"


def _theory(e: Evidence) -> Finding:
    white, smooth = (_noted(e, "oracle", f"{k}_gain") for k in ("white", "smooth"))
    gains = [_gains(white), _gains(smooth)]
    verdict: Verdict = "not decided" if None in gains else "does not hold"
    if True in gains:
        verdict = "holds" if all(gains) else "holds under conditions"
    enough = e.number("oracle", "steps_enough")
    alike = "no number of steps from t = 100 is as accurate as 20 from noise"
    if enough:
        are = "is" if enough == 1 else "are"
        alike = f"{counted(enough, 'step')} from t = 100 {are} as accurate as 20 from noise, or more"
    return verdict, (
        f"Gaussian oracle: {alike}; the best hand-off changes the image by {_db(white)} if its error is white, by "
        f"{_db(smooth)} if it is smooth, as a part of DIP's is"
    )


def _both_scores(e: Evidence) -> Finding:
    c = e.calls
    verdict, numbers = _both(e)
    d = c.between(c.rival(), c.ddpm, "ssim")
    if d.high <= 0:
        verdict = "does not hold"
    elif not d.low > 0 and verdict != "does not hold":
        verdict = "not decided"
    return verdict, f"{numbers}; SSIM against DDPM at its best {d:+.3f}"


CLAIMS: tuple[Claim, ...] = (
    Claim("1", "DIP leverages the structure of CNNs to generate high-quality images.", _dip_quality),
    Claim("1", "DDPMs can generate diverse images through a diffusion process.", _diverse),
    Claim("1", "Combining the two enhances image generation quality and speed.", _generates),
    Claim("2.1", "DIP uses the network's structure itself as the prior, without a training dataset.", _structure),
    Claim("2.1", "DIP generates images from random noise.", _dip_quality),
    Claim("2.2", "DDPMs gradually add noise and learn to remove it.", _reverses),
    Claim("2.2", "DDPMs are known for high-fidelity images.", _fidelity),
    Claim("2.2", "DDPMs often require significant computational resources and time.", _costly),
    Claim("2.3", "DIP provides an initial high-quality image that guides the DDPM in its denoising.", _reaches),
    Claim("2.3", "The combination reduces the number of diffusion steps required.", _fewer_steps),
    Claim("2.3", "It improves speed while maintaining or enhancing image quality.", _maintains),
    Claim("3.3", "DIP: 24.46 dB, SSIM 0.93, 16.64 s.", _reported_dip),
    Claim("3.3", "DDPM: −1.22 dB, SSIM 0.00, 30.00 s.", _reported_ddpm),
    Claim("3.3", "DIP+DDPM: −1.20 dB, SSIM 0.00.", _reported_hybrid),
    Claim("3.3", "DIP+DDPM takes 0.77 s.", _reported_time),
    Claim("3.4", "The method improves both quality and speed over standalone DDPM.", _both),
    Claim("3.4", "DIP is a strong prior that spares DDPM extensive denoising steps.", _fewer_steps),
    Claim("3.4", "It yields higher PSNR and SSIM and reduces the overall time.", _both_scores),
    Claim("4.1", "A deeper network with more filters improved image quality …", _filters),
    Claim("4.1", "… but increased memory usage and computation time.", _architecture_cost),
    Claim("4.1", "The chosen architecture balances quality and efficiency.", _balance),
    Claim("4.2", "From 1000 to 500 timesteps quality decreases slightly …", _half_quality),
    Claim("4.2", "… and generation time falls significantly.", _half_time),
    Claim("4.2", "There is a trade-off between speed and quality.", _trade_off),
    Claim("4.3", "Higher noise levels required more denoising steps, and so more time.", _noise_steps),
    Claim("4.3", "An adaptive schedule (large steps first) maintains quality …", _adaptive),
    Claim("4.3", "… while improving speed.", _adaptive_speed),
    Claim("5", "Integrating DIP with DDPM significantly improves quality and speed.", _restores),
    Claim("5", "Theory and experiments validate the approach.", _validated),
    Claim("5", "It offers a practical solution for efficient generation of high quality.", _practical),
    Claim("5", "It combines the strengths of both and addresses their limitations.", _strengths),
)

COLLECTIONS = ("dip", "hybrid", "calls", "architecture", "timesteps", "restoration")
NUMBERS = (
    "introduction",
    "oracle",
    "generation",
    "dial",
    "lengths",
    "bundled",
    "architecture",
    "noise",
    "restoration",
    "unseen",
    "starts",
    "colour",
    "replay",
)


def collected() -> Evidence:
    """The evidence that the notebooks last kept in the store; numbers alone, no pictures."""
    results = {n: kept.collected(n, pictures=False) for n in COLLECTIONS}
    return Evidence(results, {n: kept.noted(n) for n in NUMBERS})


def _dips_start(e: Evidence) -> Finding:
    n, better, level, behind, near = (e.number("starts", k) for k in ("tasks", "better", "level", "behind", "near"))
    unsure = n - better - level - behind
    verdict: Verdict = "not decided" if unsure else "does not hold"
    if better:
        verdict = "holds" if better == n else "holds under conditions"
    return verdict, (
        f"after the same hand-off DIP's start is surely ahead of the better of two that need no fit in {better:.0f} of "
        f"{counted(n, 'task')}, within {near:g} dB of it in {level:.0f}, surely behind in {behind:.0f}, and in "
        f"{unsure:.0f} the photographs differ too much"
    )


def provenance(evidence: Evidence | None = None) -> str:
    """On which images, sizes and how many seeds each collection rests."""
    evidence = evidence or collected()
    parts = []
    for name, results in evidence.results.items():
        cells = [cell for cell, _ in results]
        where = sorted({f"{c.image} at {c.size}²" for c in cells})
        count = len({c.seed for c in cells})
        alike = ", all with one training of the prior" if {c.prior for c in cells} == {"single"} and count > 1 else ""
        basis = f"{', '.join(where)}, {counted(count, 'seed')}{alike}"
        parts.append(f"{name}: {basis if cells else 'nothing yet'}")
    for name, numbers in evidence.numbers.items():  # what a notebook derived says itself what it rests on
        if not evidence.results.get(name) and {"images", "seeds"} <= set(numbers):
            basis = f"{counted(numbers['images'], 'photograph')}, {counted(numbers['seeds'], 'seed')}"
            parts.append(f"{name}: {basis}")
    return "; ".join(parts)


def judge(claim: Claim, evidence: Evidence) -> Finding:
    """The claim's verdict and its numbers; "not measured" where evidence is missing."""
    try:
        verdict, numbers = claim.judge(evidence)
        return verdict, _minus(numbers)
    except Missing as missing:
        return "not measured", f"needs the results called {missing}"


def _basis(evidence: Evidence, name: str) -> str:
    """How many photographs and seeds stand behind the results of this name."""
    cells = [cell for cell, _ in evidence.results.get(name) or ()]
    numbers = evidence.numbers.get(name) or {}
    images = len({cell.image for cell in cells}) or numbers.get("images")
    seeds = len({cell.seed for cell in cells}) or numbers.get("seeds")
    if not images or not seeds:
        return name
    of_label: dict[tuple[str, str | None], set[int]] = {}
    for cell in cells:
        of_label.setdefault((cell.label, cell.task), set()).add(cell.seed)
    fewest = min((len(found) for found in of_label.values()), default=seeds)
    some = f" ({fewest} in some rows)" if fewest < seeds else ""
    return f"{name}: {counted(images, 'photograph')}, {counted(seeds, 'seed')}{some}"


def _minus(text: str) -> str:
    """The hyphens before numbers as minus signs."""
    return re.sub(r"(?<![\w])-(?=\d)", "−", text)


def ledger(evidence: Evidence | None = None) -> pd.DataFrame:
    """Every claim with its verdict: columns section, claim, verdict, numbers, rests on (what its rule read)."""
    evidence = evidence or collected()
    rows = []
    for claim in CLAIMS:
        own = replace(evidence, read={})
        verdict, numbers = judge(claim, own)
        rests = "; ".join(_basis(evidence, n) for n in own.read if evidence.results.get(n) or evidence.numbers.get(n))
        rows.append((claim.section, claim.sentence, verdict, numbers, rests))
    return pd.DataFrame(rows, columns=["section", "claim", "verdict", "numbers", "rests on"])


def summary(evidence: Evidence | None = None) -> str:
    """What remains of the idea, in a few computed sentences."""
    evidence = evidence or collected()
    parts = {name: judge(Claim("", "", rule), evidence) for name, rule in SUMMARY.items()}
    return "\n".join(f"- **{name}**: {verdict} ({numbers})." for name, (verdict, numbers) in parts.items())


SUMMARY: dict[str, Callable[[Evidence], Finding]] = {
    "Fewer network calls from a better start": _fewer_steps,
    "Better and faster than DDPM on a known target, all time counted": _both,
    "A start for a prior that sees a part of the image": _partial_view,
    "A higher PSNR than DIP's": _over_dip,
    "New images, better and faster": _generates,
    "Better and faster than DDPM where only a measurement is seen": _restores,
    "DIP rather than a start that needs no fit": _dips_start,
    "What theory alone promises": _theory,
}


def _finding_reported(e: Evidence) -> str:
    noise, honest, claimed = (e.number("replay", k) for k in ("noise_psnr", "honest_speed", "claimed_speed"))
    return (
        "**The reported gain is not there**: the writeup's rows for DDPM and DIP+DDPM, −1.22 and −1.20 dB, are what "
        f"pure noise scores ({noise:.2f} dB on our photograph), and its {claimed:.0f}× speed is {honest:.1f}× with "
        "DIP's own time counted."
    )


def _finding_known(e: Evidence) -> str:
    c = e.calls
    verdict = _fewer_steps(e)[0]
    saves = {
        "holds": "saves steps",
        "holds under conditions": "can save steps",
        "not decided": "may save steps",
        "does not hold": "does not save steps",
    }[verdict]
    saves += ", but no time" if c.speed < 1 and verdict != "does not hold" else ""
    slower = f"{1 / c.speed:.0f}" if c.speed < 0.1 else f"{1 / c.speed:.1f}"
    time = f"is {c.speed:.1f} times as fast" if c.speed >= 1 else f"takes {slower} times as long"
    most = f"comes to {c.means.psnr[c.hybrid]:.1f} dB at most, with {c.ours:.0f}"
    need = f"needs {c.ours:.0f} for as much" if c.reached else most
    if (soonest := c.quickest()) != c.hybrid and c.speed < 1:
        sooner = 1 / c.speed_over(soonest, c.ddpm)
        after = " after a shorter fit" if "short fit" in soonest[0] and "short fit" not in c.hybrid[0] else ""
        time += f", or with {counted(c.means.evaluations[soonest], 'call')}{after} {sooner:.1f} times"
    return (
        f"**Done right, a better start {saves}**: on a target that the prior was trained on DDPM comes to "
        f"{c.best:.1f} dB, for which it needs {counted(c.theirs, 'network call')}; DIP+DDPM {need}, from a fit of "
        f"{c.fit:.1f} dB, and with the fit counted {time}."
    )


def _finding_restoration(e: Evidence) -> str:
    speed, n, classical = (e.number("restoration", k) for k in ("speed", "tasks", "above_classical"))
    images, seeds, size = (e.number("restoration", k) for k in ("images", "seeds", "size"))
    leads = {"DDPM": _noted(e, "restoration", "over_ddpm"), "DIP": _noted(e, "restoration", "over_dip")}
    crossed = {name: _noted(e, "restoration", f"over_{name.lower()}_crossed") for name in leads}
    there = {name: _noted(e, "unseen", f"over_{name.lower()}") for name in (*leads, "handed")}
    sure = {name: bool(_all_gain(leads[name], crossed[name], there[name])) for name in leads}
    verdict = {
        (True, True): "is ahead of DIP and of DDPM",
        (False, True): "is ahead of DIP, and of DDPM not surely",
        (True, False): "is ahead of DDPM, and of DIP not surely",
        (False, False): "is not surely ahead",
    }[sure["DDPM"], sure["DIP"]]
    handed = _noted(e, "restoration", "over_handed")
    behind = n > min(e.number("restoration", k) for k in ("above_ddpm", "above_dip"))
    verdict += ", on average and not everywhere" if all(sure.values()) and behind else ""
    mean, low, high = (e.number("restoration", f"chosen_{k}") for k in ("over_ddpm", "low", "high"))
    chosen = Interval(mean, low, high, 0)
    return (
        f"**Where only a measurement is seen, the hybrid {verdict}**: over {_tasks(e)} "
        f"({counted(images, 'photograph')} at {size:.0f}², {counted(seeds, 'seed')}), in {n - classical:.0f} of which "
        f"a classical method is as good, it ends {_db(leads['DIP'])} over DIP, {_db(leads['DDPM'])} over DDPM at "
        f"its best, at {speed:.1f}× the speed, and {_db(handed)} over DDPM's result handed over (one seed); on "
        f"{_unseen(e)} {there['DIP']:+.2f}, {there['DDPM']:+.2f} and {there['handed']:+.2f} dB; with its start chosen "
        f"{_db(chosen)} over DDPM."
    )


def _what_decides(e: Evidence) -> str:
    """How far the leads in restoration depend on what was chosen, and where DIP is the start to choose."""
    median, crossed = (e.number("restoration", f"over_ddpm_{k}") for k in ("median", "crossed"))
    classical = e.number("restoration", "above_classical")
    pairs, won, n = (e.number("restoration", k) for k in ("ddpm_pairs", "ddpm_pairs_ahead", "tasks"))
    level, fits, limit = (e.number("restoration", k) for k in ("chosen_above_classical", "chosen_dip", "dip_limit"))
    part, ours, copy = (e.number("lengths", k) for k in ("part_ddpm", "part_hybrid", "part_blurred"))
    best, of = (e.number("starts", k) for k in ("better", "tasks"))
    own, spectrum, white = (e.number("colour", k) for k in ("own", "spectrum", "white"))
    return (
        f"The lead over DDPM is {median:+.2f} dB in the median of {pairs:.0f} pairs of task and photograph, of which "
        f"the hybrid is ahead in {won:.0f}, and {crossed:+.2f} dB in the mean with a ρ that other photographs chose. "
        f"In {n - classical:.0f} of {n:.0f} tasks a classical method is at least as good as the hybrid from DIP. "
        f"DIP alone may take {limit:.0f} iterations; that fit of DIP's gains {_db(_noted(e, 'restoration', 'whole'))} "
        f"when it is handed over itself. As a start DIP's image is surely ahead of the better one that needs no fit in "
        f"{best:.0f} of {of:.0f} tasks; with the start chosen by the kind of task, DIP's in {fits:.0f}, the result is "
        f"no worse than the classical method in {level:.0f} of {n:.0f}. By the kind of "
        f"the start's error, at one size: one hand-off, each at its best noise level, gains {own:+.1f} dB "
        f"on DIP's image, {spectrum:+.1f} on one whose error has the same size and spectrum and no structure, and "
        f"{white:+.1f} on one whose error is as large and white. On a target that the prior knows, where its "
        f"network lacks its coarsest scales and sees a part of the image only, DDPM comes to {part:.1f} dB at most and "
        f"the hybrid to {ours:.1f} dB; a blurred copy of the target in DIP's place comes to {copy:.1f} dB: such a "
        "start hands the answer over."
    )


FINDING = (_finding_reported, _finding_known, _finding_restoration)


def finding(evidence: Evidence | None = None) -> str:
    """The report in three computed sentences; what has not been measured says so."""
    evidence = evidence or collected()
    return "\n\n".join(_said(sentence, evidence) for sentence in FINDING)


def what_decides(evidence: Evidence | None = None) -> str:
    """What stands behind the finding, in a computed paragraph."""
    return _said(_what_decides, evidence or collected())


def _said(sentence: Callable[[Evidence], str], evidence: Evidence) -> str:
    try:
        return _minus(sentence(evidence))
    except Missing as missing:
        return f"*Not measured yet*: needs the results called {missing}."
