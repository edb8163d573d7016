"""The notebooks: built as the handwriting asks, and run as papermill runs them."""

from __future__ import annotations

import ast
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import papermill.cli
import pytest
import torch
import yaml
from click.testing import CliRunner

from dipddpm_lib import claims, images, play

if TYPE_CHECKING:
    from conftest import Visit

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "report"))

import execution  # noqa: E402 (report/ is a folder of scripts, not a package)

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PRESETS = sorted((ROOT / "notebooks" / "presets").glob("*.yaml"))
NAMES = (
    "00_introduction",
    "01_dip",
    "02_ddpm",
    "03_hybrid",
    "04_ablation_dip_architecture",
    "05_ablation_timesteps",
    "06_ablation_noise_and_schedules",
    "07_restoration",
    "08_conclusion",
    "A1_reported_numbers",
    "A2_speed",
    "A3_hand_off",
)


def _cells(path: Path, kind: str) -> list[nbformat.NotebookNode]:
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == kind]


def _parameters(path: Path) -> str:
    (cell,) = [c for c in _cells(path, "code") if "parameters" in c.metadata.get("tags", [])]
    return str(cell.source)


def test_the_ten_notebooks_and_the_bench_are_there_and_the_playground_beside_them() -> None:
    assert tuple(path.stem for path in NOTEBOOKS) == (*NAMES, "playground")


def test_the_playground_is_no_section_of_the_report() -> None:
    assert tuple(execution.find_notebooks(ROOT / "notebooks")) == NAMES


def test_the_playground_shows_only_the_panel() -> None:
    cells = nbformat.read(ROOT / "notebooks" / "playground.ipynb", as_version=4).cells
    assert [cell.cell_type for cell in cells] == ["markdown", "code", "code"]
    assert all(cell.metadata["jupyter"]["source_hidden"] for cell in cells[1:])
    assert cells[-1].source.endswith("panel.widget")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_papermill_tells_each_parameter_with_type_default_and_meaning(path: Path) -> None:
    """What `papermill --help-notebook` prints, by the function that prints it."""
    told = CliRunner().invoke(papermill.cli.papermill, ["--help-notebook", str(path)])
    assert told.exit_code == 0
    shown = " ".join(told.output.split())
    assert "Unknown type" not in shown
    for line in _parameters(path).splitlines():
        match = re.fullmatch(r"(\w+): (\w+) = (.*?)  # (.*)", line)
        assert match, line
        name, kind, default, meaning = match.groups()
        assert f"{name}: {kind} (default {default}) {meaning}" in shown


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_parameters_are_typed_and_explained(path: Path) -> None:
    for line in _parameters(path).splitlines():
        node = ast.parse(line).body[0]
        assert isinstance(node, ast.AnnAssign), f"{line}: no type"
        assert isinstance(node.target, ast.Name)
        assert len(line.split("#", 1)) == 2, f"{line}: no explanation"
        value = ast.literal_eval(node.value)  # type: ignore[arg-type]
        assert type(value).__name__ == ast.unparse(node.annotation)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebooks_are_prose_with_short_code(path: Path) -> None:
    code, prose = _cells(path, "code"), _cells(path, "markdown")
    # parameters are a list, one a line with what it means, and no code to follow
    lengths = [len(cell.source.splitlines()) for cell in code if "parameters" not in cell.metadata.get("tags", [])]
    assert max(lengths) <= 25, f"cells of {[n for n in lengths if n > 25]} lines"
    assert statistics.median(lengths) <= 15
    assert not any(cell.outputs or cell.execution_count for cell in code)
    assert prose[0].source.startswith("#")
    assert "plotting.settings(" in "\n".join(cell.source for cell in code), "settings, machine and seeds are not shown"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_a_link_says_something_to_who_reads_the_notebook_itself(path: Path) -> None:
    assert "[](" not in "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells)


def test_the_headings_follow_the_writeup() -> None:
    text = "\n".join(cell.source for path in NOTEBOOKS for cell in _cells(path, "markdown"))
    order = [
        "# 1 Introduction",
        "# 2 Theoretical Justification",
        "## 2.1 Deep Image Prior",
        "## 2.2 Denoising Diffusion Probabilistic Models",
        "## 2.3 Combining DIP and DDPM",
        "# 3 Experimental Verification",
        "## 3.1 Implementation",
        "## 3.2 Experimental Setup",
        "## 3.3 Results",
        "## 3.4 Analysis",
        "# 4 Ablation Studies and Analysis",
        "## 4.1 Impact of DIP Architecture",
        "## 4.2 Influence of DDPM Timesteps",
        "## 4.3 Noise Levels and Denoising Schedules",
        "# 5 Conclusion",
    ]
    places = [re.search(f"^{re.escape(heading)}", text, re.MULTILINE) for heading in order]
    assert all(places)
    starts = [place.start() for place in places if place]
    assert starts == sorted(starts)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda p: p.stem)
