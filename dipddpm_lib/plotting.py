"""Results → ink: what is drawn was measured elsewhere, but for the score of a film's frames.

Every figure, table and film is shown as an HTML <figure> with its caption and alt text, so that JupyterLab and the
report read the same; the report numbers them.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import math
import re
import textwrap
import urllib.parse
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import torch
from IPython.display import HTML, Markdown, display
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image as PIL_Image
from scipy.ndimage import uniform_filter
from torch import Tensor

from . import compute, images, metrics
from .types import Image, Interval, require

# Okabe and Ito's palette: told apart by colour-blind readers and in grey
BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, BLACK, GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#B8A800",
    "#222222",
    "#8A8A8A",
)
COLOURS = {"DIP": BLUE, "DDPM": RED, "DIP+DDPM": GREEN, "classical": ORANGE}
CYCLE = (BLUE, RED, GREEN, ORANGE, PURPLE, SKY, YELLOW, BLACK, GREY)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "h")

SMALL = 160  # pixels; images up to this wide are shown with sharp pixels

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.7,
    "axes.edgecolor": "#666666",
    "axes.axisbelow": True,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.fonttype": "path",
    "svg.hashsalt": "dipddpm",
    "figure.facecolor": "white",
}


def _figure(rows: int, columns: int, width: float, height: float) -> tuple[Figure, np.ndarray]:
    # a bare Figure: pyplot would keep it, and show it a second time
    fig = Figure(figsize=(width, height), layout="constrained")
    return fig, fig.subplots(rows, columns, squeeze=False)


@dataclass(frozen=True)
class Panel:
    """One pair of axes. series: name → (x, y) or (x, y, low, high); a dict keeps the legend's order.

    lines: drawn without markers, because they are sampled densely
    points: drawn without lines on axes of one scale, with the diagonal y = x: an estimate against its truth
    levels: name → y of a dashed horizontal line
    marks: name → x of a dotted vertical line
    """

    series: Mapping[str, tuple[Any, ...]]
    x: str
    y: str
    title: str = ""
    log_x: bool = False
    log_y: bool = False
    lines: bool = False
    points: bool = False
    levels: Mapping[str, float] = field(default_factory=dict)
    marks: Mapping[str, float] = field(default_factory=dict)
    x_ticks: Sequence[float] = ()
    y_ticks: Sequence[float] = ()


def curves(*panels: Panel, width: float = 9.0, height: float = 3.4, columns: int | None = None) -> Figure:
    """Panels side by side, or in rows of `columns`; a place that stays empty takes one legend for all."""
    columns = columns or len(panels)
    rows = math.ceil(len(panels) / columns)
    with mpl.rc_context(STYLE):
        fig, axes = _figure(rows, columns, width, height)
        empty = list(axes.flat)[len(panels) :]
        for ax, panel in zip(axes.flat, panels, strict=False):
            _draw(ax, panel, legend=not empty)
        for ax in empty:
            ax.axis("off")
        if empty:
            empty[0].legend(*axes.flat[0].get_legend_handles_labels(), loc="center left")
    return fig


def _draw(ax: Any, panel: Panel, legend: bool = True) -> None:
    fixed = {COLOURS[name] for name in panel.series if name in COLOURS}
    free = itertools.cycle([colour for colour in CYCLE if colour not in fixed] or CYCLE)
    for i, (name, values) in enumerate(panel.series.items()):
        colour = COLOURS[name] if name in COLOURS else next(free)
        marker = "" if panel.lines else MARKERS[i % len(MARKERS)]
        x, y = values[0], values[1]
        line = "none" if panel.points else "-"
        ax.plot(x, y, linestyle=line, marker=marker, markersize=5, color=colour, label=name)
        if len(values) == 4:
            ax.fill_between(x, values[2], values[3], color=colour, alpha=0.15, linewidth=0)
    if panel.points:
        middle = float(np.mean([np.mean(values[0]) for values in panel.series.values()]))
        other = 2 * middle or 1.0  # a slope says nothing on logarithmic axes
        ax.axline((middle, middle), (other, other), linestyle=(0, (5, 3)), color="#777777", linewidth=1.2)
        ax.set_aspect("equal", adjustable="datalim")
    for i, (name, level) in enumerate(panel.levels.items()):
        ax.axhline(level, linestyle=(0, (5, 3)), color=COLOURS.get(name, "#777777"), linewidth=1.2)
        side = "left" if i % 2 == 0 else "right"
        ax.annotate(
            name,
            (0.01 if side == "left" else 0.99, level),
            xycoords=("axes fraction", "data"),
            ha=side,
            va="bottom",
            fontsize=8,
            color="#444444",
        )
    for i, (name, mark) in enumerate(panel.marks.items()):
        ax.axvline(mark, linestyle=":", color="#444444", linewidth=1.2)
        ax.annotate(
            name,
            (mark, 0.02 + 0.3 * (i % 3)),
            xycoords=("data", "axes fraction"),
            rotation=90,
            ha="right",
            va="bottom",
            fontsize=8,
        )
    if panel.log_x:
        ax.set_xscale("log")
    if panel.log_y:
        ax.set_yscale("log")
    for axis, ticks in ((ax.xaxis, panel.x_ticks), (ax.yaxis, panel.y_ticks)):
        if len(ticks):
            axis.set_ticks(list(ticks), [f"{t:g}" for t in ticks])
            axis.set_minor_locator(mpl.ticker.NullLocator())
        elif axis.get_scale() == "log" and np.ptp(np.log10(axis.get_view_interval())) < 2:
            # few powers of ten, or none, lie in so short a span; matplotlib's names for what is between overlap
            axis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")
            axis.set_minor_formatter(mpl.ticker.NullFormatter())
    ax.set_xlabel(panel.x)
    ax.set_ylabel(panel.y)
    ax.set_title(panel.title)
    if legend and len(panel.series) > 1:
        ax.legend(
            **({"loc": "center left", "bbox_to_anchor": (1.02, 0.5)} if panel.points else {})
        )  # points lie anywhere


def pictures(items: Mapping[str, Image], columns: int = 5, side: float = 1.9, zoom: Collection[str] = ()) -> Figure:
    """A grid of images under their names, pixels left sharp.

    zoom: names of images; under every picture stands the quarter of it (by side) in which these differ most
    """
    with mpl.rc_context(STYLE):
        columns = min(columns, len(items))
        rows = math.ceil(len(items) / columns)
        longest = max(len(part) for name in items for part in name.split("\n"))
        head = 0.42 + 0.16 * (longest // int(13 * side))
        heights = [1.0, 0.62] * rows if zoom else [1.0] * rows
        fig = Figure(figsize=(side * columns, side * sum(heights) + head * rows), layout="constrained")
        axes = fig.subplots(len(heights), columns, squeeze=False, height_ratios=heights)
        for ax in axes.flat:
            ax.axis("off")
        window = _most_different([items[name] for name in zoom]) if zoom else None
        above, below = (axes[::2], axes[1::2]) if zoom else (axes, axes)
        for ax, under, (name, image) in zip(above.flat, below.flat, items.items(), strict=False):
            _draw_picture(ax, image)
            text = "\n".join(textwrap.fill(part, int(13 * side)) for part in _with_minus(name).split("\n"))
            ax.set_title(text, fontsize=8.5, fontweight="normal", loc="center")
            if window is not None:
                top, left, edge = window
                ax.add_patch(
                    Rectangle((left - 0.5, top - 0.5), edge, edge, fill=False, edgecolor=YELLOW, linewidth=1.2)
                )
                _draw_picture(under, image[..., top : top + edge, left : left + edge])
    return fig


def _draw_picture(ax: Any, image: Image) -> None:
    ax.imshow(images.to_array(image), interpolation="nearest" if image.shape[-1] <= SMALL else "antialiased")


def _most_different(pictures: Sequence[Image]) -> tuple[int, int, int]:
    """Top, left and side of the square in which the pictures have the largest variance among themselves."""
    variance = torch.cat(list(pictures)).float().var(dim=0, correction=0).mean(dim=0).numpy()
    height, width = variance.shape
    edge = max(4, min(height, width) // 4)
    # the filter's window starts edge // 2 before its centre; only windows that lie inside the image count
    mean = uniform_filter(variance, edge)[edge // 2 :, edge // 2 :][: height - edge + 1, : width - edge + 1]
    top, left = np.unravel_index(int(np.argmax(mean)), mean.shape)
    return int(top), int(left), edge


def heatmaps(tables: Mapping[str, pd.DataFrame], value: str, fmt: str = ".1f", width: float = 9.0) -> Figure:
    """One map a table, side by side on one colour scale; rows and columns by name, the number in each cell."""
    with mpl.rc_context({**STYLE, "axes.grid": False}):
        rows = max(len(t) for t in tables.values())
        fig, axes = _figure(1, len(tables), width, 0.42 * rows + 1.3)
        low = min(float(np.nanmin(t.to_numpy())) for t in tables.values())
        high = max(float(np.nanmax(t.to_numpy())) for t in tables.values())
        for ax, (title, table) in zip(axes[0], tables.items(), strict=True):
            ax.imshow(table.to_numpy(), cmap="viridis", vmin=low, vmax=high, aspect="auto")
            ax.set_xticks(range(table.shape[1]), [str(c) for c in table.columns])
            ax.set_yticks(range(table.shape[0]), [str(r) for r in table.index])
            ax.set_xlabel(str(table.columns.name or ""))
            ax.set_ylabel(str(table.index.name or ""))
            ax.set_title(title)
            for (i, j), v in np.ndenumerate(table.to_numpy()):
                dark = (v - low) < 0.6 * (high - low)
                ax.text(j, i, format(v, fmt), ha="center", va="center", color="white" if dark else "black", fontsize=9)
            ax.spines[:].set_visible(False)
        fig.suptitle(value, x=0.01, ha="left", fontsize=9.5)
    return fig


def leads(
    tables: Mapping[str, Mapping[str, pd.DataFrame]],
    x: str,
    width: float = 10.0,
    within: tuple[float, float] | None = None,
) -> Figure:
    """Differences by row, one panel a rival: every column a dot, their mean a bar, a line at 0.

    tables: rival → series → differences, the same rows (tasks) in all, a column for each thing they vary over
    within: the ends of the axes; a mean beyond them is written at the end, a dot beyond them stands there as an arrow
    """
    names = list(next(iter(next(iter(tables.values())).values())).index)
    with mpl.rc_context({**STYLE, "axes.grid.axis": "x"}):
        fig, axes = _figure(1, len(tables), width, 0.4 * len(names) + 1.4)
        for ax, (title, series) in zip(axes[0], tables.items(), strict=True):
            apart = np.linspace(-0.18, 0.18, len(series)) if len(series) > 1 else [0.0]
            for i, (name, table) in enumerate(series.items()):
                at = np.arange(len(names)) + apart[i]
                colour = COLOURS.get(name, (PURPLE, SKY, YELLOW)[i % 3])  # no method's
                ax.barh(at, table.mean(axis=1), 0.32, color=colour, alpha=0.45, label=name)
                for mean, y in zip(table.mean(axis=1), at, strict=True):
                    if within and not within[0] <= mean <= within[1]:
                        side, end = ("left", within[0]) if mean < within[0] else ("right", within[1])
                        beside = (5 if side == "left" else -5, 0)  # the arrows of dots stand at the end itself
                        text = f"{mean:+.1f}".replace("-", "−")
                        ax.annotate(
                            text, (end, y), beside, textcoords="offset points", ha=side, va="center", fontsize=8
                        )
                marker = MARKERS[i % len(MARKERS)]
                low, high = within or (-math.inf, math.inf)
                for values in table.to_numpy().T:
                    for x_of, shape in (
                        (np.where((values >= low) & (values <= high), values, np.nan), marker),
                        (np.where(values < low, low, np.nan), "<"),
                        (np.where(values > high, high, np.nan), ">"),
                    ):
                        ax.plot(x_of, at, shape, markersize=3.5, color=colour, clip_on=False)
            ax.axvline(0, color="#444444", linewidth=1.2)
            if within:
                ax.set_xlim(*within)
            ax.set_yticks(range(len(names)), names if ax is axes[0][0] else [""] * len(names))
            ax.set_ylim(len(names) - 0.5, -0.5)
            ax.set_xlabel(x)
            ax.set_title(textwrap.fill(title, int(7.5 * width / len(tables))))
        fig.legend(*axes[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return fig


def show(fig: Figure, label: str, caption: str, alt: str, raster: bool = False, narrow: Figure | None = None) -> None:
    """Display a figure: `label` ("fig-…") is its anchor, `caption` states what it shows, `alt` says what is seen.

    raster: as pixels, for photographs
    narrow: the same, laid out for a telephone's screen
    """
    img = f'<img alt="{escape(alt)}" src="{_drawn(fig, raster)}">'
    if narrow is not None:
        of_telephone = f'<source media="screen and ({NARROW})" srcset="{_drawn(narrow, raster)}">'
        img = f"<picture>{of_telephone}{img}</picture>"
    _display_figure(label, "figure", img, caption)


NARROW = "max-width: 40rem"  # as the page's style sheet has it


def _drawn(fig: Figure, raster: bool) -> str:
    """The figure as a data URL."""
    buffer = io.BytesIO()
    with mpl.rc_context(STYLE):
        if raster:
            kept = {"quality": 82, "method": 6}
            fig.savefig(buffer, format="webp", dpi=110, pil_kwargs=kept, bbox_inches="tight", pad_inches=0.05)
        else:
            fig.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return _data_url(buffer.getvalue(), "image/webp" if raster else "image/svg+xml")


def _img(data: bytes, kind: str, alt: str) -> str:
    return f'<img alt="{escape(alt)}" src="{_data_url(data, kind)}">'


def _data_url(data: bytes, kind: str) -> str:
    if kind == "image/svg+xml":  # as text it is a quarter shorter than in base64
        text = re.sub(r"<!--.*?-->", "", data.decode(), flags=re.DOTALL)
        text = _shorter(text)
        text = text if "'" in text else text.replace('"', "'")
        content = "," + urllib.parse.quote(re.sub(r"\n\s*", " ", text), safe=" ',:;=/()!*$@?+~")
    else:
        content = ";base64," + base64.b64encode(data).decode()
    return f"data:{kind}{content}"


def _shorter(svg: str) -> str:
    """Without what nobody sees: thousandths of a point, the names of groups, spaces beside a path's commands."""
    svg = re.sub(r"(?<!scale\()\b(\d+\.\d\d)\d+", r"\1", svg)  # a glyph's scale is no place, and stays whole
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    return re.sub(r'(?<= d=")[^"]*', lambda path: re.sub(r"\s*([MLQCz])\s*", r"\1", path[0]), svg)


