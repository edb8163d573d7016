"""The rendered body → the finished page: numbers, cross references, contents, references, record, and the checks.

Every check names the notebook and the element, and stops the build: a report with a hole in it is not written.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import unicodedata
import urllib.request
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from lxml import html
from lxml.html import HtmlElement
from lxml.html import builder as E
from PIL import Image

from bibliography import Bibliography, Reference
from errors import BuildError

if TYPE_CHECKING:
    from page import Run

# nbconvert gives this to an image without an alternative text, so that the page looks as if it had one
NBCONVERT_ALT = "No description has been provided for this image"
HEADINGS = ("h1", "h2", "h3", "h4", "h5")
# "3 ", "3.1 ", "A1 ", "A.2 " in front of a heading; a single capital is a word ("A picture …")
SECTION_NUMBER = re.compile(r"^(\d+(?:\.\d+)*|[A-Z]\d+(?:\.\d+)*|[A-Z](?:\.\d+)+)\.?\s+")
FOREIGN_URL = re.compile(r"url\(\s*[\"']?(?!data:)|@import", re.IGNORECASE)
LOADING_ATTRIBUTES = ("src", "srcset", "poster", "data", "background", "xlink:href")
PLACEHOLDERS = ("the figure", "the table", "the section", "the equation")  # of links whose target has a number
HARMFUL = "harmful-link"  # what the Markdown renderer makes of javascript: and the like
FRAMES_IN_PRINT = 4
LONG_TABLE = 14  # rows; a longer table may break over two pages of the PDF
WIDE = 2  # width over height of a row of pictures or panels
SVG_SOURCE = re.compile(r'src="data:image/svg\+xml,[^"]*"')  # in which lxml writes each space as three characters
SVG_BOX = re.compile(rb'<svg[^>]*viewBox=["\']0 0 ([\d.]+) ([\d.]+)["\']')


def assemble(
    body: str,
    script: str,
    bibliography: Bibliography,
    runs: list[Run],
    machine: dict[str, Any],
    partial: bool = False,
    results: str = "",
) -> tuple[str, list[str]]:
    """The finished page, and the references that a partial page leaves open.

    script: the one that the page carries; every other is refused
    results: the address of the file of every run behind it; empty where there is none
    """
    root = html.document_fromstring(body, parser=html.HTMLParser(huge_tree=True))
    main = root.get_element_by_id("content")
    check_scripts(root)
    check_images(root)
    lift_finding(root, main)
    headings = name_headings(main)
    numbered = number_figures(root)
    targets = {**number_equations(main), **numbered, **{key: text for key, _, text in headings}}
    for table in root.xpath("//table"):
        _align_heads(table)
        _let_scroll(table)
    for image in list(root.iter("img")):
        _mark_drawing(image)
        _let_wide_scroll(image)
    for element in root.xpath("//pre|//span[@class='equation']"):
        element.set("tabindex", "0")  # either may be wider than the window, and then scrolls
    add_sources(main, runs)
    main.append(references_section(bibliography.cited_references()))
    main.append(record_section(runs, machine, results, numbered))
    open_references = fill_references(root, targets, _aliases(headings), partial)
    check_ids(root)
    check_self_contained(root)
    fill_contents(root, main)
    link_headings(main)
    root.body.append(E.SCRIPT(script))
    root.xpath("//meta[@http-equiv='Content-Security-Policy']")[0].set("content", policy(script))
    page = html.tostring(root, encoding="unicode", doctype="<!DOCTYPE html>") + "\n"
    return SVG_SOURCE.sub(lambda source: source[0].replace("%20", " "), page), open_references


def place(element: HtmlElement) -> str:
    """The notebook and cell that an element came from."""
    owner = next(element.iterancestors("div", "section"), None)
    while owner is not None and owner.get("data-notebook") is None:
        owner = next(owner.iterancestors("div", "section"), None)
    return "page" if owner is None else f"{owner.get('data-notebook')}, {owner.get('data-cell')}"


def _classes(element: HtmlElement) -> set[str]:
    return set(element.get("class", "").split())


def _described(element: HtmlElement) -> str:
    """`figure fig-name`, for errors."""
    figure = element if element.tag == "figure" else next(element.iterancestors("figure"), None)
    if figure is None:
        return f"<{element.tag}> outside a figure"
    return f"figure {figure.get('id') or 'without id'}"


# ---- checks


def check_scripts(root: HtmlElement) -> None:
    """No output brings code. What moves a slider in JupyterLab is taken off: the page's own script does it here."""
    for element in root.iter(html.etree.Element):
        if element.tag == "script":
            raise BuildError(f"{place(element)}: a <script> in an output; the page runs none but its own")
        for name in [name for name in element.attrib if name.lower().startswith("on")]:
            figure = next(element.iterancestors("figure"), None)
            slides = figure is not None and _classes(figure) & {"film", "compare"}
            if name != "oninput" or element.get("type") != "range" or not slides:
                raise BuildError(f"{place(element)}: {name} on <{element.tag}>; only a figure's slider may carry code")
            del element.attrib[name]


