"""The README's picture, from the stored results of 07_restoration: python report/hero.py."""

from __future__ import annotations

import io
import os
from pathlib import Path

from PIL import Image

from dipddpm_lib import evidence, images, operators, plotting
from dipddpm_lib.claims import SHOWN_TASK


def main() -> None:
    os.environ[evidence.REPORT] = "1"  # not what was run by hand
    results = evidence.collected("restoration").only(task=SHOWN_TASK, seed=0)
    if not results:
        raise SystemExit("hero: no stored results of 07_restoration; run make report first, with every task")
    cell = results[0][0]
    x_true = cell.x_true()
    seen = operators.pseudo_inverse(cell.measurement(x_true)).clamp(-1, 1)
    own = results.only(image=cell.image)
    of = {c.label: r for c, r in own} | {"DDPM": own.only(method="DDPM").best()}
    shown = {"target": x_true, "10 % of its coefficients": seen} | {
        f"{label}: {of[label].psnr:.2f} dB": of[label].x0_hat for label in ("DIP", "DDPM", "DIP+DDPM")
    }
    buffer = io.BytesIO()
    plotting.pictures(shown, columns=len(shown), side=2.0).savefig(buffer, format="png", dpi=110)
    target = Path(__file__).with_name("hero.webp")
    Image.open(buffer).convert("RGB").save(target, quality=88)
    print(f"{target.name}: {images.digest(x_true)[:12]}, {cell.image} at {cell.size}²")


if __name__ == "__main__":
    main()
