"""What is drawn is what was given: captions and names as text, the same bytes each time, numbers as written."""

from __future__ import annotations

import base64
import hashlib
import inspect
import io
import json
import math
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from IPython.display import HTML, Markdown
from lxml import etree, html
from matplotlib.figure import Figure
from PIL import Image as PIL_Image
from torch import Tensor

import dipddpm_lib
from dipddpm_lib import compute, evidence, images, plotting
from dipddpm_lib.plotting import Panel, compare, curves, film, heatmaps, pictures, say, settings, show, table
from dipddpm_lib.types import InputError, Interval

EVIL = '"><img src=x onerror=alert(1)>'
NAN = math.nan


@pytest.fixture(autouse=True)
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Everything that was displayed, in order."""
    monkeypatch.setenv("DIPDDPM_STORE", str(tmp_path / "store"))
    seen: list[Any] = []
    monkeypatch.setattr(plotting, "display", lambda value, **how: seen.append((value, how) if how else value))
    return seen


@pytest.fixture
def page(shown: list[Any]) -> Callable[[], html.HtmlElement]:
    """The last figure displayed, parsed."""

    def last() -> html.HtmlElement:
        assert isinstance(shown[-1], HTML)
        return html.fragment_fromstring(shown[-1].data)

    return last


def sample() -> Figure:
    x = [1.0, 10.0, 100.0]
    up, down, low, high = [1.0, 2.0, 3.0], [3.0, 2.0, 4.0], [2.0, 1.0, 3.0], [4.0, 3.0, 5.0]
    left = Panel({"DIP": (x, up), "other": (x, down, low, high)}, "T", "PSNR (dB)", "t", log_x=True)
    marked: dict[str, Any] = {"levels": {"best": 2.5}, "marks": {"here": 10.0}, "x_ticks": x}
    return curves(left, Panel({"a": (x, up)}, "s", "y", lines=True, log_y=True, **marked))


def picture(value: float = 0.0) -> Tensor:
    return torch.full((1, 3, 16, 16), value)


# ---- figures


def test_a_figure_has_anchor_caption_and_alt_text(page: Callable[[], html.HtmlElement]) -> None:
    for raster, kind, start in ((False, "image/svg+xml", b"<?xml"), (True, "image/webp", b"RIFF")):
        show(sample(), "fig-a", "It rises.", "two curves", raster)
        figure = page()
        assert (figure.tag, figure.get("id"), figure.get("class")) == ("figure", "fig-a", "figure")
        assert [e.text for e in figure.findall("figcaption")] == ["It rises."]
        (img,) = figure.iter("img")
        assert img.get("alt") == "two curves"
        assert img.get("src").startswith(f"data:{kind}")
        with urllib.request.urlopen(img.get("src")) as content:
            assert content.headers.get_content_type() == kind
            data = content.read()
        assert data.startswith(start)
        if not raster:
            assert etree.fromstring(data).tag == "{http://www.w3.org/2000/svg}svg"


def test_a_figure_of_lines_is_written_short_and_draws_the_same() -> None:
    figure = sample()
    plain = io.StringIO()
    figure.savefig(plain, format="svg")
    short = plotting._shorter(plain.getvalue())
    assert len(short) < 0.9 * len(plain.getvalue())
    both = [etree.fromstring(text.encode()) for text in (plain.getvalue(), short)]
    for name in ("path", "use", "g", "clipPath"):
        assert len({len(root.findall(f".//{{*}}{name}")) for root in both}) == 1
    number = re.compile(r"-?\d+(?:\.\d+)?")
    for attribute in ("d", "x", "y", "transform", "style", "clip-path", "id"):
        long, brief = ([e.get(attribute) for e in root.iter() if e.get(attribute)] for root in both)
        if attribute == "id":
            assert {*brief} < {*long}
            used = {e.get("{http://www.w3.org/1999/xlink}href", "#")[1:] for e in both[1].iter("{*}use")}
            assert used <= {*brief}, "what is drawn by name has kept it"
            continue
        for whole, rounded in zip(long, brief, strict=True):
            a, b = ([float(n) for n in number.findall(text)] for text in (whole, rounded))
            assert a == pytest.approx(b, abs=0.01)
            assert re.sub(r"[\d.\s-]", "", whole) == re.sub(r"[\d.\s-]", "", rounded)


BEST_OF_COLUMN = " Bold: the best of its column, and all whose interval meets its own."


def test_what_is_written_is_text(page: Callable[[], html.HtmlElement]) -> None:
    frame = pd.DataFrame({EVIL: [EVIL], "n": [1.0]})
    for act in (
        lambda: show(pictures({EVIL: picture()}), EVIL, EVIL, EVIL),
        lambda: show(curves(Panel({EVIL: ([1.0], [1.0])}, EVIL, EVIL, EVIL, levels={EVIL: 1.0})), EVIL, EVIL, EVIL),
        lambda: table(frame, EVIL, EVIL, best={"n": "max"}),
        lambda: film(torch.zeros(2, 3, 16, 16, dtype=torch.uint8), EVIL, EVIL, EVIL),
        lambda: compare((EVIL, picture()), (EVIL, picture()), EVIL, EVIL, EVIL),
    ):
        act()
        figure = page()
        assert figure.get("id") == EVIL
        assert figure.find("figcaption").text_content() == EVIL + (
            BEST_OF_COLUMN if figure.find(".//table") is not None else ""
        )
        for element in figure.iter():
            assert "onerror" not in element.attrib
            assert element.get("src", "data:").startswith("data:")
            assert element.tag in {
                *("figure", "figcaption", "img", "div", "span", "input"),
                *("table", "thead", "tbody", "tr", "th", "td", "strong"),
            }
    table(frame, "tab-a", "…")
    assert page().find(".//th").text_content() == EVIL
    assert page().find(".//td").text_content() == EVIL


def test_settings_are_text_too_and_carry_the_record(shown: list[Any]) -> None:
    settings(image=EVIL, size=32)
    ((bundle, how),) = shown
    assert how == {"raw": True}
    tree = html.fragment_fromstring(bundle["text/html"])
    assert {e.tag for e in tree.iter()} == {"table", "tbody", "tr", "th", "td"}
    first, second = (row.find("td").text_content() for row in tree.iter("tr"))
    assert first == f"image = {EVIL}, size = 32"
    record = json.loads(bundle["application/vnd.dipddpm.record+json"])
    assert record == {k: str(v) for k, v in {**compute.machine(), **compute.versions()}.items()}
    assert all(f"{k} = {v}" in second for k, v in record.items())


def test_prose_is_markdown(shown: list[Any]) -> None:
    say("**3** dB")
    assert isinstance(shown[0], Markdown)
    assert shown[0].data == "**3** dB"


# run here and in a process of its own, with other hashes and nothing imported before
DRAW = """
def draw():
    x, up, low, high = [1.0, 10.0, 100.0], [1.0, 2.0, 3.0], [0.0, 1.0, 2.0], [2.0, 3.0, 4.0]
    frame = pd.DataFrame([[1.0, 2.0], [3.0, 4.5]], index=["a", "b"], columns=["c", "d"])
    flat = torch.zeros(1, 3, 16, 16)
    panel = plotting.Panel({"DIP": (x, up, low, high), "b": (x, x)}, "x", "y", "t", log_x=True,
                           levels={"l": 2.0}, marks={"m": 10.0}, x_ticks=x)
    plotting.show(plotting.curves(panel, panel), "fig-a", "c", "a")
    plotting.show(plotting.heatmaps({"t": frame}, "v"), "fig-b", "c", "a")
    plotting.show(plotting.pictures({"p": flat, "q": flat + 0.5}), "fig-c", "c", "a")
    plotting.show(plotting.pictures({"p": flat, "q": flat + 0.5}), "fig-d", "c", "a", raster=True)
    plotting.film(torch.zeros(3, 3, 16, 16, dtype=torch.uint8), "fig-e", "c", "a")
    plotting.compare(("p", flat), ("q", flat + 0.5), "fig-f", "c", "a")
    plotting.show(plotting.pictures({"p": flat, "q": flat + 0.5}, zoom=("p", "q")), "fig-g", "c", "a", raster=True)
    plotting.table(frame, "tab-a", "c")