def check_images(root: HtmlElement) -> None:
    """Every image has an alternative text."""
    for image in root.iter("img"):
        if image.get("alt", "").strip() in ("", NBCONVERT_ALT):
            raise BuildError(f"{place(image)}: {_described(image)}: an image has no alt text")


def check_ids(root: HtmlElement) -> None:
    """No two elements share an id."""
    seen: set[str] = set()
    for element in root.xpath("//*[@id]"):
        identity = element.get("id")
        if identity in seen:
            raise BuildError(f"{place(element)}: the id {identity} occurs twice")
        seen.add(identity)


def check_self_contained(root: HtmlElement) -> None:
    """Nothing on the page is loaded from anywhere."""
    for element in root.iter(html.etree.Element):
        for name in LOADING_ATTRIBUTES:
            if not element.get(name, "data:").strip().startswith("data:"):
                raise BuildError(f"{place(element)}: <{element.tag} {name}> loads {element.get(name)[:80]}")
        if element.tag in ("link", "base", "iframe", "object", "embed"):
            raise BuildError(f"{place(element)}: <{element.tag}> is not for a self-contained page")
        style = element.get("style", "") + (element.text or "" if element.tag == "style" else "")
        if FOREIGN_URL.search(style):
            raise BuildError(f"{place(element)}: a style loads from elsewhere")


def policy(script: str) -> str:
    """Content-Security-Policy: the page's own images, styles and fonts, and exactly this script."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; font-src data:; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


# ---- the first screen


def lift_finding(root: HtmlElement, main: HtmlElement) -> None:
    """What the cells tagged `finding` show stands under the title, before the text; their code stays where it is."""
    finding = root.get_element_by_id("finding")
    for cell in main.xpath(".//div[contains(concat(' ', @class, ' '), ' finding ')]"):
        for shown in [child for child in cell if child.tag != "details"]:
            finding.append(shown)
    if not len(finding):
        finding.drop_tree()


# ---- headings


def slug(text: str) -> str:
    """Lower-case ASCII words joined by hyphens."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return "-".join(re.findall(r"[a-z0-9]+", plain.lower()))


def _text(element: HtmlElement) -> str:
    return " ".join(element.text_content().split())


def name_headings(main: HtmlElement) -> list[tuple[str, str | None, str]]:
    """Give every heading its id, one level below the page's title. Returns (id, number, text) of each."""
    found: list[tuple[str, str | None, str]] = []
    taken: set[str] = set()
    for heading in list(main.iter(*HEADINGS)):
        text = _text(heading)
        number = SECTION_NUMBER.match(text)
        base = f"sec-{slug(SECTION_NUMBER.sub('', text)) or slug(text)}"
        # "Results" may well stand under two sections; the later one is sec-results-2
        identity = next(name for name in _suffixed(base) if name not in taken)
        taken.add(identity)
        heading.set("id", identity)
        heading.tag = f"h{int(heading.tag[1]) + 1}"
        found.append((identity, number.group(1) if number else None, text))
    return found


def _suffixed(base: str) -> Iterator[str]:
    yield base
    count = 2
    while True:
        yield f"{base}-{count}"
        count += 1


def _aliases(headings: list[tuple[str, str | None, str]]) -> dict[str, str]:
    """Other ways to write a heading's id: with its number (sec-3-1-implementation), or by it alone (sec-3.1)."""
    aliases: dict[str, str] = {}
    for identity, number, text in headings:
        if number:
            for other in (f"sec-{slug(text)}", f"sec-{number}", f"sec-{slug(number)}"):
                aliases.setdefault(other, identity)
    return aliases


