"""Run the notebooks through papermill with checked parameters, and keep only whole results."""

from __future__ import annotations

import ast
import difflib
import json
import logging
import math
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import nbformat
import papermill
import yaml
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.client import KernelClient
from jupyter_client.manager import KernelManager
from jupyter_core.utils import ensure_event_loop
from papermill.engines import NBClientEngine, papermill_engines

from dipddpm_lib import compute, evidence, experiment, store
from errors import BuildError

CELL_TIMEOUT = 12 * 3600  # seconds; a slow machine's sweep for `make paper` takes 5 h; papermill's default is for ever
ANSI = re.compile(r"\x1b\[[0-9;]*m")

RUN = "dipddpm"  # where an executed notebook's metadata hold preset, commit and what its results cost

# what every notebook imports; loaded into a kernel that waits for its turn
PRELOAD = "__import__('dipddpm_lib.claims'); __import__('dipddpm_lib.widgets')"

Parameters = dict[str, Any]
Tell = Callable[[str, str, str], None]


def find_notebooks(folder: Path) -> dict[str, Path]:
    """The notebooks of the report, by stem, in the order of the page: those that are numbered (00_, A1_)."""
    found = {path.stem: path for path in sorted(folder.glob("[0-9A-Z][0-9]_*.ipynb"))}
    if not found:
        raise BuildError(f"no notebook in {folder}", status=2)
    return found


def running_order(stems: list[str]) -> list[str]:
    """By name, the conclusion last."""
    return sorted(stems, key=lambda stem: (is_last(stem), stem))


def is_last(stem: str) -> bool:
    """The conclusion collects what all others have stored."""
    return stem.endswith("conclusion")


def declared(path: Path) -> Parameters:
    """Name → default of the cell tagged `parameters`; Ellipsis where the default is not a literal.

    Python's own parser reads the cell: papermill.inspect_notebook loses a line that holds two "=" or a "#" in a string.
    """
    notebook = read(path)
    return next((_assignments(cell.source, path) for cell in notebook.cells if _has_tag(cell, "parameters")), {})


def read(path: Path) -> nbformat.NotebookNode:
    """A notebook; BuildError where the file holds none, as one that a full disk cut off."""
    try:
        return nbformat.read(path, as_version=4)
    except OSError:
        raise
    except Exception as error:  # nbformat's own, and those of what it reads with
        raise BuildError(f"{_shown(path.resolve())} is not a notebook ({type(error).__name__}); run it again") from None


def _has_tag(cell: nbformat.NotebookNode, tag: str) -> bool:
    return tag in cell.metadata.get("tags", [])


def _assignments(source: str, path: Path) -> Parameters:
    try:
        statements = ast.parse(source).body
    except SyntaxError as error:
        raise BuildError(f"{path.stem}: the parameters cell is not Python: {error.msg}, line {error.lineno}") from None
    found: Parameters = {}
    for statement in statements:
        if not isinstance(statement, ast.Assign | ast.AnnAssign) or statement.value is None:
            continue
        targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
        value = _literal(statement.value)
        found.update({target.id: value for target in targets if isinstance(target, ast.Name)})
    return found


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ...