def _display_figure(label: str, kind: str, body: str, caption: str) -> None:
    said = escape(_with_minus(caption))
    display(HTML(f'<figure id="{escape(label)}" class="{kind}">{body}<figcaption>{said}</figcaption></figure>'))


def film(
    frames: Tensor, label: str, caption: str, alt: str, target: Image | None = None, side: int = 256, most: int = 12
) -> None:
    """Frames (k, 3, h, w) uint8 under a slider, at most `most` of them, with their PSNR where the target is given.

    The last is shown first; paper gets a strip. side: of the picture, the longer one, in pixels
    """
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(most, len(frames))).round().astype(int))
    shown = []
    for i, index in enumerate(chosen, start=1):
        buffer = io.BytesIO()
        picture = PIL_Image.fromarray(frames[index].permute(1, 2, 0).numpy())
        shown_at = [max(1, round(length * side / max(picture.size))) for length in picture.size]
        picture.resize(shown_at, PIL_Image.Resampling.NEAREST).save(buffer, "WEBP", quality=85)
        hidden = "" if i == len(chosen) else " hidden"
        name = f"frame {i} of {len(chosen)}"
        if target is not None:
            name += f", {metrics.psnr(frames[index : index + 1] / 127.5 - 1, target):.1f} dB"
        img = _img(buffer.getvalue(), "image/webp", f"{alt}, {name}")
        shown.append(f'<div class="frame"{hidden}>{img}<span>{name}</span></div>')
    _display_figure(
        label, "figure film", "".join(shown) + _slider(alt, len(shown) - 1, len(shown) - 1, SHOW_FRAME), caption
    )


