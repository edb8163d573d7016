"""Executed notebooks → one self-contained HTML page: nbconvert with our template, then `assembly`."""

from __future__ import annotations

import base64
import copy
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
from jinja2 import pass_context
from nbconvert import HTMLExporter, TemplateExporter
from nbconvert.filters.highlight import Highlight2HTML
from nbconvert.filters.widgetsdatatypefilter import WidgetsDataTypeFilter
from traitlets.config import Config

from assembly import assemble
from bibliography import Bibliography
from errors import BuildError
from execution import RUN, declared, read
from prose import to_html
from provenance import origins

HERE = Path(__file__).resolve().parent
TITLE = "Combining DIP and DDPM for Image Generation"
SUBTITLE = "A notebook research report: what holds, what does not, measured"

RECORD = "application/vnd.dipddpm.record+json"
# what needs a live kernel or JavaScript
NOT_FOR_PAPER = ("application/vnd.jupyter.widget-view+json", "application/javascript")
MACHINE_ROW = re.compile(r"<tr><th scope='row'>machine</th>.*?</tr>")  # as `plotting.settings` writes it
SHOWS_ERROR = re.compile(r"Error\b|Exception\b|Traceback\b")
# one file of report/fonts for each face of the page
FACES = (
    ("serif-regular", "Report Serif", "400", "normal"),
    ("serif-italic", "Report Serif", "400", "italic"),
    ("serif-bold", "Report Serif", "700", "normal"),
    ("math", "Report Math", "400", "normal"),
)


@dataclass(frozen=True)
class Run:
    """What the page tells of one executed notebook.

    parameters: every one that it declares; given: the names of those that were set for this run
    seconds:    that computing its stored results took, in this run or an earlier one; None where it has none
    memory:     the most that a process held which computed one of them, in bytes
    download:   the address of the executed notebook beside the page, empty where there is none
    commit:     of the sources that it ran in, where that is known
    origins:    what each figure and table of it was computed from, as `provenance.origins` tells
    """

    notebook: str
    parameters: dict[str, Any]
    given: frozenset[str]
    seconds: float | None
    memory: int | None
    download: str
    commit: str = ""
    origins: Mapping[str, frozenset[str]] = field(default_factory=dict)


class ReportExporter(HTMLExporter):
    """HTMLExporter with our template and Markdown; none of the addresses that the stock one writes into a page."""

    def __init__(self, bibliography: Bibliography):
        self.bibliography = bibliography
        config = Config()
        config.TagRemovePreprocessor.enabled = True
        config.TagRemovePreprocessor.remove_cell_tags = {"remove-cell"}
        config.TagRemovePreprocessor.remove_input_tags = {"remove-input"}
        super().__init__(
            config=config,
            template_name="template",
            extra_template_basedirs=[str(HERE)],
            require_js_url="",
            mathjax_url="",
            mermaid_js_url="",
            jquery_url="",
            jupyter_widgets_base_url="",
        )

    def default_filters(self) -> Iterator[tuple[str, Any]]:
        """nbconvert's, and the one for computed prose."""
        yield from super().default_filters()
        yield "computed2html", self.computed2html

    def from_notebook_node(  # type: ignore[override]  # as nbconvert's own is not what its supertype says
        self, nb: nbformat.NotebookNode, resources: dict[str, Any] | None = None, **more: Any
    ) -> tuple[str, dict[str, Any]]:
        """As HTMLExporter's, but for its reading the whole page once more, which takes seconds.

        It does that for texts of pictures and focus in JupyterLab's own template; ours has the ones and not the other.
        """
        known = nb.metadata.get("language_info", {})
        language = known.get("pygments_lexer", known.get("name"))
        resources = self._init_resources(resources)
        self.register_filter("highlight_code", Highlight2HTML(pygments_lexer=language, parent=self))
        chosen = WidgetsDataTypeFilter(notebook_metadata=self._nb_metadata, parent=self, resources=resources)
        self.register_filter("filter_data_type", chosen)
        body, resources = TemplateExporter.from_notebook_node(self, nb, resources, **more)
        # lxml does not know that a source holds nothing, and would put the picture that follows into it
        return re.sub(r"(<source\b[^>]*[^/])>", r"\1/>", body), resources

    @pass_context
    def markdown2html(self, context: Any, source: str) -> str:
        """Markdown cells: their author may write HTML."""
        return self._to_html(context, source, computed=False)

    @pass_context
    def computed2html(self, context: Any, source: str) -> str:
        """Computed prose: what looks like HTML in it came with a value."""
        return self._to_html(context, source, computed=True)

    def _to_html(self, context: Any, source: str, computed: bool) -> str:
        cell = context["cell"]
        where = f"{cell.metadata.report.notebook}, {cell.metadata.report.cell}"
        return to_html(source, where, self.bibliography, cell.get("attachments"), computed)