def link_headings(main: HtmlElement) -> None:
    """A quiet link to itself behind each heading."""
    for heading in main.xpath(".//*[self::h2 or self::h3 or self::h4 or self::h5 or self::h6][@id]"):
        link = E.A("#", href=f"#{heading.get('id')}")
        link.set("class", "anchor")
        link.set("aria-label", f"Link to: {_text(heading)}")
        heading.append(link)


def fill_contents(root: HtmlElement, main: HtmlElement) -> None:
    """The table of contents, once beside the text and once above it for narrow windows."""
    for nav in root.xpath("//nav[contains(@class, 'toc')]"):
        nav.append(_contents(main.xpath(".//*[self::h2 or self::h3][@id]")))


def _contents(headings: list[HtmlElement]) -> HtmlElement:
    top = E.OL()
    for heading in headings:
        entry = E.LI(E.A(_text(heading), href=f"#{heading.get('id')}"))
        if heading.tag == "h2" or not len(top):
            top.append(entry)
            continue
        parent = top[-1]
        if parent[-1].tag != "ol":
            parent.append(E.OL())
        parent[-1].append(entry)
    return top


# ---- numbers


def number_equations(main: HtmlElement) -> dict[str, str]:
    """(1), (2), … beside the labelled equations. Returns what a reference to each says."""
    targets = {}
    for number, equation in enumerate(main.xpath(".//span[@class='equation'][@id]"), 1):
        tag = E.SPAN(f"({number})")
        tag.set("class", "equation-number")
        equation.append(tag)
        targets[equation.get("id")] = f"equation ({number})"
    return targets


def number_figures(root: HtmlElement) -> dict[str, str]:
    """Figure 1, …, Table 1, … in front of the captions. Returns what a reference to each says."""
    counts = {"Figure": 0, "Table": 0}
    targets = {}
    for figure in root.iter("figure"):
        kind = "Table" if "table" in _classes(figure) else "Figure"
        caption = figure.find(".//figcaption")
        if caption is None or not _text(caption):
            raise BuildError(f"{place(figure)}: {_described(figure)} has no caption")
        counts[kind] += 1
        name = f"{kind} {counts[kind]}"
        _prefix(caption, f"{name}.")
        if figure.get("id"):
            targets[figure.get("id")] = name
        if kind == "Table":
            figure.insert(0, caption)  # a table is read from its head, and the caption says what it holds
            if len(figure.xpath(".//tr")) > LONG_TABLE:
                figure.set("class", "long table")
        if "film" in _classes(figure):
            _choose_printed_frames(figure)
    return targets


def _prefix(caption: HtmlElement, label: str) -> None:
    bold = E.B(label)
    bold.tail = " " + (caption.text or "").lstrip()
    caption.text = None
    caption.insert(0, bold)


def _choose_printed_frames(film: HtmlElement) -> None:
    """Paper has no slider: a few frames from first to last stand in a row, or the last alone where each is wide.

    A frame is an image, or the element of class `frame` around it.
    """
    frames = film.xpath(".//*[contains(concat(' ', @class, ' '), ' frame ')]") or list(film.iter("img"))
    if not frames:
        raise BuildError(f"{place(film)}: {_described(film)} is a film without frames")
    count = 1 if _aspect(next(frames[0].iter("img"))) > WIDE else min(FRAMES_IN_PRINT, len(frames))
    last = len(frames) - 1
    printed = {last} if count == 1 else {round(n * last / (count - 1)) for n in range(count)}
    for index, frame in enumerate(frames):
        frame.set("class", " ".join(sorted(_classes(frame) | {"frame"} | ({"printed"} if index in printed else set()))))
    film.set("data-printed", str(count))


def _mark_drawing(image: HtmlElement) -> None:
    """Lines on white may be shown as light lines on a dark page; pictures and maps of colours keep their colours."""
    if image.get("src", "").startswith("data:image/svg+xml") and b"<image" not in _embedded(image):
        image.set("class", " ".join(sorted(_classes(image) | {"drawing"})))


