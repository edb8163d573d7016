"""index.html → report.pdf through whichever Chromium is there."""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

from errors import BuildError
from execution import check_inside

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--no-first-run",
    "--no-pdf-header-footer",
    "--generate-pdf-document-outline",
)
TIMEOUT = 300  # seconds
WEBP = re.compile(r"data:image/webp;base64,([A-Za-z0-9+/=]+)")
LOCAL_LINK = re.compile(r' href="(?!#|https?:|data:)[^"]*"')
# the clock in the file's record; the value is as long as what it replaces, so that every offset stays right
PDF_DATE = re.compile(rb"(/(?:CreationDate|ModDate) \(D:)\d{14}")


def find_browser() -> str | None:
    """The Chromium that the variable CHROMIUM names, which has to be there, else the first one on PATH."""
    if named := os.environ.get("CHROMIUM"):
        if found := shutil.which(named):
            return found
        raise BuildError(f"CHROMIUM={named} is no program here; name one that is, or unset it", status=2)
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def print_pdf(page: Path, target: Path, browser: str) -> None:
    """Print the page; the PDF appears whole or not at all."""
    with tempfile.TemporaryDirectory(prefix="report-pdf-") as scratch:
        printed, source = Path(scratch) / "report.pdf", Path(scratch) / "index.html"
        source.write_text(printable(page.read_text(encoding="utf-8")), encoding="utf-8")
        command = [browser, *FLAGS, f"--user-data-dir={scratch}/profile", f"--print-to-pdf={printed}", source.as_uri()]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
        except subprocess.TimeoutExpired:
            raise BuildError(f"{browser} did not finish the PDF in {TIMEOUT} s") from None
        if not printed.is_file():
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise BuildError(f"{browser} made no PDF (exit status {done.returncode}): {last}")
        unfinished = target.with_name(f".{target.name}.unfinished")
        check_inside(target, unfinished)
        unfinished.write_bytes(PDF_DATE.sub(rb"\g<1>19700101000000", printed.read_bytes()))
    unfinished.replace(target)


def printable(page: str) -> str:
    """The page as it is printed: without links to files beside it, which a PDF would look for on this machine.

    Pictures become JPEG, which a PDF holds as it is; of WebP it holds the pixels, and is three times as long.
    """
    return WEBP.sub(_as_jpeg, LOCAL_LINK.sub("", page))


def _as_jpeg(source: re.Match[str]) -> str:
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(source[1]))) as picture:
        picture.convert("RGB").save(buffer, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