def found(stems: list[str], *folders: Path) -> dict[str, Path]:
    """Each executed notebook in the first of the folders that has it, in the order given; others are left out."""
    places = {stem: [folder / f"{stem}.ipynb" for folder in folders] for stem in stems}
    each = {stem: next((path for path in paths if path.is_file()), None) for stem, paths in places.items()}
    return {stem: path for stem, path in each.items() if path is not None}


def run_of(stem: str, notebook: nbformat.NotebookNode, path: Path, download: str = "") -> Run:
    """The record that papermill and the builder left, over the defaults that the notebook declares."""
    record = notebook.metadata.get("papermill", {})
    given = dict(record.get("parameters", {}))
    defaults = {name: value for name, value in declared(path).items() if value is not ...}
    kept = notebook.metadata.get(RUN, {})
    parameters = {**defaults, **given}
    return Run(
        stem,
        parameters,
        frozenset(given),
        kept.get("seconds"),
        kept.get("memory"),
        download,
        kept.get("commit", ""),
        origins(notebook, parameters),
    )


def run_record(notebooks: dict[str, nbformat.NotebookNode]) -> dict[str, str]:
    """Preset and commit of the run; both of each where notebooks were run at different times."""
    kept = [notebook.metadata.get(RUN, {}) for notebook in notebooks.values()]
    values = {name: list(dict.fromkeys(run[name] for run in kept if run.get(name))) for name in ("preset", "commit")}
    return {name: ", ".join(found) for name, found in values.items() if found}


def machine_record(notebooks: dict[str, nbformat.NotebookNode]) -> dict[str, Any]:
    """The first machine record that a notebook displayed; empty where none did."""
    for stem, notebook in notebooks.items():
        for cell in notebook.cells:
            for output in cell.get("outputs", []):
                found = output.get("data", {}).get(RECORD)
                if found is not None:
                    found = json.loads(found) if isinstance(found, str) else found
                    if not isinstance(found, dict):
                        raise BuildError(f"{stem}: {RECORD}: expected a flat dict, got {type(found).__name__}")
                    return found
    return {}


def concatenate(notebooks: dict[str, nbformat.NotebookNode]) -> nbformat.NotebookNode:
    """All cells in one notebook; each knows where it came from. The machine is told where it is another than before."""
    joined = nbformat.v4.new_notebook()
    told: Any = None
    for stem, notebook in notebooks.items():
        cells = [cell for cell in notebook.cells if "remove-cell" not in cell.metadata.get("tags", [])]
        numbers = _numbers(notebook)
        for cell in cells:
            first, last = cell is cells[0], cell is cells[-1]
            cell.metadata["report"] = {"notebook": stem, "cell": numbers[id(cell)], "first": first, "last": last}
            if cell.cell_type == "code":
                cell.outputs = [output for output in cell.outputs if _shown(output)]
                for output in cell.outputs:
                    data = output.get("data", {})
                    record = data.pop(RECORD, None)
                    # once is enough; where it differs it is told again
                    if record is not None and record == told and "text/html" in data:
                        data["text/html"] = MACHINE_ROW.sub("", data["text/html"])
                    told = record or told
        joined.cells.extend(cells)
        joined.metadata.setdefault("language_info", notebook.metadata.get("language_info", {"name": "python"}))
    return joined


