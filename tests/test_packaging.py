"""What is said about the project in several places agrees, and the layers of the library hold."""

from __future__ import annotations

import ast
import importlib.metadata
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import lxml.html
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
DEPENDENCIES = [*PROJECT["dependencies"], *(line for lines in EXTRAS.values() for line in lines)]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
IN_GIT = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """Run in the root, free of what an enclosing make hands down (its flags would change a nested make)."""
    inherited = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PRESET", "ONLY", "P")
    environment = {name: value for name, value in os.environ.items() if name not in inherited}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)


# Dependencies ---------------------------------------------------------------------------------------------------------


def pins() -> dict[str, Version]:
    """constraints.txt as name → version; every line must be an exact pin that is valid on any machine."""
    out: dict[str, Version] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][0-9A-Za-z.]*)", line)
        assert match, f"constraints.txt: expected name==version, got {line!r}"
        name = canonicalize_name(match[1])
        assert name not in out, f"constraints.txt pins {name} twice"
        out[name] = Version(match[2])
    return out


@pytest.mark.parametrize("dependency", DEPENDENCIES)
def test_every_dependency_is_pinned_within_its_range(dependency: str) -> None:
    requirement = Requirement(dependency)
    assert requirement.specifier, f"{dependency} has no lower bound"
    assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)])


def test_constraints_reach_everything_that_gets_installed() -> None:
    """Follow the installed packages' own requirements from pyproject's, as far as they are installed here."""
    pinned, seen = pins(), set()
    todo = [(Requirement(line), frozenset[str]()) for line in DEPENDENCIES]
    while todo:
        requirement, extras_above = todo.pop()
        marker = requirement.marker
        if marker and not any(marker.evaluate({"extra": extra}) for extra in (extras_above or {""})):
            continue
        name, extras = canonicalize_name(requirement.name), frozenset(requirement.extras)
        if (name, extras) in seen or name == "pip":  # which comes with the environment, and asks for nothing
            continue
        seen.add((name, extras))
        assert name in pinned, f"{requirement} is installed, yet constraints.txt does not pin it"
        try:
            lines = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # an extra that this environment goes without
        todo += [(Requirement(line), extras | {""}) for line in lines]
    assert len(seen) > len(DEPENDENCIES)


@pytest.mark.parametrize(
    ("name", "least"),
    [
        *(("torch", "2.13.0"), ("jupyter-server", "2.20"), ("pillow", "12.3")),
        *(("nbconvert", "7.17.1"), ("distributed", "2026.1")),
    ],
)
def test_pins_that_were_decided(name: str, least: str) -> None:
    """torch exactly, since stored results depend on its bits; the others for faults in older versions."""
    assert pins()[name] == Version(least) if name == "torch" else pins()[name] >= Version(least)


@pytest.mark.parametrize("name", ["pillow", "nbconvert", "distributed", "jupyter-server"])
def test_ranges_leave_out_versions_with_known_faults(name: str) -> None:
    """A pin holds who installs through it; the range holds everybody."""
    floors = {"pillow": "12.3", "nbconvert": "7.17.1", "distributed": "2026.1", "jupyter-server": "2.20"}
    (line,) = {line for line in DEPENDENCIES if canonicalize_name(Requirement(line).name) == name}
    assert Requirement(line).specifier == SpecifierSet(f">={floors[name]}")


@pytest.mark.parametrize("dependency", sorted(set(DEPENDENCIES)))
def test_every_dependency_states_its_reason(dependency: str) -> None:
    lines = [line for line in (ROOT / "pyproject.toml").read_text().splitlines() if f'"{dependency}"' in line]
    assert lines
    for line in lines:
        assert re.search(r'",\s+# \S.{7,}', line), f"pyproject.toml: no reason beside {line.strip()}"


def test_every_import_is_a_named_dependency() -> None:
    """A package that is imported here, yet installed only because another one needs it, can vanish with an update."""
    files = [
        file for folder in ("dipddpm_lib", "report", "benchmarks", "tests") for file in ROOT.glob(f"{folder}/*.py")
    ]
    own = {"dipddpm_lib"} | {file.stem for file in files}
    tops: set[str] = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                tops |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                tops.add(node.module.split(".")[0])
    provided_by = importlib.metadata.packages_distributions()
    named = {canonicalize_name(Requirement(line).name) for line in DEPENDENCIES}
    unnamed = {
        top
        for top in tops - own - set(sys.stdlib_module_names)
        if not named & {canonicalize_name(name) for name in provided_by.get(top, [top])}
    }
    assert not unnamed, f"imported, but not in pyproject.toml: {sorted(unnamed)}"


def python_range() -> SpecifierSet:
    return SpecifierSet(PROJECT["requires-python"])