def nearest(name: str, known: list[str]) -> str:
    """`; did you mean NAME?` or what there is to choose from."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f"; did you mean {close[0]}?" if close else f"; known: {', '.join(sorted(known)) or 'none'}"


# what PyYAML's own constructors raise, beside its errors: a date of month 13, 5000 digits, brackets without end
NO_YAML = (yaml.YAMLError, ValueError, AttributeError, TypeError, RecursionError)


def read_preset(name: str, folder: Path) -> dict[str, Parameters]:
    """notebooks/presets/NAME.yaml: stem → parameters, and `all`."""
    path = folder / f"{name}.yaml"
    if not path.is_file():
        raise BuildError(f"no preset {name}{nearest(name, [found.stem for found in folder.glob('*.yaml')])}", status=2)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except NO_YAML as error:
        raise BuildError(f"preset {name} is not YAML: {_last_line(str(error))}", status=2) from None
    if not isinstance(content, dict) or not all(
        value is None or (isinstance(value, dict) and all(isinstance(key, str) for key in value))
        for value in content.values()
    ):
        raise BuildError(f"preset {name}: expected a mapping of notebook → {{parameter: value}}", status=2)
    return {str(stem): values or {} for stem, values in content.items()}


def read_assignment(text: str, notebooks: Path) -> tuple[str, Any]:
    """KEY=VALUE of the command line; the value is YAML, and a path in it is told from the folder of the notebooks."""
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise BuildError(f"expected -p KEY=VALUE, got {text!r}", status=2)
    try:
        parsed = yaml.safe_load(value)
    except NO_YAML:
        raise BuildError(f"parameter {key}: {value[:80]!r} is not YAML", status=2) from None
    return key, _told_from(notebooks, parsed) if isinstance(parsed, str) else parsed


def _told_from(notebooks: Path, text: str) -> str:
    """A path, or several with commas between them, as a kernel beside the notebooks finds it.

    Not in full: what a notebook is given stands on the page, and where somebody's files lie is not for its readers.
    """
    if os.path.isfile(text):  # noqa: PTH113 (Path's raises on what is too long for a name)
        return os.path.relpath(Path(text).resolve(), notebooks.resolve())
    parts = [part.strip() for part in text.split(",")]
    told = [_told_from(notebooks, part) for part in parts] if len(parts) > 1 else parts
    return ",".join(told) if told != parts else text  # where no part is a file it is a text like any other


def plan(
    defaults: Mapping[str, Parameters], chosen: list[str], preset: dict[str, Parameters], given: Parameters
) -> dict[str, Parameters]:
    """What each chosen notebook will be given. Every name and type is checked before any kernel starts."""
    for stem, values in preset.items():
        if stem != "all" and stem not in defaults:
            raise BuildError(f"preset: no notebook {stem}{nearest(stem, list(defaults))}", status=2)
        _refuse_unknown(values, list(defaults) if stem == "all" else [stem], defaults, f"preset, {stem}")
    _refuse_unknown(given, chosen, defaults, "-p")
    planned: dict[str, Parameters] = {}
    for stem in chosen:
        wanted = {**preset.get("all", {}), **preset.get(stem, {}), **given}
        planned[stem] = {
            name: fitting(name, value, defaults[stem][name], stem)
            for name, value in wanted.items()
            if name in defaults[stem]
        }
    return planned


def _refuse_unknown(values: Parameters, stems: list[str], defaults: Mapping[str, Parameters], source: str) -> None:
    known = [name for stem in stems for name in defaults[stem]]
    for name in values:
        if name not in known:
            raise BuildError(f"{source}: no parameter {name} in {', '.join(stems)}{nearest(name, known)}", status=2)


def fitting(name: str, value: Any, default: Any, stem: str) -> Any:
    """The value, as the default's type; another type is refused. Where the default is None or computed, all will do."""
    if default is None or default is ...:
        return value
    if isinstance(default, float) and not isinstance(value, bool):
        # YAML 1.1 reads 1e-3 as a string, for want of a dot; in Python it is a float
        try:
            number = float(value)
            if math.isfinite(number):
                return number
        except (TypeError, ValueError, OverflowError):
            pass
    if isinstance(default, tuple | list) and isinstance(value, list):
        return [fitting(name, item, default[0], stem) for item in value] if default else value
    if type(value) is type(default) and not isinstance(default, float):
        return value
    raise BuildError(
        f"{stem}: parameter {name} expects {type(default).__name__} (default {default!r}), "
        f"got {type(value).__name__} {value!r}",
        status=2,
    )


def check_workers(workers: int) -> int:
    """How many notebooks may run side by side; each kernel is then given its share of the cores and no more."""
    cores = compute.available_cores()
    if not 1 <= workers <= cores:
        raise BuildError(f"--workers: expected 1 … {cores}, the cores of this machine, got {workers}", status=2)
    return workers