# the only scripts of a figure, for JupyterLab; the report's page has its own and drops these
SHOW_FRAME = "const f=this.closest('figure').querySelectorAll('.frame');f.forEach((e,i)=>{e.hidden=i!=this.value})"
MOVE_SPLIT = "this.closest('figure').style.setProperty('--split',this.value+'%')"


def _slider(label: str, most: int, value: int, handler: str) -> str:
    return (
        f'<input type="range" min="0" max="{most}" value="{value}" '
        f'aria-label="{escape(label)}" oninput="{escape(handler)}">'
    )


def compare(left: tuple[str, Image], right: tuple[str, Image], label: str, caption: str, alt: str) -> None:
    """Two images of one size on top of each other, a slider moves the line between them; paper gets them side by side.

    left, right: name and image
    """
    shapes = [f"{name} {tuple(image.shape)}" for name, image in (left, right)]
    require(left[1].shape == right[1].shape, f"compare: expected images of one shape, got {' and '.join(shapes)}")
    # JupyterLab has not the page's style sheet, so what lays the two on each other is written here
    over = "position:absolute;inset:0;z-index:1;clip-path:inset(0 calc(100% - var(--split,50%)) 0 0)"
    sides = "".join(
        f'<div class="side" style="{style}">{_sharp(image, f"{alt}, {name}")}<span>{escape(name)}</span></div>'
        for (name, image), style in ((left, over), (right, ""))
    )
    pair = f'<div class="pair" style="position:relative;max-width:{COMPARED}px">{sides}</div>'
    slider = _slider(f"{left[0]} to the left of the line, {right[0]} to the right, in percent", 100, 50, MOVE_SPLIT)
    _display_figure(label, "figure compare", pair + slider, caption)


