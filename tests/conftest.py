"""What every test shares: the guard over global random state, Hypothesis's profiles, the switch for type checks."""

from __future__ import annotations

import ast
import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported; bits depend on it
os.environ["DIPDDPM_RESULTS"] = ""  # a test sees what it computed itself, not the committed report's results

import hypothesis
import jaxtyping
import nbformat
import numpy as np
import pytest
import torch

# beartype draws which item of a list it checks; from a generator of its own, so that the guard below sees only us
_getrandbits, random.getrandbits = random.getrandbits, random.Random(0).getrandbits
import beartype  # noqa: E402, F401

random.getrandbits = _getrandbits

# on CI the examples are the same at each run: a failure there is the change's doing
hypothesis.settings.register_profile("ci", deadline=None, max_examples=40, derandomize=True, database=None)
hypothesis.settings.register_profile("dev", deadline=None, max_examples=40)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "global_random: this test itself may change the global random state")


@contextmanager
def global_random_state_unchanged() -> Iterator[None]:
    """Fail if the body draws from, or seeds, torch's, numpy's or Python's global generator."""
    torch_state, numpy_state, python_state = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    yield
    now = np.random.get_state()  # noqa: NPY002
    numpy_same = all(np.array_equal(a, b) for a, b in zip(numpy_state, now, strict=True))
    changed = [
        name
        for name, same in (
            ("torch", torch.equal(torch_state, torch.get_rng_state())),
            ("numpy", numpy_same),
            ("random", python_state == random.getstate()),
        )
        if not same
    ]
    if changed:
        pytest.fail(
            f"the global random state changed: {', '.join(changed)}; draw from a torch.Generator", pytrace=False
        )


@pytest.fixture(autouse=True)
def _global_random_state_unchanged(request: pytest.FixtureRequest) -> Iterator[None]:
    if request.node.get_closest_marker("global_random"):
        yield
        return
    with global_random_state_unchanged():
        yield


@pytest.fixture
def random_state_guard() -> Callable[[], AbstractContextManager[None]]:
    """The guard itself, for the tests that see it fail."""
    return global_random_state_unchanged


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Types unchecked as they are for users: what the library says itself of a wrong type is then seen."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@dataclass(frozen=True)
class Seen:
    """One visit of a page: requests that left it, what the console said, axe's findings, what `use` returned."""

    requests: list[str]
    complaints: list[str]
    scroll_width: int
    milliseconds: float
    violations: list[str]
    found: Any


class Visit(Protocol):
    def __call__(
        self,
        path: Path,
        width: int,
        scheme: str,
        audit: bool = False,
        use: Callable[[Any], Any] | None = None,
    ) -> Seen: ...


@pytest.fixture
def visit() -> Iterator[Visit]:
    """Open a page in Chromium with the network cut; `use` drives it, `audit` asks axe about it.

    Tests with this fixture are marked global_random: playwright draws names for what it talks to.
    """
    named = (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    program = next((found for name in named if name and (found := shutil.which(name))), None)
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("Chromium is not installed")
        pytest.skip("no Chromium on this machine")
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import sync_playwright

    flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=flags)

        def visited(
            path: Path, width: int, scheme: str, audit: bool = False, use: Callable[[Any], Any] | None = None
        ) -> Seen:
            context = browser.new_context(
                viewport={"width": width, "height": 900},
                color_scheme=scheme,  # type: ignore[arg-type]
                offline=True,
            )
            view = context.new_page()
            requests: list[str] = []
            complaints: list[str] = []
            view.on("request", lambda request: requests.append(request.url))
            view.on("console", lambda message: complaints.append(message.text))
            view.on("pageerror", lambda error: complaints.append(str(error)))
            view.goto(path.as_uri())
            milliseconds = view.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
            width_needed = view.evaluate("document.documentElement.scrollWidth")
            found = use(view) if use else None
            violations = Axe().run(view).response["violations"] if audit else []
            context.close()
            return Seen(
                [url for url in requests if not url.startswith(("data:", path.as_uri()))],
                complaints,
                width_needed,
                milliseconds,
                [
                    f"{v['id']} ({v['impact']}): {node['html'][:200]}"
                    for v in violations
                    if v["impact"] in ("serious", "critical")
                    for node in v["nodes"]
                ],
                found,
            )

        yield visited
        browser.close()


@pytest.fixture(scope="session")
def playground_parameters() -> dict[str, Any]:
    """Name → default of the parameters cell of notebooks/playground.ipynb."""
    notebook = nbformat.read(Path(__file__).resolve().parents[1] / "notebooks" / "playground.ipynb", as_version=4)
    (cell,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    assigned = [node for node in ast.parse(cell.source).body if isinstance(node, ast.AnnAssign) and node.value]
    return {node.target.id: ast.literal_eval(node.value) for node in assigned}  # type: ignore[union-attr]


@pytest.fixture(scope="session")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the page and the PDF lie that the project hands out: `make report` puts a reader's own in their place."""
    report = Path(__file__).resolve().parents[1] / "report"
    if "preset</th><td>paper</td>" in (report / "index.html").read_text(encoding="utf-8"):
        return report
    folder = tmp_path_factory.mktemp("committed")
    for name in ("index.html", "report.pdf"):
        kept = subprocess.run(["git", "show", f"HEAD:./{name}"], cwd=report, capture_output=True, check=True).stdout
        (folder / name).write_bytes(kept)
    return folder


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place of a store of the test's own, which is not there yet."""
    monkeypatch.setenv("DIPDDPM_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each DIP fit that is started."""
    from dipddpm_lib import dip

    started: list[int] = []
    real = dip.reconstruct

    def counted(*arguments: Any) -> Iterator[Any]:
        started.append(1)
        yield from real(*arguments)

    monkeypatch.setattr(dip, "reconstruct", counted)
    return started