def check_inside(*paths: Path) -> None:
    """Refuse to write where a link would lead the output elsewhere."""
    for path in paths:
        if path.is_symlink():
            raise BuildError(f"{path} is a link, and the report writes nothing through links; remove it", status=2)


def run_notebooks(
    notebooks: Mapping[str, Path],
    folder: Path,
    planned: Mapping[str, Parameters],
    record: Mapping[str, str],
    workers: int = 1,
    tell: Tell = lambda stem, cell, sweep: None,
) -> Iterator[tuple[str, float]]:
    """Run the planned notebooks; yields stem and seconds as each ends.

    One after the other, unless there are `workers`. Starting a kernel and importing the libraries take longer than a
    notebook whose results are all stored. So the next kernel starts beside the running notebook. Its imports share the
    cores with that notebook's first few seconds, which can lengthen a time measured there; nothing else runs side by
    side.

    record: what each executed notebook keeps of this run, beside its parameters and seconds
    tell:   called with the stem and "cell 5 of 24" as each cell starts, and with how far the sweep in it is as that
            goes on ("restoration: 40 of 324 cells, about 900 s left")
    """
    compute.default()  # decided once, before there are threads that would each try
    if workers > 1:
        yield from _side_by_side(notebooks, folder, planned, record, workers, tell)
        return
    paths = [notebooks[stem] for stem in planned]
    with closing(_kernels(paths)) as kernels:
        for stem, kernel in zip(planned, kernels, strict=True):
            started = time.perf_counter()
            _run_notebook(notebooks[stem], folder, planned[stem], kernel, record, tell)
            yield stem, time.perf_counter() - started


