"""The README's pictures of the page and of the panel, after one run of each method: python report/panel.py."""

from __future__ import annotations

import io
import os
import re
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, ImageOps
from playwright.sync_api import Browser, Locator, Page, sync_playwright

import printing
from errors import BuildError

ROOT = Path(__file__).resolve().parents[1]
IDLE = "window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
LONG = 300_000  # milliseconds that a busy machine may need for what takes a few thousand
OF_MAKE = ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "LAB_ARGS")  # what an enclosing make would hand on


def lab_arguments() -> list[str]:
    """JupyterLab as `make lab` starts it."""
    environment = {name: value for name, value in os.environ.items() if name not in OF_MAKE}
    command = ["make", "-n", "lab"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=60)
    (line,) = [line for line in done.stdout.splitlines() if " -m jupyterlab " in line]
    return shlex.split(line)[1:]


@contextmanager
def lab(folder: Path) -> Iterator[str]:
    """The address of a copy of the playground in `folder`, on a server on this machine alone that stops at the end."""
    shutil.copytree(ROOT / "notebooks", folder / "notebooks", ignore=shutil.ignore_patterns(".*", "saved"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JUPYTER_PREFER_ENV_PATH": "1", "JUPYTER_TOKEN": token}
    for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_WORKSPACES_DIR"):
        environment[name] = str(folder / name.lower())
    options = [f"--ServerApp.port={port}", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={folder}"]
    # for a machine that looks: root in a container, no window, the application within reach of the page
    options += ["--allow-root", "--no-browser", "--LabApp.expose_app_in_browser=True"]
    log = folder / "server.log"
    with log.open("w") as out:
        command = [sys.executable, *lab_arguments(), *options]
        server = subprocess.Popen(
            command, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        _wait(f"http://127.0.0.1:{port}/api/status?token={token}", server, log)
        yield f"http://127.0.0.1:{port}/lab/tree/notebooks/playground.ipynb?token={token}&reset"
    finally:
        server.send_signal(signal.SIGTERM)  # which ends its kernels too
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _wait(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + LONG / 1000
    while time.monotonic() < until and server.poll() is None:
        try:
            urllib.request.urlopen(address, timeout=5).close()
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
        else:
            return
    raise BuildError(f"JupyterLab did not start: {log.read_text()[-2000:]}")


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's Chromium."""
    found = printing.find_browser()
    if found is None:
        raise BuildError("no Chromium: install it, or set CHROMIUM=/path/to/it")
    with sync_playwright() as driver:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        browser = driver.chromium.launch(executable_path=found, args=arguments)
        yield browser
        browser.close()


def open_panel(page: Page, address: str) -> Locator:
    """Open the playground and run all of its cells, as a reader does."""
    page.goto(address)
    page.wait_for_function(IDLE, timeout=LONG)
    page.evaluate("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    panel = page.locator(".jp-OutputArea-output .dd-panel")
    panel.wait_for(timeout=LONG)
    page.wait_for_function(IDLE, timeout=LONG)
    return panel


def button(panel: Locator, name: str) -> Locator:
    """Run, Stop, Continue or Save PNG."""
    return panel.locator(f"button:has-text('{name}')").first


def status(panel: Locator, pattern: str) -> str:
    """The status line, once it matches."""
    line = panel.locator(".dd-status")
    line.filter(has_text=re.compile(pattern)).wait_for(timeout=LONG)
    return str(line.inner_text())


def _kept(taken: bytes, name: str, border: int) -> None:
    target = Path(__file__).with_name(name)
    picture = ImageOps.expand(Image.open(io.BytesIO(taken)).convert("RGB"), border, "white")
    picture.save(target, quality=80, method=6)
    print(f"{target.name}: {picture.width} × {picture.height}, {target.stat().st_size / 1000:.0f} kB")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, lab(Path(folder)) as address, chromium() as browser:
        page = browser.new_page(viewport={"width": 1380, "height": 1160}, color_scheme="light")
        page.goto(Path(__file__).with_name("index.html").as_uri())
        _kept(page.screenshot(), "page.webp", 0)
        page.set_viewport_size({"width": 1380, "height": 1800})
        panel = open_panel(page, address)
        page.evaluate("window.jupyterapp.commands.execute('application:toggle-left-area')")
        page.add_style_tag(content=".Toastify { display: none }")  # JupyterLab asks whether it may bring news
        for number, method in enumerate(("DIP", "DDPM", "DIP+DDPM"), start=1):
            panel.locator(f"button:text-is('{method}')").click()
            button(panel, "Run").click()
            status(panel, rf"run {number}.*done")
        page.wait_for_timeout(1000)  # the last pictures are on their way
        _kept(panel.screenshot(), "panel.webp", 24)


if __name__ == "__main__":
    main()