"""

ALONE = """
import hashlib, sys
import pandas as pd, torch
from dipddpm_lib import plotting
seen = []
plotting.display = lambda value, **how: seen.append(value.data)
before = plotting.mpl.rcParams.copy()  # dict() would resolve the backend, and so import pyplot
draw()
assert "matplotlib.pyplot" not in sys.modules, "pyplot keeps figures, and shows them again"
assert plotting.mpl.rcParams.copy() == before
print(*(hashlib.sha256(s.encode()).hexdigest() for s in seen))
"""


def test_figures_are_the_same_bytes_each_time_and_pyplot_is_left_alone(shown: list[Any]) -> None:
    scope: dict[str, Any] = {"pd": pd, "torch": torch, "plotting": plotting}
    exec(DRAW, scope)
    before = mpl.rcParams.copy()
    scope["draw"]()
    first = [hashlib.sha256(s.data.encode()).hexdigest() for s in shown]
    shown.clear()
    scope["draw"]()
    assert [hashlib.sha256(s.data.encode()).hexdigest() for s in shown] == first
    assert mpl.rcParams.copy() == before
    done = subprocess.run(
        [sys.executable, "-c", DRAW + ALONE],
        cwd=Path(dipddpm_lib.__file__).parents[1],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == first


# ---- what is in them


def test_curves_draw_what_they_are_given() -> None:
    left, right = sample().axes
    first, second = left.get_lines()
    assert first.get_xydata().tolist() == [[1, 1], [10, 2], [100, 3]]
    assert (first.get_color(), second.get_color()) == (plotting.COLOURS["DIP"], plotting.CYCLE[1])
    assert first.get_marker() != second.get_marker(), "told apart without colour"
    (band,) = left.collections
    assert band.get_paths()[0].get_extents().bounds == (1, 1, 99, 4)
    assert (left.get_xscale(), left.get_yscale(), right.get_yscale()) == ("log", "linear", "log")
    assert (left.get_xlabel(), left.get_ylabel(), left.get_title(loc="left")) == ("T", "PSNR (dB)", "t")
    assert [t.get_text() for t in left.get_legend().get_texts()] == ["DIP", "other"]
    assert right.get_legend() is None, "one curve needs none"
    assert right.get_lines()[0].get_marker() == ""
    assert {t.get_text() for t in right.texts} == {"best", "here"}
    assert list(right.get_xticks()) == [1, 10, 100]


def test_pictures_show_every_pixel_under_its_name() -> None:
    x = images.load("coffee", 32)
    fig = pictures({f"p{i}": x * (i / 7) for i in range(7)}, columns=3)
    assert len(fig.axes) == 9
    for i, ax in enumerate(fig.axes):
        assert not ax.axison
        if i < 7:
            assert np.array_equal(ax.get_images()[0].get_array(), images.to_array(x * (i / 7)))
            assert ax.get_title() == f"p{i}"
        else:
            assert ax.get_images() == []


def test_the_zoom_shows_where_the_named_pictures_differ() -> None:
    x = images.load("coffee", 32)
    a, b = x.clone(), x.clone()
    a[..., 20:28, 4:12] = 1.0
    b[..., 20:28, 4:12] = -1.0
    noise = torch.rand(x.shape, generator=compute.generator(0, "zoom")) * 2 - 1  # not named, so it decides nothing
    fig = pictures({"x": x, "noise": noise, "a": a, "b": b}, columns=2, zoom=("a", "b"))
    assert [len(ax.get_images()) for ax in fig.axes] == [1] * 8, "two rows of pictures, each with its crops below"
    crops = [fig.axes[i].get_images()[0].get_array() for i in (2, 3, 6, 7)]
    for crop, image in zip(crops, (x, noise, a, b), strict=True):
        assert np.array_equal(crop, images.to_array(image)[20:28, 4:12])
    (frame,) = fig.axes[0].patches
    assert frame.get_bbox().bounds == (3.5, 19.5, 8, 8), "the frame stands around the same pixels"


@pytest.mark.parametrize("corner", [(0, 0), (0, 24), (24, 0), (24, 24)])
def test_the_zoom_reaches_every_corner(corner: tuple[int, int]) -> None:
    a, b = picture().new_zeros(1, 3, 32, 32), picture().new_zeros(1, 3, 32, 32)
    b[..., corner[0] : corner[0] + 8, corner[1] : corner[1] + 8] = 1.0
    assert plotting._most_different([a, b]) == (*corner, 8)


def test_heatmaps_share_one_scale_and_write_their_numbers() -> None:
    a = pd.DataFrame([[1.0, 2.0]], index=["r"], columns=[10, 20]).rename_axis(index="ρ", columns="steps")
    fig = heatmaps({"a": a, "b": a + 5}, "PSNR (dB)")
    assert [[t.get_text() for t in ax.texts] for ax in fig.axes] == [["1.0", "2.0"], ["6.0", "7.0"]]
    assert {ax.get_images()[0].get_clim() for ax in fig.axes} == {(1.0, 7.0)}
    assert [t.get_text() for t in fig.axes[0].get_xticklabels()] == ["10", "20"]
    assert (fig.axes[0].get_xlabel(), fig.axes[0].get_ylabel()) == ("steps", "ρ")


def test_leads_are_means_as_bars_and_dots_for_what_they_vary_over() -> None:
    a = pd.DataFrame({"coffee": [1.0, -2.0], "rocket": [3.0, 0.0]}, index=["blur", "holes"])
    fig = plotting.leads(
        {"over DIP": {"DIP+DDPM": a, "chosen": a + 1}, "over DDPM": {"DIP+DDPM": -a, "chosen": a}}, "dB"
    )
    first, second = fig.axes
    assert [bar.get_width() for bar in first.patches] == [2.0, -1.0, 3.0, 0.0]
    dots = [line for line in first.lines if line.get_linestyle() == "None" or line.get_marker() not in ("None", "")]
    drawn = [float(x) for line in dots for x in line.get_xdata() if not math.isnan(x)]
    assert sorted(drawn) == sorted([1, -2, 3, 0, 2, -1, 4, 1])
    assert [t.get_text() for t in first.get_yticklabels()] == ["blur", "holes"]
    assert {t.get_text() for t in second.get_yticklabels()} == {""}, "the rows are named once"
    assert first.get_ylim() == (1.5, -0.5), "in the order of the rows, from above"
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["over DIP", "over DDPM"]
    cut = plotting.leads({"over DIP": {"DIP+DDPM": a * 4}}, "dB", within=(-3.0, 9.0)).axes[0]
    assert cut.get_xlim() == (-3.0, 9.0)
    assert [t.get_text() for t in cut.texts] == ["−4.0"], "a mean beyond the axis is written"
    at = {(line.get_marker(), float(x)) for line in cut.lines for x in line.get_xdata() if len(line.get_xdata()) == 2}
    at = {(marker, x) for marker, x in at if marker != "None" and not math.isnan(x)}
    assert at == {("o", 4.0), ("o", 0.0), ("<", -3.0), (">", 9.0)}, "and a dot beyond it is an arrow"
    (legend,) = fig.legends
    assert [t.get_text() for t in legend.get_texts()] == ["DIP+DDPM", "chosen"]


@pytest.mark.parametrize(
    ("values", "ticks"), [((9.0, 77.0), ["10", "20", "50"]), ((0.03, 0.4), ["0.05", "0.1", "0.2"]), ((1.0, 1e4), None)]
)
def test_a_short_logarithmic_axis_names_its_ticks_in_full(values: tuple[float, float], ticks: list[str] | None) -> None:
    ax = curves(Panel({"a": (np.array(values), np.array([1.0, 2.0]))}, "x", "y", log_x=True)).axes[0]
    ax.figure.canvas.draw()
    low, high = ax.get_xlim()
    seen = [t.get_text() for t in ax.get_xticklabels() if low <= t.get_position()[0] <= high]
    small = [t.get_text() for t in ax.get_xticklabels(minor=True) if t.get_text()]
    if ticks is None:
        assert all("10" in text for text in seen), "powers of ten, as matplotlib writes them"
    else:
        assert (seen, small) == (ticks, [])


# ---- films


@pytest.mark.parametrize("count", [1, 2, 7, 12, 31])
def test_a_film_shows_its_last_frame(count: int, page: Callable[[], html.HtmlElement]) -> None:
    frames = torch.stack([torch.full((3, 16, 16), 8 * i, dtype=torch.uint8) for i in range(count)])
    film(frames, "fig-film", "It clears.", "an image")
    figure = page()
    assert figure.get("class") == "figure film"
    shown = [e for e in figure.iter("div") if e.get("class") == "frame"]
    most = inspect.signature(film).parameters["most"].default
    assert len(shown) == min(count, most)
    assert [e.get("hidden") is None for e in shown] == [False] * (len(shown) - 1) + [True]
    (slider,) = figure.iter("input")
    assert (slider.get("type"), slider.get("min")) == ("range", "0")
    assert slider.get("max") == slider.get("value") == str(len(shown) - 1)
    assert slider.get("aria-label") == "an image"
    greys = []
    for i, element in enumerate(shown, start=1):
        img = element.find("img")
        assert img.get("alt") == f"an image, frame {i} of {len(shown)}"
        data = base64.b64decode(img.get("src").removeprefix("data:image/webp;base64,"))
        greys.append(float(np.array(PIL_Image.open(io.BytesIO(data))).mean()))
    assert greys[0] == pytest.approx(0, abs=3), "WebP loses a little"
    assert greys[-1] == pytest.approx(8 * (count - 1), abs=3)
    assert greys == sorted(greys)


def test_a_films_frames_are_scored_where_the_target_is_known(page: Callable[[], html.HtmlElement]) -> None:
    frames = torch.stack([torch.full((3, 16, 16), grey, dtype=torch.uint8) for grey in (0, 102)])
    film(frames, "fig-film", "It clears.", "an image", torch.zeros(1, 3, 16, 16))
    # grey 102 is −0.2 of a range of 2: a tenth of it, 20 dB
    shown = [e.findtext("span") for e in page().iter("div") if e.get("class") == "frame"]
    assert shown == ["frame 1 of 2, 6.0 dB", "frame 2 of 2, 20.0 dB"]


def test_a_film_keeps_a_rectangles_shape(page: Callable[[], html.HtmlElement]) -> None:
    film(torch.zeros(2, 3, 16, 48, dtype=torch.uint8), "fig-film", "It clears.", "an image", side=96)
    sources = [e.get("src") for e in page().iter("img")]
    sizes = {PIL_Image.open(io.BytesIO(base64.b64decode(s.split(",", 1)[1]))).size for s in sources}
    assert sizes == {(96, 32)}


# ---- comparisons


def test_a_comparison_lays_two_images_on_each_other(page: Callable[[], html.HtmlElement]) -> None:
    x = images.load("coffee", 32)
    compare(("DIP", x), ("DIP+DDPM", x.flip(-1)), "fig-c", "It clears.", "coffee")
    figure = page()
    assert figure.get("class") == "figure compare"
    assert [e.text for e in figure.findall(".//div/span")] == ["DIP", "DIP+DDPM"]
    first, second = figure.iter("img")
    assert [img.get("alt") for img in (first, second)] == ["coffee, DIP", "coffee, DIP+DDPM"]
    for img, image in ((first, x), (second, x.flip(-1))):
        data = base64.b64decode(img.get("src").removeprefix("data:image/webp;base64,"))
        assert np.array_equal(np.array(PIL_Image.open(io.BytesIO(data))), images.to_array(image)), "small: lossless"
    (slider,) = figure.iter("input")
    assert (slider.get("type"), slider.get("value"), slider.get("max")) == ("range", "50", "100")
    assert slider.get("oninput") == plotting.MOVE_SPLIT


@pytest.mark.usefixtures("unchecked")
def test_images_of_two_shapes_cannot_be_compared() -> None:
    with pytest.raises(InputError, match=r"one shape, got a \(1, 3, 16, 16\) and b \(1, 3, 8, 8\)"):
        compare(("a", picture()), ("b", picture()[..., :8, :8]), "fig-c", "…", "…")


# ---- tables


def cells(figure: html.HtmlElement) -> list[list[str]]:
    """What is seen, without the spaces that align it."""
    for hidden in figure.xpath(".//span[@aria-hidden]"):
        hidden.drop_tree()
    rows = figure.find(".//tbody").iter("tr")
    return [[c.text_content().strip(" \u2007\u2008").replace("\u2007", "") for c in row.iter("td")] for row in rows]


def bold(figure: html.HtmlElement) -> list[str]:
    return [e.text_content() for e in figure.iter("strong")]


def test_numbers_are_written_as_asked(page: Callable[[], html.HtmlElement]) -> None:
    frame = pd.DataFrame(
        {
            "name": ["a-b", "c"],
            "x": [-1.234, NAN],
            "i": [Interval(-0.5, -1.25, 0.25, 3), Interval(2.0, NAN, NAN, 1)],
            "big": [1234567, 8],
            "none": [None, "here"],
            "yes": [True, False],
        }
    )
    table(frame, "tab-a", "Numbers.", {"x": ".2f", "i": ".1f", "big": ",.0f", "yes": ".1f"})
    figure = page()
    assert (figure.get("id"), figure.get("class")) == ("tab-a", "table")
    assert [e.text for e in figure.iter("th")] == list(frame.columns)
    assert cells(figure) == [
        ["a-b", "−1.23", "−0.5 [−1.2, 0.2]", "1,234,567", "–", "True"],
        ["c", "–", "2.0", "8", "here", "False"],
    ]
    numbers = [[c.get("class") for c in row.iter("td")] for row in figure.find(".//tbody").iter("tr")]
    assert [row[:4] for row in numbers] == [[None, "number", "number", "number"]] * 2


def test_nan_of_any_width_is_a_dash(page: Callable[[], html.HtmlElement]) -> None:
    for value in (NAN, np.float32(NAN), np.float64(NAN), None):
        table(pd.DataFrame({"x": pd.Series([value, "text"], dtype=object)}), "tab-a", "…", {"x": ".1f"})
        assert cells(page())[0] == ["–"]


def test_the_best_is_bold_by_its_rule(page: Callable[[], html.HtmlElement]) -> None:
    frame = pd.DataFrame({"m": list("abc"), "psnr": [20.0, 25.0, NAN], "s": [3.0, 1.0, 1.0], "other": [9.0, 8.0, 7.0]})
    table(frame, "tab-a", "…", {"psnr": ".1f", "s": ".1f"}, {"psnr": "max", "s": "min"})
    assert bold(page()) == ["25.0", "1.0", "1.0"], "a tie has two winners, NaN none"
    table(frame, "tab-a", "…", {"psnr": ".1f"}, {"psnr": "min"})
    assert bold(page()) == ["20.0"]
    table(frame, "tab-a", "…")
    assert bold(page()) == []


def test_of_intervals_all_that_reach_the_best_are_bold(page: Callable[[], html.HtmlElement]) -> None:
    spans = [Interval(20.0, 19.0, 21.0, 3), Interval(19.0, 18.0, 20.0, 3), Interval(17.0, 16.0, 18.5, 3)]
    table(pd.DataFrame({"p": spans}), "tab-a", "…", {"p": ".1f"}, {"p": "max"})
    assert [text.split()[0] for text in bold(page())] == ["20.0", "19.0"], "the second's interval overlaps the first's"
    alone = [Interval(v, NAN, NAN, 1) for v in (20.0, 19.0)]
    table(pd.DataFrame({"p": alone}), "tab-a", "…", {"p": ".1f"}, {"p": "max"})
    assert bold(page()) == ["20.0"]


def test_decimal_points_and_bounds_stand_above_each_other(page: Callable[[], html.HtmlElement]) -> None:
    spans = [Interval(9.5, 8.25, 10.0, 3), Interval(-10.25, -11.0, -9.5, 3), Interval(3.0, NAN, NAN, 1)]
    table(pd.DataFrame({"x": [0.5, 10, 0.125], "p": spans}), "tab-a", "…", {"p": ".2f"})
    rows = [[c.text_content() for c in row.iter("td")] for row in page().find(".//tbody").iter("tr")]
    x, p = zip(*rows, strict=True)
    assert len({len(text) - text.index(".") for text in x}) == 1, "as many places behind the point, right-aligned"
    assert len({len(text) for text in (t.partition(" ")[2] for t in p)}) == 1, "bounds are of one width"
    assert p[1] == "−10.25 [−11.00, −9.50]"
    assert p[0] == "9.50 [\u2007\u20078.25, 10.00]"


def test_the_best_of_a_row_is_bold_whatever_is_missing(page: Callable[[], html.HtmlElement]) -> None:
    frame = pd.DataFrame({"task": list("abc"), "u": [1.0, NAN, NAN], "v": [2.0, 3.0, NAN], "w": [99.0, 99.0, 99.0]})
    table(frame, "tab-a", "…", {"u": ".0f", "v": ".0f"}, best_of_row=("u", "v"))
    found = page()
    assert bold(found) == ["2", "3"]
    assert found.find("figcaption").text_content().endswith(" Bold: the highest of its row (w not counted).")
    table(frame.drop(columns="w"), "tab-a", "…", {"u": ".0f", "v": ".0f"}, best_of_row=("u", "v"))
    assert page().find("figcaption").text_content() == "… Bold: the highest of its row."


def test_the_experiments_columns_have_formats(page: Callable[[], html.HtmlElement]) -> None:
    assert set(plotting.FORMATS) == set(evidence.COLUMNS.values()) - {"method"}
    table(pd.DataFrame({"SSIM": [0.12345], "network calls": [20.0]}), "tab-a", "…")
    assert cells(page()) == [["0.123", "20"]]
    table(pd.DataFrame({"SSIM": [0.12345]}), "tab-a", "…", {"SSIM": ".1f"})
    assert cells(page()) == [["0.1"]]


def test_points_are_not_joined_by_lines() -> None:
    """Runs have no order: a line between them would tell of one."""
    (axes,) = plotting.curves(plotting.Panel({"a": ([1, 3, 2], [1, 2, 3])}, "x", "y", points=True)).axes
    assert [line.get_linestyle() for line in axes.lines if line.get_label() == "a"] == ["None"]
    (axes,) = plotting.curves(plotting.Panel({"a": ([1, 3, 2], [1, 2, 3])}, "x", "y")).axes
    assert axes.lines[0].get_linestyle() == "-"


def test_panels_in_rows_share_a_legend_where_a_place_is_empty() -> None:
    panel = plotting.Panel({"a": ([1, 2], [1, 2]), "b": ([1, 2], [2, 1])}, "x", "y")
    full, spare = plotting.curves(*[panel] * 4, columns=2), plotting.curves(*[panel] * 3, columns=2)
    assert len(full.axes) == len(spare.axes) == 4
    assert all(ax.get_legend() is not None for ax in full.axes)
    *drawn, last = spare.axes
    assert all(ax.get_legend() is None for ax in drawn)
    assert [text.get_text() for text in last.get_legend().get_texts()] == ["a", "b"]
    assert not last.axison


def test_no_two_curves_of_a_panel_share_a_colour() -> None:
    names = ["DDPM", "DDPM, η = 0", "DIP+DDPM, short fit", "DIP+DDPM", "a", "b", "c", "d"]
    (axes,) = plotting.curves(plotting.Panel({name: ([1, 2], [1, 2]) for name in names}, "x", "y")).axes
    colours = {line.get_label(): line.get_color() for line in axes.lines}
    assert len(set(colours.values())) == len(names)
    assert colours["DDPM"] == plotting.COLOURS["DDPM"]
    assert colours["DIP+DDPM"] == plotting.COLOURS["DIP+DDPM"]


def test_ticks_stand_where_they_are_asked_for_on_both_axes() -> None:
    x, counts = [0.5, 1.0, 4.0], [1.0, 2.0, 20.0]
    panel = plotting.Panel({"a": (x, counts)}, "x", "y", log_x=True, log_y=True, x_ticks=x, y_ticks=counts)
    (axes,) = plotting.curves(panel).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0.5", "1", "4"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["1", "2", "20"]
    assert not len(axes.yaxis.get_minorticklocs())