def _side_by_side(
    notebooks: Mapping[str, Path],
    folder: Path,
    planned: Mapping[str, Parameters],
    record: Mapping[str, str],
    workers: int,
    tell: Tell,
) -> Iterator[tuple[str, float]]:
    """As many notebooks at once as there are workers; the conclusion, which reads what the others store, after them.

    Where one fails, those that run are finished and no other is started.
    """
    threads = str(min(compute.default().threads, compute.available_cores() // workers))
    # a sweep in a kernel may not start workers of its own
    share = {"DIPDDPM_THREADS": threads, "OMP_NUM_THREADS": threads, "WORKERS": "1"}
    running: set[_Kernel] = set()
    stopped = Event()

    def run(stem: str) -> float:
        started = time.perf_counter()
        kernel = _start_kernel(notebooks[stem], environment=share)
        running.add(kernel)
        if stopped.is_set():  # the stop came while this kernel started, and found it in nobody's hands
            kernel.kill()
        try:
            _run_notebook(notebooks[stem], folder, planned[stem], kernel, record, tell, stopped)
        finally:
            running.discard(kernel)
            kernel.end()
            ensure_event_loop().close()  # this thread's, which talked to the kernel
        return time.perf_counter() - started

    last = [stem for stem in planned if is_last(stem)]
    for stems in ([stem for stem in planned if stem not in last], last):
        with ThreadPoolExecutor(workers, "notebook") as pool:
            futures = {pool.submit(run, stem): stem for stem in stems}
            try:
                for future in as_completed(futures):
                    yield futures[future], future.result()
            except BuildError:
                pool.shutdown(wait=True, cancel_futures=True)
                raise
            except BaseException:  # Ctrl-C: the threads cannot be interrupted, their kernels can be killed
                stopped.set()
                pool.shutdown(wait=False, cancel_futures=True)
                for kernel in tuple(running):
                    kernel.kill()
                raise


def _kernels(paths: Sequence[Path]) -> Generator[_Kernel, None, None]:
    """A fresh kernel for each notebook, the next one already starting; each is shut down when its successor is due."""
    current = waiting = None
    try:
        for here, after in zip(paths, [*paths[1:], None], strict=True):
            current = waiting or _start_kernel(here)
            waiting = None
            if after is not None:
                waiting = _start_kernel(after, f"--IPKernelApp.exec_lines={PRELOAD}")
            yield current
            current.end()
    finally:
        for kernel in (current, waiting):
            if kernel is not None:
                kernel.end()


class _Kernel(KernelManager):
    """A kernel that closes the client it was run through: nbclient leaves that to whoever started the kernel.

    The client does not block: beside one that does, nbclient never sees that the kernel has died.
    """

    client_factory = AsyncKernelClient
    _client: KernelClient | None = None
    used: Path | None = None  # where the library says which results it served; see `store.USED`

    def client(self, **arguments: Any) -> Any:
        self._client = super().client(**arguments)
        return self._client

    def cost(self) -> dict[str, float]:
        """What computing the served results took, each once: their seconds together, and the most memory of any.

        The same whether they were computed now or long ago, so that a build which was killed ends in the same page.
        """
        lines: list[str] = []
        if self.used is not None:
            with suppress(FileNotFoundError):  # collected by age, beside a run of days
                lines = self.used.read_text(encoding="utf-8").splitlines()
        costs = {key: cost for line in lines for key, cost in json.loads(line).items()}
        if not costs:
            return {}
        seconds = sum(costs[key]["seconds"] for key in sorted(costs))
        return {"seconds": seconds, "memory": max(cost["bytes"] for cost in costs.values())}

    def kill(self) -> None:
        """From another thread than the one that runs it, which then finds it dead."""
        with suppress(OSError, AttributeError):
            os.kill(self.provisioner.pid, signal.SIGKILL)  # type: ignore[union-attr]

    def end(self) -> None:
        if self._client is not None:
            self._client.stop_channels()
        if self.has_kernel:
            self.shutdown_kernel(now=True)
        if self.used is not None:
            self.used.unlink(missing_ok=True)


class _Listener:
    """Where papermill writes what a notebook says on stderr: of that, a sweep's lines of progress are told on."""

    def __init__(self, tell: Callable[[str, str], None]):
        self.tell, self.cell = tell, ""

    def starts(self, cell: str) -> None:
        self.cell = cell
        self.tell(cell, "")

    def write(self, text: str) -> None:
        for line in text.splitlines():
            if experiment.PROGRESS.fullmatch(line):
                self.tell(self.cell, line)

    def flush(self) -> None:
        """papermill asks for it; nothing is held back."""


class _Engine(NBClientEngine):
    """papermill's own engine, which tells of each cell as it starts."""

    @classmethod
    def execute_managed_notebook(cls, manager: Any, kernel_name: str, stderr_file: _Listener, **more: Any) -> Any:
        start = manager.cell_start

        def told(cell: nbformat.NotebookNode, cell_index: int, **rest: Any) -> Any:
            stderr_file.starts(f"cell {cell_index + 1} of {len(manager.nb.cells)}")
            return start(cell, cell_index, **rest)

        manager.cell_start = told
        return super().execute_managed_notebook(manager, kernel_name, stderr_file=stderr_file, **more)


papermill_engines.register("telling", _Engine)


def _start_kernel(notebook: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> _Kernel:
    """A kernel of this environment in the notebook's own folder.

    All kernels of a build compute as this process would: a trial in each could end now so, now so, and results of one
    number type are not those of the other.
    """
    kernel = _Kernel(kernel_name="python3")  # jupyter_client starts this one with sys.executable
    # among what the store collects by age, in case this process is killed
    descriptor, used = tempfile.mkstemp(suffix=".used", dir=store.place_of("unfinished"))
    os.close(descriptor)
    kernel.used = Path(used)
    # a relative one is meant from here, not from the notebooks
    places = {"DIPDDPM_STORE": str(store.folder().resolve()), evidence.REPORT: "1"}
    # the level silences the kernel's own remarks at its start and end
    kernel.start_kernel(
        cwd=str(notebook.resolve().parent),
        extra_arguments=["--log-level=CRITICAL", *arguments],
        env={**os.environ, **compute.default().variables, **places, **(environment or {}), store.USED: used},
    )
    return kernel


def _run_notebook(
    path: Path,
    folder: Path,
    parameters: Parameters,
    kernel: _Kernel,
    record: Mapping[str, str],
    tell: Tell,
    stopped: Event | None = None,
) -> None:
    """Run one notebook in this kernel.

    folder/STEM.ipynb appears only when every cell has run: papermill writes as it goes, so it writes to another name.
    A failed run stays beside it as STEM.failed.ipynb; one that is stopped on purpose leaves nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder.resolve() / path.name
    failed = target.with_suffix(".failed.ipynb")
    unfinished = target.with_name(f".{path.stem}.unfinished.ipynb")
    check_inside(target, failed, unfinished)
    # papermill warns of what is checked here (no kernelspec language, unparsed parameters) and repeats what it raises;
    # asyncio remarks on the cell that Ctrl-C left
    for name in ("papermill", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        papermill.execute_notebook(
            str(path.resolve()),
            str(unfinished),
            parameters=parameters,
            kernel_name="python3",
            language="python",
            progress_bar=False,
            execution_timeout=CELL_TIMEOUT,
            km=kernel,
            engine_name="telling",
            stderr_file=_Listener(partial(tell, path.stem)),
        )
    except Exception as error:
        if stopped is not None and stopped.is_set():
            raise
        kept = ""
        if unfinished.exists():
            unfinished.replace(failed)
            kept = f" (partial notebook: {_shown(failed)})"
        raise BuildError(f"{path.stem}, {_failure(error, failed)}{kept}") from None
    else:
        executed = nbformat.read(unfinished, as_version=4)
        executed.metadata[RUN] = {**record, **kernel.cost()}
        nbformat.write(executed, unfinished)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)  # left by Ctrl-C
    failed.unlink(missing_ok=True)


def seconds_before(notebook: Path) -> float | None:
    """How long a notebook took when it was last run; None where it has not been."""
    try:
        return float(nbformat.read(notebook, as_version=4).metadata.papermill.duration)
    except (OSError, ValueError, TypeError, AttributeError):
        return None


# what a page is made of; not report/, which holds the page itself
MADE_OF = (
    *("dipddpm_lib", "notebooks", "benchmarks/*.json", "report/*.py", "report/*.css", "report/*.js", "report/*.bib"),
    *("report/template", "report/fonts"),
)


def commit(folder: Path) -> str:
    """The repository's commit, and whether what makes a page was changed since; empty without git."""
    try:
        head = _git(folder, "rev-parse", "--short=12", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--", *MADE_OF)
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{head} and changes that are not committed" if changed else head


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()


def _shown(path: Path) -> str:
    """A path as short as it can be typed."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def _failure(error: Exception, partial: Path) -> str:
    """`cell N: last line of the error`."""
    if isinstance(error, papermill.PapermillExecutionError):
        return f"cell {error.exec_count}: {error.ename}: {_last_line(error.evalue)}"
    return f"cell {_last_started(partial)}: {type(error).__name__}: {_last_line(str(error))}"


def _last_line(text: str) -> str:
    lines = [line for line in ANSI.sub("", text).splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


def _last_started(partial: Path) -> str:
    """Where a kernel died or a cell ran out of time there is no error output: the last cell that started is the one."""
    if not partial.exists():
        return "?"
    try:
        cells = [cell for cell in read(partial).cells if cell.cell_type == "code"]
    except BuildError:  # cut off where the disk was full
        return "?"
    started = [n for n, cell in enumerate(cells, 1) if cell.metadata.get("papermill", {}).get("start_time")]
    return str(started[-1]) if started else "?"


def prepare_environment() -> None:
    """What the kernels inherit: no clock in what libraries write, no debugger's remarks on stderr."""
    os.environ.setdefault("SOURCE_DATE_EPOCH", "0")
    os.environ.setdefault("JUPYTER_PREFER_ENV_PATH", "1")  # this environment's kernel, never one of the home folder
    os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")