def _let_wide_scroll(image: HtmlElement) -> None:
    """A row of pictures would be too small on a telephone: there it scrolls by itself, as wide tables do."""
    figure = next(image.iterancestors("figure"), None)
    if figure is None or _classes(figure) & {"film", "compare"} or _aspect(image) <= WIDE:
        return
    if image.getparent().tag == "picture":  # brings its own for such a screen
        return
    image.set("class", " ".join(sorted(_classes(image) | {"wide"})))
    _let_scroll(image)


def _embedded(image: HtmlElement) -> bytes:
    """What a data URL holds; nothing for another."""
    source = image.get("src", "")
    if not source.startswith("data:"):
        return b""
    with urllib.request.urlopen(source) as content:
        return bytes(content.read())


def _aspect(image: HtmlElement) -> float:
    """Width over height of an embedded image; 1 for what is neither SVG nor known to Pillow."""
    data = _embedded(image)
    box = SVG_BOX.search(data[:2000])
    if box:
        return float(box[1]) / float(box[2])
    try:
        with Image.open(io.BytesIO(data)) as opened:
            return opened.width / opened.height
    except (OSError, ValueError):
        return 1.0


def _align_heads(table: HtmlElement) -> None:
    """The head of a column of numbers stands over its numbers."""
    numeric = {
        column
        for row in table.xpath("./tbody/tr")
        for column, cell in enumerate(row.xpath("./th|./td"))
        if "number" in _classes(cell)
    }
    for row in table.xpath("./thead/tr[not(*/@colspan)]"):
        for column, cell in enumerate(row.xpath("./th|./td")):
            if column in numeric:
                cell.set("class", " ".join(sorted(_classes(cell) | {"number"})))


def _let_scroll(element: HtmlElement) -> None:
    """What is wider than the window scrolls by itself, by keyboard too."""
    box = E.DIV()
    box.attrib.update({"class": "scroll", "tabindex": "0", "role": "group", "aria-label": _name(element)})
    box.tail, element.tail = element.tail, None
    element.getparent().replace(element, box)
    box.append(element)


def _name(element: HtmlElement) -> str:
    """`Table 3` or `Figure 2`; a table outside a figure carries no number."""
    figure = next(element.iterancestors("figure"), None)
    return "table" if figure is None else figure.findtext(".//figcaption/b", "table").rstrip(".")


# ---- references


def fill_references(root: HtmlElement, targets: dict[str, str], aliases: dict[str, str], partial: bool) -> list[str]:
    """`[](#fig-name)`, `[the figure](#fig-name)` → Figure 3; the words are for who reads the notebook itself.

    A link to nothing stops the build, on a partial page it is returned and its words are text.
    """
    ids = set(root.xpath("//@id"))
    unresolved = []
    for link in root.xpath("//a[starts-with(@href, '#')]"):
        name = link.get("href")[1:]
        if name == HARMFUL:
            del link.attrib["href"]
            continue
        name = name if name in ids else aliases.get(name, name)
        link.set("href", f"#{name}")
        if name not in ids:
            message = f"{place(link)}: a reference to #{name}, which is nowhere on the page"
            if not partial:
                raise BuildError(message)
            unresolved.append(message)
            del link.attrib["href"]  # a name that leads nowhere is text
        written = _text(link)
        if written in ("", "(??)") or (
            written.lower() in PLACEHOLDERS and name in ids
        ):  # math-core writes (??) for an \eqref
            said = targets.get(name, name)
            link.text = said.removeprefix("equation ") if written == "(??)" else said
            if not name.startswith("sec-"):  # a section's title may break over two lines, "Figure 3" may not
                link.set("class", "reference")
    return unresolved


def references_section(references: list[Reference]) -> HtmlElement:
    """The cited entries; empty without any."""
    section = E.SECTION()
    section.set("class", "references")
    if not references:
        return section
    section.append(E.H2("References", id="sec-references"))
    items = E.OL(*(_reference_item(reference) for reference in references))
    section.append(items)
    return section


def _reference_item(reference: Reference) -> HtmlElement:
    item = E.LI(reference.text, id=f"ref-{reference.key}")
    for name, address in reference.links:
        link = E.A(name, href=address)
        link.tail = " "
        item.append(link)
    if len(item):
        item.text += " "
    return item


# ---- the record of this run