def _numbers(notebook: nbformat.NotebookNode) -> dict[int, str]:
    """`cell 3` is the third code cell that holds something, as the kernel counts; Markdown is counted by itself."""
    names, counts = {}, {"cell": 0, "Markdown cell": 0}
    for cell in notebook.cells:
        kind = "cell" if cell.cell_type == "code" else "Markdown cell"
        counts[kind] += bool(cell.source.strip())
        names[id(cell)] = f"{kind} {counts[kind]}"
    return names


def _shown(output: nbformat.NotebookNode) -> bool:
    """Whether an output belongs on the page."""
    if output.output_type == "stream" and output.name == "stderr":
        return bool(SHOWS_ERROR.search(output.text))
    data = output.get("data", {})
    if any(mime in data for mime in NOT_FOR_PAPER):
        return False
    # the record stands at the end of the page; beside it an output may have something to show in its place
    return RECORD not in data or "text/html" in data or "text/markdown" in data


def stylesheet() -> str:
    """report.css with the fonts written into it."""
    faces = [_face(*face) for face in FACES]
    return "\n".join([*faces, (HERE / "report.css").read_text(encoding="utf-8")])


def _face(stem: str, family: str, weight: str, style: str) -> str:
    payload = base64.b64encode((HERE / "fonts" / f"{stem}.woff2").read_bytes()).decode("ascii")
    return (
        f'@font-face {{ font-family: "{family}"; font-weight: {weight}; font-style: {style}; font-display: block; '
        f"src: url(data:font/woff2;base64,{payload}) format('woff2'); }}"
    )


def for_download(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """An executed notebook without what only this machine can use: paths, clocks, progress."""
    clean = copy.deepcopy(notebook)
    clean.metadata.pop("widgets", None)  # the states of panels, whose views are not shown
    kept = {key: clean.metadata.get("papermill", {}).get(key) for key in ("parameters", "duration", "version")}
    clean.metadata["papermill"] = {key: value for key, value in kept.items() if value is not None}
    for cell in clean.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if _shown(output)]
    return clean


def render(
    executed: Mapping[str, Path], stems: list[str], references: Path, downloads: str = "", results: str = ""
) -> tuple[str, list[str]]:
    """The page of the executed notebooks, and what to warn of.

    A notebook that has not been run yet leaves a partial page: references into it are warnings, not errors.

    downloads: the folder of executed notebooks, as it is reached from the page; empty for a page without links to them
    results:   the same of the file of every run behind it
    """
    absent = [stem for stem in stems if stem not in executed]
    if not executed:
        raise BuildError("nothing to render: no notebook has been executed; run without --render-only")
    html, warnings = _rendered(executed, references, downloads, TITLE, partial=bool(absent), results=results)
    if absent:
        warnings.insert(0, f"not run yet, left out: {', '.join(absent)}")
    return html, warnings


def render_alone(executed: Mapping[str, Path], stem: str, references: Path) -> str:
    """A page of one notebook. References into others are text."""
    if stem not in executed:
        raise BuildError(f"{stem} has not been run; run without --render-only")
    return _rendered({stem: executed[stem]}, references, "", f"{TITLE}: {stem}", partial=True)[0]


def _rendered(
    executed: Mapping[str, Path],
    references: Path,
    downloads: str,
    title: str,
    partial: bool,
    results: str = "",
) -> tuple[str, list[str]]:
    notebooks = {stem: read(path) for stem, path in executed.items()}
    runs = [
        run_of(stem, notebook, executed[stem], f"{downloads}/{stem}.ipynb" if downloads else "")
        for stem, notebook in notebooks.items()
    ]
    machine = {**run_record(notebooks), **machine_record(notebooks)}
    bibliography = Bibliography(references)
    exporter = ReportExporter(bibliography)
    resources = {"report": {"title": title, "subtitle": SUBTITLE, "css": stylesheet()}}
    body, _ = exporter.from_notebook_node(concatenate(notebooks), resources=resources)
    script = (HERE / "page.js").read_text(encoding="utf-8")
    return assemble(body, script, bibliography, runs, machine, partial, results)