def test_presets_name_only_declared_parameters(preset: Path) -> None:
    for stem, values in yaml.safe_load(preset.read_text()).items():
        declared = {
            node.target.id
            for node in ast.parse(_parameters(ROOT / "notebooks" / f"{stem}.ipynb")).body
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
        }
        assert set(values) <= declared, f"{stem}: {set(values) - declared}"


def _environment(store: Path) -> dict[str, str]:
    return {**os.environ, "DIPDDPM_STORE": str(store), "GOMP_SPINCOUNT": "20000"}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One store for all that runs here, so that the second run has something to find."""
    return tmp_path_factory.mktemp("store")


def _build(store: Path, output: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "report" / "build.py"), "--preset", "smoke", "--output", str(output), *more]
    return subprocess.run(command, env=_environment(store), capture_output=True, text=True, timeout=1500)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # two cores without bf16, with other tests beside, take more than ten minutes
@pytest.mark.global_random  # the browser's driver draws names
def test_every_notebook_runs_and_the_report_renders(store: Path, tmp_path: Path, visit: Visit) -> None:
    """`make report` at the smoke preset, twice: all ten notebooks, one page; then the same from the store."""
    start = time.monotonic()
    first = _build(store, tmp_path, "--no-pdf")
    cold = time.monotonic() - start
    assert first.returncode == 0, first.stdout + first.stderr
    page = (tmp_path / "index.html").read_text()
    for name in NAMES:
        assert name in first.stdout
        assert f"code of {name}" in page
    assert page.count("<figure") > 25
    assert "<math" in page
    assert "does not hold" in page
    assert not re.search(r"\bnan\b", re.sub(r"data:image/[^\"]+", "", page)), "a number was not computed"
    assert "Not measured yet" not in page.partition("<main")[0], "the finding on the first screen"
    for width, scheme in ((360, "light"), (1600, "dark")):
        seen = visit(tmp_path / "index.html", width, scheme, audit=True)
        assert (seen.requests, seen.complaints, seen.violations) == ([], [], [])
        assert seen.scroll_width <= width
    results = {p.name for p in store.iterdir() if (p / "record.json").exists()}

    start = time.monotonic()
    second = _build(store, tmp_path, "--no-pdf")
    assert second.returncode == 0, second.stdout + second.stderr
    assert {p.name for p in store.iterdir() if (p / "record.json").exists()} == results, "a second run computed anew"
    assert time.monotonic() - start < cold
    assert (tmp_path / "index.html").read_text() == page, "what is told comes from stored results, their cost too"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        (["inpaint_70"], ["70 % of the pixels missing, astronaut: DIP+DDPM takes what was measured from", "of 1 task"]),
        (["denoise_10"], ["Gaussian noise, σ = 10/255, astronaut: DIP+DDPM takes what was measured from"]),
        (["compressive_10", "deblur"], ["the start that is chosen, so no other was tried here", "of 2 tasks"]),
    ],
    ids=lambda value: value[0],
)
def test_restoration_takes_the_tasks_that_matter(
    tasks: list[str], said: list[str], store: Path, tmp_path: Path
) -> None:
    """Each shape of a choice: one task, noise alone (where no chain is longer than is worth it), DIP's tasks alone."""
    more = ("--only", "07_restoration", "-p", f"tasks={json.dumps(tasks)}", "-p", "ddpm_steps=[3, 101]", "--no-pdf")
    done = _build(store, tmp_path, *more)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "index.html").read_text()
    for text in said:
        assert text in page
    assert not re.search(r"\bnan\b", re.sub(r"data:image/[^\"]+", "", page)), "a number was not computed"


@pytest.mark.slow
def test_the_longest_chains_have_all_seeds_where_they_matter(store: Path, tmp_path: Path) -> None:
    """With two seeds: a task whose first seed gains nothing by 101 steps has them once, and the page says so."""
    tasks = ["denoise_25", "super_x4", "compressive_10"]
    more = ("-p", "seeds=2", "-p", f"tasks={json.dumps(tasks)}", "-p", "ddpm_steps=[3, 101]", "--no-pdf")
    done = _build(store, tmp_path, "--only", "07_restoration", *more)
    assert done.returncode == 0, done.stdout + done.stderr
    kept = json.loads((store / "collections" / "report.restoration.json").read_text().partition("\n")[2])["entries"]
    psnr: dict[tuple[str, str], list[float]] = {}
    for entry in kept:
        cell = entry["cell"]
        if cell["label"].startswith("DDPM, ") and "handed" not in cell["label"]:
            trace = json.loads((store / entry["key"] / "record.json").read_text())["trace"]
            psnr.setdefault((cell["task"], cell["label"].removeprefix("DDPM, ")), []).append(trace[-1][2])
    often = {task: len(psnr[task, "101"]) for task in tasks}
    for task in tasks:
        gain = psnr[task, "101"][0] - max(scores[0] for (of, n), scores in psnr.items() if of == task and n != "101")
        assert often[task] == (2 if gain > claims.TIE_DB else 1)
    said = "with the first seed alone where these gained it 0.1 dB or less"
    assert (said in (tmp_path / "index.html").read_text()) == (1 in often.values())