def add_sources(main: HtmlElement, runs: list[Run]) -> None:
    """Behind each section the executed notebook that it comes from."""
    for run in runs:
        section = main.get_element_by_id(f"nb-{run.notebook}", None)
        if section is not None and run.download:
            line = E.P("This section is the notebook ", _download(run), ", as it was run.")
            line.set("class", "source")
            section.append(line)


def _download(run: Run) -> HtmlElement:
    link = E.A(f"{run.notebook}.ipynb", href=run.download)
    link.set("download", "")
    return link


def record_section(
    runs: list[Run], machine: dict[str, Any], results: str = "", numbered: Mapping[str, str] | None = None
) -> HtmlElement:
    """Which notebook ran with which parameters, how long, and on what. Values are text, whatever they hold.

    numbered: what the page calls each figure and table, by its id
    """
    section = E.SECTION(E.H2("The record of this run", id="sec-the-record-of-this-run"))
    section.set("class", "record")
    section.append(
        E.P(
            "Parameters in bold were given to this run; the others are the notebook's own defaults. Seconds are those "
            "that computing the notebook's results took, in this run or in the one that stored them, each with a "
            "neighbour where several were computed at once, and memory is the most that a process held which computed "
            "one of them. Each result's own seconds, seed, machine and "
            "versions are kept in its stored record."
        )
    )
    heads = ("notebook", "parameters", "commit", "seconds", "peak memory (MiB)")
    head = E.TR(*(E.TH(name, scope="col") for name in heads))
    table = E.TABLE(E.THEAD(head), E.TBODY(*(_run_row(run) for run in runs)))
    table.set("class", "runs")
    section.append(table)
    _align_heads(table)
    _let_scroll(table)
    if results:
        link = E.A(results, href=results, download="")
        link.tail = ": configuration, seed, scores along the way, seconds, machine and versions of each, as JSON."
        section.append(E.P("The runs of the sweeps that these pages compare are in ", link))
    if numbered:
        section.append(_origins(runs, numbered))
    if machine:
        rows = (E.TR(E.TH(str(key), scope="row"), E.TD(_shown(value))) for key, value in machine.items())
        table = E.TABLE(E.TBODY(*rows))
        table.set("class", "machine")
        section.append(table)
        _let_scroll(table)
    return section


def _origins(runs: list[Run], numbered: Mapping[str, str]) -> HtmlElement:
    """For every figure and table the notebook that made it, and the runs or records that it was computed from."""
    rows = []
    for anchor, name in numbered.items():
        # the longest beginning: an id that the code completes is known by what it wrote
        found = [(len(key), run, run.origins[key]) for run in runs for key in run.origins if _begins(anchor, key)]
        if found:
            _, run, sources = max(found, key=lambda each: each[0])
            link = E.A(name, href=f"#{anchor}")
            said = "; ".join(sorted(sources)) or "no kept runs and no record: its cell computes or quotes it"
            rows.append(E.TR(E.TH(link, scope="row"), E.TD(run.notebook), E.TD(said)))
    head = E.TR(*(E.TH(name, scope="col") for name in ("", "made in", "computed from")))
    table = E.TABLE(E.THEAD(head), E.TBODY(*rows))
    what = E.P(
        "Read off the code of the notebooks, through every name that stands between. Runs are kept by these names in "
        "the store and in the file of results; a .json is the record of a benchmark, in benchmarks/."
    )
    details = E.DETAILS(E.SUMMARY("What each figure and table was computed from"), what, table)
    details.set("class", "origins")
    _let_scroll(table)
    return details


def _begins(anchor: str, key: str) -> bool:
    return anchor == key or (key.endswith("-") and anchor.startswith(key))


def _run_row(run: Run) -> HtmlElement:
    parameters = E.TD()
    for name, value in run.parameters.items():
        text = f"{name} = {value!r}"
        parameters.append(E.CODE(E.B(text) if name in run.given else text))
        parameters[-1].tail = " "
    seconds = E.TD("" if run.seconds is None else f"{run.seconds:.1f}")
    memory = E.TD("" if run.memory is None else f"{run.memory / 2**20:.0f}")
    for cell in (seconds, memory):
        cell.set("class", "number")
    notebook = E.TH(_download(run) if run.download else run.notebook, scope="row")
    return E.TR(notebook, parameters, E.TD(E.CODE(run.commit)), seconds, memory)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)
