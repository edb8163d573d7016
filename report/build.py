"""Run the notebooks and render the report: report/index.html and, where a Chromium is found, report/report.pdf.

examples:
  python report/build.py --preset quick                  all of it
  python report/build.py --only 03_hybrid -p seeds=3     one notebook, the others as they were last run
  python report/build.py --render-only --no-pdf          the page alone, from what was run
  python report/build.py --render-only --alone 03_hybrid that notebook as a page too, report/alone/03_hybrid.html
"""

from __future__ import annotations

import argparse
import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import nbformat

import execution
import page
import printing
from bibliography import Bibliography
from dipddpm_lib import archive, claims, evidence, store
from dipddpm_lib.cells import Cell
from dipddpm_lib.types import InputError
from errors import BuildError

HERE = Path(__file__).resolve().parent
LEDGER = "08_conclusion"
LOG_SECONDS = 60  # between two lines of a notebook's progress in a log
DOWNLOADS = "notebooks"  # beside the page: the executed notebooks, to be downloaded
NO_BROWSER = (
    "no PDF: no Chromium found; install Chromium or set CHROMIUM=/path/to/chromium, then run with --render-only"
)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="report/build.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", metavar="NAME", help="parameters from notebooks/presets/NAME.yaml")
    parser.add_argument("--only", metavar="STEM", action="append", help="run this notebook only (repeatable)")
    parser.add_argument("-p", metavar="KEY=VALUE", action="append", default=[], dest="given", help="a parameter")
    parser.add_argument("--workers", metavar="N", type=int, default=1, help="notebooks to run side by side; default: 1")
    parser.add_argument("--no-pdf", action="store_true", help="the HTML page only")
    parser.add_argument(
        "--render-only",
        action="store_true",
        help="run nothing: render report/executed/, and what was not run here as it stands beside the page",
    )
    parser.add_argument("--alone", metavar="STEM", action="append", default=[], help="and this notebook as a page")
    parser.add_argument("--output", metavar="DIR", type=Path, default=HERE, help="default: report/")
    parser.add_argument("--notebooks", metavar="DIR", type=Path, default=HERE.parent / "notebooks", help="the sources")
    parser.add_argument("--references", metavar="FILE", type=Path, default=HERE / "references.bib", help="BibTeX")
    return parser.parse_args(argv)


def choose(option: str, named: list[str] | None, known: list[str]) -> list[str]:
    """The notebooks that the option names; all where it is not given."""
    for stem in named or []:
        if stem not in known:
            raise BuildError(f"{option}: no notebook {stem}{execution.nearest(stem, known)}", status=2)
    return [stem for stem in known if named is None or stem in named]


def execute(arguments: argparse.Namespace, notebooks: dict[str, Path]) -> None:
    """Check every parameter, then run the chosen notebooks."""
    workers = execution.check_workers(arguments.workers)
    chosen = choose("--only", arguments.only, list(notebooks))
    # the ledger reads what the others left: on a whole page it may not lag behind them
    if LEDGER in notebooks and LEDGER not in chosen and (arguments.output / "executed" / f"{LEDGER}.ipynb").exists():
        chosen = [*chosen, LEDGER]
    defaults = {stem: execution.declared(path) for stem, path in notebooks.items()}
    preset = execution.read_preset(arguments.preset, arguments.notebooks / "presets") if arguments.preset else {}
    given = dict(execution.read_assignment(text, arguments.notebooks) for text in arguments.given)
    planned = execution.plan(defaults, chosen, preset, given)
    store.check_room()
    execution.prepare_environment()
    planned = {stem: planned[stem] for stem in execution.running_order(chosen)}
    record = {"preset": arguments.preset or "none", "commit": execution.commit(HERE.parent)}
    progress = Progress(list(planned), arguments.output / "executed", workers)
    runs = execution.run_notebooks(notebooks, arguments.output / "executed", planned, record, workers, progress.goes_on)
    for stem, seconds in runs:
        progress.notebook_ends(stem, seconds)
    evidence.publish(arguments.output / archive.NAME, in_conclusion)


def in_conclusion(collection: str, first: Cell, cell: Cell) -> bool:
    """Whether the conclusion shows this run's image: it is kept, so that it can be run anew where nothing else was."""
    shown = replace(first, task=claims.SHOWN_TASK, seed=0, config=cell.config, label=cell.label, first=cell.first)
    return collection == "restoration" and cell == shown