@pytest.mark.slow
def test_a_build_that_was_killed_ends_in_the_page_of_one_that_was_not(tmp_path: Path) -> None:
    """Killed with -9 as its first results come, and once more later; its store then serves a build left alone."""
    results, chosen = tmp_path / "store", ("--only", "03_hybrid", "--only", "05_ablation_timesteps", "--no-pdf")
    command = [sys.executable, str(ROOT / "report" / "build.py"), "--preset", "smoke", *chosen]
    for enough in (2, 5):
        with subprocess.Popen(
            [*command, "--output", str(tmp_path / "killed")],
            env=_environment(results),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as build:
            deadline = time.monotonic() + 300
            while len([*results.glob("*/record.json")]) < enough and build.poll() is None:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            assert build.poll() is None, "killed while it ran, or the test says nothing"
            os.killpg(build.pid, signal.SIGKILL)
    pages = []
    for name in ("killed", "alone"):
        done = _build(results, tmp_path / name, *chosen)
        assert done.returncode == 0, done.stdout + done.stderr
        pages.append((tmp_path / name / "index.html").read_bytes())
    assert pages[0] == pages[1]
    runs = pages[0].decode().partition('class="runs"')[2].partition("</table>")[0]
    (row,) = re.findall(r"03_hybrid.*?</tr>", runs, re.DOTALL)
    assert re.search(r"<td class=\"number\">\d+\.\d</td>", row), "and the record says what its results took"


def _papermill(store: Path, output: Path, name: str, **parameters: object) -> subprocess.CompletedProcess[str]:
    small = yaml.safe_load((ROOT / "notebooks" / "presets" / "smoke.yaml").read_text())[name]
    source = ROOT / "notebooks" / f"{name}.ipynb"
    command = [sys.executable, "-m", "papermill", str(source), str(output), "--no-progress-bar", "-y"]
    return subprocess.run(
        [*command, yaml.safe_dump(small | parameters)],
        env=_environment(store),
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_a_reader_restores_a_photograph_of_their_own(store: Path, tmp_path: Path) -> None:
    photograph = tmp_path / "my photo.png"
    images.save(images.load("rocket", (90, 120)), photograph)
    run = _papermill(store, tmp_path / "out.ipynb", "07_restoration", image=str(photograph))
    assert run.returncode == 0, run.stderr[-2000:]
    text = (tmp_path / "out.ipynb").read_text()
    assert "my photo.png" in text
    assert "tab-restoration" in text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("parameters", "part"),
    [
        ({"image": "no such photograph"}, "is neither a file nor a bundled photograph"),
        ({"image": "camera"}, "both bundled priors were trained on this image"),
        ({"T": 1}, "T counts the steps of the diffusion"),
    ],
)
def test_bad_parameters_end_in_one_clear_line(
    store: Path, tmp_path: Path, parameters: dict[str, object], part: str
) -> None:
    name = "03_hybrid" if "T" in parameters else "07_restoration"
    run = _papermill(store, tmp_path / "out.ipynb", name, **parameters)
    assert run.returncode != 0
    last = [line for line in run.stderr.splitlines() if line.strip()][-1]
    assert "InputError" in last
    assert part in last


@pytest.mark.slow
def test_the_panels_command_repeats_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line that the panel prints, in a shell: the same bits as the run that it was printed for."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notebooks").symlink_to(ROOT / "notebooks")
    if (ROOT / ".venv").exists():
        (tmp_path / ".venv").symlink_to(ROOT / ".venv")
    photograph = play.Photograph("it's mine.png", play.png(images.to_array(images.load("rocket", (40, 50)))))
    Path(photograph.path).write_bytes(photograph.content)
    choice = play.Choice(photograph.path, 32, task="denoise", strength=30.0, iterations=8, steps=2, seed=3)
    *_, last = play.frames(choice, photograph)
    bin_first = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**_environment(tmp_path / "store"), "PATH": bin_first, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        play.command(choice), shell=True, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    (saved,) = (tmp_path / "saved").iterdir()
    assert torch.equal(images.to_uint8(images.load(saved)), images.to_uint8(last.x0_hat))
    assert "restored" in (tmp_path / "playground.out.ipynb").read_text()