def test_environment_yml_agrees_with_pyproject() -> None:
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["channels"] == ["conda-forge"]
    conda = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    assert {re.split(r"[<>=]", entry)[0] for entry in conda} == {"python", "pip", "make"}
    (python,) = [entry for entry in conda if entry.startswith("python")]
    assert SpecifierSet(python.removeprefix("python")) == python_range()
    assert pip[0] == "-c constraints.txt"
    (install,) = pip[1:]
    match = re.fullmatch(r"-e \.\[([a-z,]+)\]", install)
    assert match
    assert set(match[1].split(",")) <= EXTRAS.keys()
    assert match[1] in make_variables("EXTRAS"), "environment.yml and the Makefile install different extras"


# Makefile and README --------------------------------------------------------------------------------------------------

TARGETS = (
    "help",
    "report",
    "paper",
    "render",
    "test",
    "test-fast",
    "bench",
    "priors",
    "faults",
    "lab",
    "check",
    "clean",
)


def make_variables(name: str) -> list[str]:
    return re.findall(rf"^{name} [:?]?= (.*)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


def builder_arguments(*arguments: str) -> list[str]:
    """What `make -n …` would hand to report/build.py."""
    done = run("make", "-n", *arguments)
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "report/build.py" in line]
    return shlex.split(line)[2:]


@pytest.mark.parametrize("target", TARGETS)
def test_make_knows(target: str) -> None:
    done = run("make", "-n", target)
    assert done.returncode == 0, done.stderr


def test_make_report_hands_its_variables_on() -> None:
    assert builder_arguments("report") == ["--preset", "quick"]
    assert builder_arguments("paper", "PRESET=quick") == ["--preset", "paper"]
    assert builder_arguments("paper", "WORKERS=2") == ["--preset", "paper", "--workers", "2"]
    assert builder_arguments("report", "WORKERS=2") == ["--preset", "quick", "--workers", "2"]
    assert builder_arguments("report", "PRESET=smoke", "ONLY=03_hybrid 01_dip", "P=image=it's size=96") == [
        *("--preset", "smoke", "--only", "03_hybrid", "--only", "01_dip", "-p", "image=it's", "-p", "size=96")
    ]


def test_make_paper_gives_its_sweeps_all_cores(tmp_path: Path) -> None:
    """The variable reaches the builder's environment, unless another number of notebooks side by side is asked for."""
    for path in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / path, tmp_path)
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nprintf "%s|" "$WORKERS" "$DIPDDPM_THREADS" "$@"\n')
    python.chmod(0o755)
    (tmp_path / ".venv/.installed").touch()
    for arguments, said in {
        ("paper",): "all|1|report/build.py|--preset|paper|",
        ("paper", "WORKERS=2"): "2|1|report/build.py|--preset|paper|--workers|2|",
        ("report",): "||report/build.py|--preset|quick|",
    }.items():
        variables = {k: v for k, v in os.environ.items() if k not in ("WORKERS", "DIPDDPM_THREADS", "MAKEFLAGS")}
        done = subprocess.run(
            ["make", "-s", *arguments], cwd=tmp_path, capture_output=True, text=True, check=True, env=variables
        )
        assert done.stdout == said


def test_makefile_asks_for_the_same_python() -> None:
    makefile = (ROOT / "Makefile").read_text()
    bounds = re.search(r"\((\d+), (\d+)\) <= sys\.version_info\[:2\] < \((\d+), (\d+)\)", makefile)
    assert bounds
    assert SpecifierSet(f">={bounds[1]}.{bounds[2]},<{bounds[3]}.{bounds[4]}") == python_range()


def test_make_refuses_another_python_in_one_line(tmp_path: Path) -> None:
    old = tmp_path / "python3.10"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 3.10.1 && exit\nexit 1\n')
    old.chmod(0o755)
    # --what-if makes the stamp look outdated; the recipe ends at the version check, before anything is installed
    done = run("make", f"PYTHON={old}", "--what-if=pyproject.toml", ".venv/.installed")
    assert done.returncode != 0
    first, *rest = done.stderr.splitlines()
    assert first.startswith("Python 3.11 to 3.14 is needed")
    assert "Python 3.10.1" in first
    assert all(line.startswith("make") for line in rest)


def test_readme_names_make_targets() -> None:
    readme = (ROOT / "README.md").read_text()
    code = "\n".join(re.findall(r"```.*?\n(.*?)```", readme, flags=re.DOTALL) + re.findall(r"`([^`\n]+)`", readme))
    named = set(re.findall(r"\bmake ([a-z-]+)", code))
    assert {"report", "test"} <= named <= set(TARGETS)


