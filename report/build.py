"""Run the notebooks and render the report: report/index.html and, where a Chromium is found, report/report.pdf.

examples:
  python report/build.py --preset quick                  all of it
  python report/build.py --only 03_hybrid -p SEED=3      one notebook, the others as they were last run
  python report/build.py --render-only --no-pdf          the page alone, from report/executed/
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import execution
import page
import printing
from errors import BuildError

HERE = Path(__file__).resolve().parent
LEDGER = "08_conclusion"
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
    parser.add_argument("--no-pdf", action="store_true", help="the HTML page only")
    parser.add_argument("--render-only", action="store_true", help="run nothing, render report/executed/")
    parser.add_argument("--output", metavar="DIR", type=Path, default=HERE, help="default: report/")
    parser.add_argument("--notebooks", metavar="DIR", type=Path, default=HERE.parent / "notebooks", help="the sources")
    parser.add_argument("--references", metavar="FILE", type=Path, default=HERE / "references.bib", help="BibTeX")
    return parser.parse_args(argv)


def choose(only: list[str] | None, known: list[str]) -> list[str]:
    """The notebooks to run."""
    for stem in only or []:
        if stem not in known:
            raise BuildError(f"--only: no notebook {stem}{execution.nearest(stem, known)}", status=2)
    return [stem for stem in known if only is None or stem in only]


def execute(arguments: argparse.Namespace, notebooks: dict[str, Path]) -> None:
    """Check every parameter, then run the chosen notebooks."""
    chosen = choose(arguments.only, list(notebooks))
    # the ledger reads what the others left: on a whole page it may not lag behind them
    if LEDGER in notebooks and LEDGER not in chosen and (arguments.output / "executed" / f"{LEDGER}.ipynb").exists():
        chosen = [*chosen, LEDGER]
    defaults = {stem: execution.declared(path) for stem, path in notebooks.items()}
    preset = execution.read_preset(arguments.preset, arguments.notebooks / "presets") if arguments.preset else {}
    given = dict(execution.read_assignment(text) for text in arguments.given)
    planned = execution.plan(defaults, chosen, preset, given)
    execution.prepare_environment()
    planned = {stem: planned[stem] for stem in execution.running_order(chosen)}
    for stem, seconds in execution.run_notebooks(notebooks, arguments.output / "executed", planned):
        print(f"{stem:<36} {seconds:8.1f} s", flush=True)


def render(arguments: argparse.Namespace, notebooks: dict[str, Path]) -> Path:
    """Write index.html, whole or not at all."""
    html, warnings = page.render(arguments.output / "executed", list(notebooks), arguments.references)
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    target = arguments.output / "index.html"
    unfinished = target.with_name(".index.html.unfinished")
    unfinished.write_text(html, encoding="utf-8")
    unfinished.replace(target)
    print(f"{target}  {target.stat().st_size / 1e6:.1f} MB", flush=True)
    return target


def print_report(index: Path) -> None:
    """Write report.pdf beside index.html; without a browser say how to get it."""
    browser = printing.find_browser()
    if browser is None:
        print(NO_BROWSER)
        return
    target = index.with_name("report.pdf")
    printing.print_pdf(index, target, browser)
    print(f"{target}  {target.stat().st_size / 1e6:.1f} MB", flush=True)


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 done, 1 a notebook or the page failed, 2 the command line is wrong, 130 interrupted."""
    arguments = parse_arguments(argv)
    try:
        if arguments.render_only and (arguments.only or arguments.given):
            raise BuildError("--render-only runs nothing: it takes neither --only nor -p", status=2)
        arguments.output.mkdir(parents=True, exist_ok=True)
        written = ("executed", "index.html", ".index.html.unfinished", "report.pdf")
        execution.check_inside(*(arguments.output / name for name in written))
        notebooks = execution.find_notebooks(arguments.notebooks)
        if not arguments.render_only:
            execute(arguments, notebooks)
        index = render(arguments, notebooks)
        if not arguments.no_pdf:
            print_report(index)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    except KeyboardInterrupt:
        print("error: interrupted; what has finished is kept", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