COMPARED = 480  # pixels, the width of a comparison


def _sharp(image: Image, alt: str) -> str:
    """An <img> that fills its place; small images keep their pixels, which the browser enlarges."""
    buffer = io.BytesIO()
    small = image.shape[-1] <= SMALL
    PIL_Image.fromarray(images.to_array(image)).save(buffer, "WEBP", lossless=small, quality=85)
    style = "display:block;width:100%" + (";image-rendering:pixelated" if small else "")
    return _img(buffer.getvalue(), "image/webp", alt).replace("<img", f'<img style="{style}"', 1)


FORMATS = {
    "PSNR (dB)": ".2f",
    "SSIM": ".3f",
    "fit (s)": ".2f",
    "sampling (s)": ".2f",
    "total (s)": ".2f",
    "network calls": ".0f",
    "iterations": ".0f",
    "parameters": ",.0f",
    "peak memory (MiB)": ".0f",
    "t at the start": ".0f",
    "RMSE of the fit": ".3f",
    "RMSE, estimated": ".3f",
}
"""How the columns of `evidence.COLUMNS` are written."""


def table(
    frame: pd.DataFrame,
    label: str,
    caption: str,
    formats: Mapping[str, str] | None = None,
    best: Mapping[str, str] | None = None,
    best_of_row: Sequence[str] = (),
) -> None:
    """Display a table. Numbers of a column stand with their decimal points above each other.

    formats:     by column (".2f"), beside those of `FORMATS`
    best:        columns whose "max" or "min" is set bold; of intervals, that mean and all that overlap its interval
    best_of_row: columns of which the largest is set bold in every row
    The caption ends with what bold says.
    """
    formats, best = {**FORMATS, **(formats or {})}, best or {}
    columns = {c: _aligned([_parts(v, formats.get(str(c), "")) for v in frame[c]]) for c in frame.columns}
    bold = {(row, c) for c, rule in best.items() for row in _best_rows(frame[c], rule)}
    for row, values in enumerate(frame[list(best_of_row)].to_numpy()):
        largest = max((v for v in values if not pd.isna(v)), default=None)
        bold |= {(row, c) for c, v in zip(best_of_row, values, strict=True) if v == largest}
    head = "".join(f'<th scope="col">{escape(str(c))}</th>' for c in frame.columns)
    rows = []
    for row in range(len(frame)):
        cells = []
        for column, texts in columns.items():
            text = f"<strong>{texts[row]}</strong>" if (row, column) in bold else texts[row]
            numeric = isinstance(frame[column].iloc[row], int | float | Interval | np.number)
            cells.append(f"<td{' class=number' if numeric else ''}>{text}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    body = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    if best:
        caption += " Bold: the best of its column, and all whose interval meets its own."
    if best_of_row:
        numbers = [c for c in frame.columns if pd.api.types.is_numeric_dtype(frame[c])]
        aside = [str(c) for c in numbers if c not in best_of_row]
        left_out = f" ({' and '.join(aside)} not counted)" if aside else ""
        caption += f" Bold: the highest of its row{left_out}."
    _display_figure(label, "table", body, caption)


def _best_rows(column: pd.Series, rule: str) -> list[int]:
    """The rows that the rule ("max" or "min") sets bold."""
    spans = [(v.mean, v.low, v.high) if isinstance(v, Interval) else (float(v),) * 3 for v in column]
    mean, low, high = max(
        (s for s in spans if not math.isnan(s[0])),
        key=lambda s: s[0] if rule == "max" else -s[0],
        default=(math.nan,) * 3,
    )
    # without bounds NaN compares as false, and only equal means are level
    return [i for i, s in enumerate(spans) if s[0] == mean or (s[1] <= high and s[2] >= low and low < high)]


FIGURE_SPACE = "\u2007"  # as wide as a digit


def _parts(value: Any, fmt: str) -> tuple[str, str]:
    """A value as text, and the bounds in brackets behind it."""
    if isinstance(value, Interval):
        mean, _, bounds = format(value, fmt).partition(" ")
        return mean, bounds
    return _formatted(value, fmt), ""


def _aligned(cells: Sequence[tuple[str, str]]) -> list[str]:
    """One column's cells as HTML, filled up with spaces as wide as digits so that points and bounds align."""
    decimals = [len(text.partition(".")[2]) if DECIMAL.fullmatch(text) else 0 for text, _ in cells]
    pointed = [bool(DECIMAL.fullmatch(text)) and "." in text for text, _ in cells]
    widths = [
        max((len(part) for part in parts), default=0) for parts in zip(*(_bounds(b) for _, b in cells), strict=True)
    ]
    out = []
    for (text, bounds), places, point in zip(cells, decimals, pointed, strict=True):
        html = escape(text)
        if DECIMAL.fullmatch(text):
            # the point itself is narrower than a digit: U+2008 is as wide as it
            html += ("" if point or not any(pointed) else "\u2008") + FIGURE_SPACE * (max(decimals) - places)
        if any(widths):
            low, high = (part.rjust(width, FIGURE_SPACE) for part, width in zip(_bounds(bounds), widths, strict=True))
            missing = "" if bounds else ' style="visibility:hidden" aria-hidden="true"'
            html += f' <span class="bounds"{missing}>[{escape(low)}, {escape(high)}]</span>'
        out.append(html)
    return out


DECIMAL = re.compile(r"[+−]?[\d,]+(\.\d+)?")


def _bounds(text: str) -> tuple[str, str]:
    low, _, high = text.strip("[]").partition(", ")
    return low, high


def _formatted(value: Any, fmt: str) -> str:
    if value is None or (isinstance(value, float | np.floating) and math.isnan(value)):
        return "–"
    if isinstance(value, float | int | np.number) and not isinstance(value, bool) and fmt:
        text = format(value, fmt).replace("-", "−")
        return text.lstrip("−") if not re.search("[1-9]", text) else text  # no −0.00
    return str(value)


def _with_minus(text: str) -> str:
    """Hyphens before numbers as minus signs, but for code."""
    return re.sub(r"(?<![\w`-])-(?=\d)", "−", text)


def say(text: str) -> None:
    """A paragraph of computed prose, in Markdown; hyphens before numbers become minus signs."""
    display(Markdown(_with_minus(text)))


def settings(**values: Any) -> None:
    """What this notebook ran with: its parameters, and the machine."""
    made_on = {**compute.machine(), **compute.versions()}
    rows = [("settings", values), ("machine", made_on)]
    items = "".join(
        f"<tr><th scope='row'>{name}</th><td>{escape(', '.join(f'{k} = {v}' for k, v in entries.items()))}</td></tr>"
        for name, entries in rows
    )
    record = {k: str(v) for k, v in made_on.items()}
    bundle = {
        "text/html": f'<table class="settings"><tbody>{items}</tbody></table>',
        "application/vnd.dipddpm.record+json": json.dumps(record),
    }
    display(bundle, raw=True)