def test_readme_links_lead_to_files() -> None:
    readme = (ROOT / "README.md").read_text()
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", readme) + re.findall(r"papermill (notebooks/\S+\.ipynb)", readme)
    missing = [link for link in links if not (ROOT / link).exists()]
    assert not missing, f"README.md names files that do not exist: {missing}"


# The checkout ---------------------------------------------------------------------------------------------------------


@IN_GIT
@pytest.mark.parametrize("path", ["results/x.json", "report/executed/01_dip.ipynb", ".venv/bin/python"])
def test_git_ignores_what_is_made(path: str) -> None:
    assert run("git", "check-ignore", "-q", path).returncode == 0


@IN_GIT
def test_no_large_file() -> None:
    done = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    assert done.returncode == 0, done.stderr
    files = [ROOT / name for name in done.stdout.split("\0") if name]
    assert files
    large = {str(file): file.stat().st_size for file in files if file.is_file() and file.stat().st_size > 8_000_000}
    assert not large


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_carry_no_outputs(notebook: Path) -> None:
    cells = [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]
    assert cells
    assert not [cell for cell in cells if cell["outputs"] or cell["execution_count"] is not None]


def test_versions_agree() -> None:
    version = PROJECT["version"]
    assert str(yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"]) == version
    assert f"## {version}" in (ROOT / "CHANGELOG.md").read_text()
    done = run(sys.executable, "-c", "import dipddpm_lib; print(dipddpm_lib.__version__)")
    assert done.stdout.strip() == version, done.stderr


# Code that data could turn into --------------------------------------------------------------------------------------

FORBIDDEN = {"eval", "exec", "compile", "pickle", "cPickle", "dill", "marshal", "shelve", "joblib", "torch.load"}
FORBIDDEN |= {"torch.save", "numpy.load", "np.load", "os.system", "os.popen", "pandas.read_pickle", "pd.read_pickle"}
FORBIDDEN |= {"yaml.load", "yaml.unsafe_load", "subprocess.getoutput", "subprocess.getstatusoutput"}


def dangers(source: str) -> list[str]:
    """What in a source runs, or unpickles, what it is given."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [f"line {node.lineno}: {name}" for name in modules if name.partition(".")[0] in FORBIDDEN]
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in FORBIDDEN or name.partition(".")[0] in FORBIDDEN:
                found.append(f"line {node.lineno}: {name}")
            for keyword in node.keywords:
                given = ast.unparse(keyword.value)
                if (keyword.arg, given) in {("shell", "True"), ("allow_pickle", "True"), ("weights_only", "False")}:
                    found.append(f"line {node.lineno}: {name}({keyword.arg}={given})")
    return found


@pytest.mark.parametrize(
    "line",
    [
        *("eval(x)", "exec(x)", "import pickle", "from pickle import load", "torch.load(p)", "np.load(p)"),
        *("subprocess.run(x, shell=True)", "os.system(x)", "yaml.load(x)", "def f():\n    import joblib"),
    ],
)
def test_dangers_sees_every_form(line: str) -> None:
    assert dangers(line)
    assert not dangers("network.eval()\nre.compile(x)\nsubprocess.run([x])\nyaml.safe_load(x)\nload_tensors(d)")


SHIPPED = [path for folder in ("dipddpm_lib", "report", "benchmarks") for path in sorted((ROOT / folder).glob("*.py"))]


@pytest.mark.parametrize("path", [*SHIPPED, *NOTEBOOKS], ids=lambda path: path.name)
def test_nothing_turns_data_into_code(path: Path) -> None:
    sources = [path.read_text()]
    if path.suffix == ".ipynb":
        cells = json.loads(sources[0])["cells"]
        sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert [danger for source in sources for danger in dangers(source)] == []


def audit(folder: Path, service: str) -> subprocess.CompletedProcess[str]:
    """`make audit` as if everything were installed, and this shell line were pip-audit; $json is its output file."""
    script = 'for each; do json=$each; done; case "$*" in *probe*) probe=1;; *) probe=;; esac'
    (folder / "python").write_text(f'#!/bin/sh\n[ "$1" = -c ] && exit 0\n{script}\n{service}\n')
    (folder / "python").chmod(0o755)
    (ROOT / ".venv").mkdir(exist_ok=True)
    return run("make", "-o", ".venv/.installed", "audit", f"BIN={folder}")


@pytest.mark.parametrize(
    "service",
    [
        "echo 'ConnectionError' >&2; exit 1",
        """echo '{"dependencies": [{"name": "pillow", "skip_reason": "not found"}]}' > $json""",
    ],
    ids=["no network", "a mirror"],
)
def test_an_audit_without_a_service_says_so_and_lets_the_check_go_on(service: str, tmp_path: Path) -> None:
    done = audit(tmp_path, f"[ -z $probe ] && echo asked about all; {service}")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"audit: not done, no advisory service answers about pillow=={pins()['pillow']}")


@pytest.mark.parametrize("status", [0, 1])
def test_an_audit_fails_the_check_where_it_finds_a_fault(status: int, tmp_path: Path) -> None:
    answer = """echo '{"dependencies": [{"name": "pillow", "vulns": []}]}' > $json"""
    done = audit(tmp_path, f"if [ $probe ]; then {answer}; else echo told of all; exit {status}; fi")
    assert (done.returncode != 0) == bool(status)
    assert done.stdout == "told of all\n"


# Layers ---------------------------------------------------------------------------------------------------------------


def test_the_readme_tells_the_finding_of_the_page(committed: Path) -> None:
    """In the words of the rendered report: its numbers are computed, and the README may not lag behind."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    part = readme.split("## What it found")[1].split("\n## ")[0]
    page = lxml.html.fromstring((committed / "index.html").read_text(encoding="utf-8"))
    text, said = (" ".join(part.text_content().split()) for part in (page, page.get_element_by_id("finding")))
    items = [item.split("\n\n")[0] for item in part.split("\n- ")[1:]]
    told = [" ".join(item.replace("**", "").split()) for item in items]
    assert len(told) == 3
    for sentence in told:
        assert sentence in said
    # what follows the three is from the page's conclusion and its table of whole fits
    whole = re.search(r"that fit of DIP's gains (\S+ \[\S+ \S+\] dB)", text)
    assert whole
    assert f"DIP's own whole fit, handed over, gains {whole[1]}, in every task" in " ".join(part.split())
    everywhere = "It gains in the mean of 9 of 9 tasks, and on each of the photographs in 9"
    assert everywhere in text
    assert "DIP alone may take 1500 iterations" in text


LAYERS = (
    ("types", "images", "compute"),
    ("schedules", "operators", "networks", "optimise", "metrics", "distribution", "priors", "store", "archive"),
    ("dip", "ddpm", "hybrid", "classical", "adapters", "tiles"),
    ("cells", "evidence", "workers", "experiment", "claims", "narrative", "replay", "plotting", "play"),
    ("widgets",),
)
LAYER = {module: depth for depth, modules in enumerate(LAYERS) for module in modules}
SIDEWAYS = {
    ("images", "types"),
    ("images", "compute"),
    ("compute", "types"),
    ("hybrid", "dip"),
    ("hybrid", "ddpm"),
    ("hybrid", "classical"),
    ("priors", "networks"),
    ("evidence", "cells"),
    ("experiment", "cells"),
    ("experiment", "evidence"),
    ("experiment", "workers"),
    ("claims", "evidence"),
    ("claims", "narrative"),
    ("play", "cells"),
}
MODULES = sorted(path.stem for path in (ROOT / "dipddpm_lib").glob("*.py") if path.stem != "__init__")


def imported(source: str) -> set[str]:
    """The library's modules that a module of it imports, wherever in the file the import stands."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            package = ".".join(["dipddpm_lib"] * bool(node.level) + [node.module] * bool(node.module))
            names |= {package} | {f"{package}.{alias.name}" for alias in node.names}
    parts = (name.split(".") for name in names)
    return {part[1] for part in parts if part[0] == "dipddpm_lib" and len(part) > 1 and part[1] in LAYER}


def test_imported_sees_every_form() -> None:
    source = """
from . import images, __version__
from .types import Image
import dipddpm_lib.compute
def late():
    from dipddpm_lib.schedules import spacing
    from dipddpm_lib import networks as n
"""
    assert imported(source) == {"images", "types", "compute", "schedules", "networks"}


def test_every_module_has_a_layer() -> None:
    assert set(MODULES) <= LAYER.keys()


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downward(module: str) -> None:
    others = imported((ROOT / "dipddpm_lib" / f"{module}.py").read_text()) - {module}
    wrong = {other for other in others if LAYER[other] >= LAYER[module] and (module, other) not in SIDEWAYS}
    assert not wrong, f"{module} (layer {LAYER[module]}) imports {sorted(wrong)}"
    assert "replay" not in others, "the broken samplers stay by themselves"


def test_importing_the_package_loads_none_of_it() -> None:
    """So that a version or a path costs milliseconds, and thread settings still count when torch is loaded."""
    done = run(sys.executable, "-c", "import sys, dipddpm_lib; print(*sys.modules)")
    loaded = {name for name in done.stdout.split() if name.split(".")[0] in ("dipddpm_lib", "torch", "numpy")}
    assert loaded == {"dipddpm_lib"}, done.stderr