class Progress:
    """A line for each notebook that has run, with what is left; between them what runs now.

    Where stderr is a terminal that is one line, always of now; else, as in a log, a line for a notebook's sweep each
    minute.

    The time left is what the notebooks took when they were last run, and for others the mean of all that is known.
    """

    def __init__(self, stems: list[str], executed: Path, workers: int):
        self.left = {stem: execution.seconds_before(executed / f"{stem}.ipynb") for stem in stems}
        self.total, self.workers = len(stems), workers
        self.known = [seconds for seconds in self.left.values() if seconds is not None]
        self.running: dict[str, str] = {}
        self.told: dict[str, float] = {}

    def goes_on(self, stem: str, cell: str, sweep: str) -> None:
        self.running[stem] = ", ".join(filter(None, (stem, cell, sweep)))
        if sys.stderr.isatty():
            try:
                columns = os.get_terminal_size(sys.stderr.fileno()).columns
            except OSError:
                columns = 80
            said = "; ".join(sorted(self.running.values()))
            print(f"\r\x1b[K{said[: columns - 1]}", end="", file=sys.stderr, flush=True)
        elif sweep and time.monotonic() - self.told.get(stem, -LOG_SECONDS) >= LOG_SECONDS:
            self.told[stem] = time.monotonic()
            print(self.running[stem], flush=True)

    def notebook_ends(self, stem: str, seconds: float) -> None:
        self.running.pop(stem, None)
        self.left.pop(stem)
        self.known.append(seconds)
        mean = sum(self.known) / len(self.known)
        rest = sum(mean if before is None else before for before in self.left.values()) / self.workers
        said = f"   {self.total - len(self.left)} of {self.total}, about {rest:.0f} s left" if self.left else ""
        if sys.stderr.isatty():
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        print(f"{stem:<36} {seconds:8.1f} s{said}", flush=True)


def render(arguments: argparse.Namespace, notebooks: dict[str, Path]) -> Path:
    """Write the pages, each whole or not at all, and the executed notebooks beside index.html.

    What was not run here is as it stands beside the page, as all of it in a fresh clone.
    """
    executed = page.found(list(notebooks), arguments.output / "executed", arguments.output / DOWNLOADS)
    html, warnings = page.render(
        executed,
        list(notebooks),
        arguments.references,
        DOWNLOADS,
        archive.NAME if (arguments.output / archive.NAME).is_file() else "",
    )
    pages = {f"alone/{stem}.html": page.render_alone(executed, stem, arguments.references) for stem in arguments.alone}
    older = [stem for stem, path in executed.items() if path.parent.name == DOWNLOADS]
    if 0 < len(older) < len(executed):
        warnings.insert(0, f"not run here, taken as they stood beside the page: {', '.join(older)}")
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for stem, path in executed.items():
        whole = nbformat.writes(page.for_download(execution.read(path))) + "\n"
        _write(arguments.output / DOWNLOADS / f"{stem}.ipynb", whole)
    for name, text in {"index.html": html, **pages}.items():
        target = _write(arguments.output / name, text)
        print(f"{target}  {target.stat().st_size / 1e6:.1f} MB", flush=True)
    return arguments.output / "index.html"


def _write(target: Path, text: str) -> Path:
    unfinished = target.with_name(f".{target.name}.unfinished")
    execution.check_inside(target.parent, target, unfinished)
    target.parent.mkdir(exist_ok=True)
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(target)
    return target


def print_report(index: Path) -> None:
    """Write report.pdf beside index.html; without a browser say how to get it, and that an older one is older."""
    browser, target = printing.find_browser(), index.with_name("report.pdf")
    if browser is None:
        print(NO_BROWSER + (f"; {target} is of an earlier run" if target.is_file() else ""))
        return
    printing.print_pdf(index, target, browser)
    print(f"{target}  {target.stat().st_size / 1e6:.1f} MB", flush=True)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Nobody else builds into this folder meanwhile: the lock is on the folder itself, and goes with the process."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BuildError(
                f"another build writes to {folder}; wait until it has ended, or give another folder (--output)",
                status=2,
            ) from None
        yield
    finally:
        os.close(descriptor)


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done, 1 a notebook or the page failed, 2 the command line is wrong, 130 interrupted."""
    arguments = parse_arguments(argv)
    try:
        if arguments.render_only and (arguments.only or arguments.given):
            raise BuildError("--render-only runs nothing: it takes neither --only nor -p", status=2)
        arguments.output.mkdir(parents=True, exist_ok=True)
        with alone_in(arguments.output):
            written = ("executed", "index.html", ".index.html.unfinished", "report.pdf", archive.NAME)
            execution.check_inside(*(arguments.output / name for name in written))
            notebooks = execution.find_notebooks(arguments.notebooks)
            # what the page needs is looked at before anything is run
            arguments.alone = choose("--alone", arguments.alone, list(notebooks))
            Bibliography(arguments.references)
            if not arguments.no_pdf:
                printing.find_browser()
            if not arguments.render_only:
                execute(arguments, notebooks)
            index = render(arguments, notebooks)
            if not arguments.no_pdf:
                print_report(index)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error.filename or arguments.output}: {error.strerror or error}", file=sys.stderr)
        return 1
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print("error: interrupted; what has finished is kept, and the same command goes on from there", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
