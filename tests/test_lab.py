"""JupyterLab in a real browser, as a reader plays: open the playground, choose, upload, run, stop, look."""

# ruff: noqa: E402 (report/ is a folder of scripts, not a package: its path comes before its imports)
from __future__ import annotations

import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image as PIL_Image
from playwright.sync_api import Locator, Page

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "report"))

import panel as panel_of
from dipddpm_lib import images, play
from panel import LONG, button, chromium, open_panel, status

CUT_OFF = """panel => {
    const right = panel.getBoundingClientRect().right + 0.5;
    const parts = Array.from(panel.querySelectorAll('.jupyter-widgets, img'));
    const outside = e => !e.closest('.dd-scroll') && e.getBoundingClientRect().right > right;
    return parts.filter(outside).map(e => e.className);
}"""  # what reaches beyond the panel's right edge, but for the table, which scrolls


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[str]:
    with panel_of.lab(tmp_path) as address:
        yield address


def upload(panel: Locator, file: Path) -> None:
    with panel.page.expect_file_chooser() as chooser:
        panel.locator("button.jupyter-widgets:has-text('your own')").click()
    chooser.value.set_files(file)


def on_screen(panel: Locator, name: str) -> np.ndarray:
    """What the browser itself decoded of one of the three pictures, as (h, w, 3)."""
    place = ("target", "measured", "estimate").index(name)
    data = (
        panel.locator(".dd-pictures img")
        .nth(place)
        .evaluate(
            """async img => {
             await img.decode();
             const canvas = document.createElement('canvas');
             [canvas.width, canvas.height] = [img.naturalWidth, img.naturalHeight];
             canvas.getContext('2d').drawImage(img, 0, 0);
             return [img.naturalHeight, img.naturalWidth,
                     Array.from(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data)];
           }"""
        )
    )
    return np.array(data[2], np.uint8).reshape(data[0], data[1], 4)[..., :3]


def drag(slider: Locator, page: Page, share: float) -> None:
    """Move a slider's handle to a share of its length, with the mouse."""
    track = slider.locator(".noUi-base").bounding_box()
    handle = slider.locator(".noUi-handle").bounding_box()
    assert track
    assert handle
    page.mouse.move(handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2)
    page.mouse.down()
    page.mouse.move(track["x"] + share * track["width"], track["y"] + track["height"] / 2, steps=5)
    page.mouse.up()


def row(panel: Locator, name: str) -> Locator:
    """The slider or field with this description."""
    return panel.locator(".jupyter-widgets").filter(has=panel.page.locator(f"label:text-is('{name}')")).last


@pytest.mark.slow
def test_the_server_answers_this_machine_and_its_token_alone(lab: str) -> None:
    port, token = re.search(r":(\d+)/.*token=(\w+)", lab).groups()  # type: ignore[union-attr]
    for path in ("api/contents", "api/kernels", "api/terminals"):
        for given in ("", "?token=", f"?token={token[::-1]}"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}{given}", timeout=60)
            assert refused.value.code == 403
            refused.value.close()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/{path}?token={token}", timeout=60) as answer:
            assert answer.status == 200
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/lab", timeout=60) as page:
        assert "/login" in page.url, "without its token the page is a question for it"
    listening = {
        c.laddr.ip for c in psutil.net_connections("tcp") if c.status == "LISTEN" and c.laddr.port == int(port)
    }
    assert listening == {"127.0.0.1"}


@pytest.mark.slow
@pytest.mark.global_random  # playwright draws names for what it talks to
def test_a_reader_plays(lab: str, tmp_path: Path) -> None:
    photograph = images.to_array(images.load("rocket", (300, 400)))
    PIL_Image.fromarray(photograph).save(tmp_path / "my photo.png")
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1400, "height": 1300})
        panel = open_panel(page, lab)

        # a slider moves under the mouse, and what it says is what the run then takes
        drag(row(panel, "iterations"), page, 1.0)
        assert row(panel, "iterations").locator(".widget-readout").inner_text() == "2000"
        panel.locator("button:text-is('DIP')").click()
        upload(panel, tmp_path / "my photo.png")
        note = panel.locator(".dd-note").filter(has_text="my photo.png has 400 × 300 pixels")
        note.wait_for(timeout=LONG)

        # run, and stop: answered at once, the last image stays
        button(panel, "Run").click()
        status(panel, r"running · step \d+ of 2000.*left.*PSNR")
        assert button(panel, "Run").is_disabled()
        drag(row(panel, "depth"), page, 0.5)  # the page answers while the kernel computes
        started = time.monotonic()
        button(panel, "Stop").click()
        said = status(panel, r"stopped · step \d+ of 2000")
        assert time.monotonic() - started < 2, "a second, and the browser driver's own time"
        panel.locator(".dd-runs").wait_for(timeout=LONG)
        before = on_screen(panel, "estimate")
        page.wait_for_timeout(500)
        assert np.array_equal(on_screen(panel, "estimate"), before), "nothing goes on behind a stop"
        target = images.load(_file(tmp_path, photograph), 96)
        assert np.array_equal(on_screen(panel, "target"), images.to_array(target))
        psnr = re.search(r"PSNR ([\d.]+) dB", panel.locator(".dd-status").inner_text())
        assert psnr
        error = np.square(before.astype(float) - images.to_array(target)).mean()
        # both were rounded to 8 bits on their way to the screen
        assert abs(10 * np.log10(255**2 / error) - float(psnr[1])) < 0.1

        # go on, stop again: further than before
        button(panel, "Continue").click()
        status(panel, r"running · step \d+ of 2000.*PSNR")
        button(panel, "Stop").click()
        again = status(panel, r"stopped · step \d+ of 2000")
        assert _step(again) > _step(said)
        command = panel.locator(".dd-command").inner_text()
        assert "-r image './my photo.png'" in command
        assert "-p iterations 2000" in command

        # a bad file is answered, and a short run of the hybrid still ends
        (tmp_path / "bad.png").write_bytes(b"no picture")
        upload(panel, tmp_path / "bad.png")
        panel.locator(".dd-alert").filter(has_text="bad.png").wait_for(timeout=LONG)
        panel.locator("button:text-is('DIP+DDPM')").click()
        drag(row(panel, "iterations"), page, 0.0)
        button(panel, "Run").click()
        status(panel, r"run 2.*done · step")
        page.wait_for_timeout(300)
        estimate = on_screen(panel, "estimate")
        button(panel, "Save PNG").click()
        panel.get_by_text("saved as").wait_for(timeout=LONG)
        (saved,) = (tmp_path / "notebooks" / "saved").glob("*.png")
        with PIL_Image.open(saved) as file:
            assert np.array_equal(np.asarray(file), estimate), "what is saved is what the screen shows"
        assert panel.evaluate(CUT_OFF) == [], "nothing is cut off"


def _file(folder: Path, array: np.ndarray) -> Path:
    path = folder / "same.png"
    path.write_bytes(play.png(array))
    return path


def _step(text: str) -> int:
    found = re.search(r"step (\d+) of", text)
    assert found
    return int(found[1])
