"""Tiles: they cover, their weights sum to one, and a restored photograph shows no seams."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dipddpm_lib import compute, ddpm, images, metrics, priors, tiles
from dipddpm_lib.types import Image, InputError


@given(height=st.integers(1, 300), width=st.integers(1, 300), side=st.integers(2, 64), share=st.floats(0, 0.5))
def test_tiles_cover_overlap_and_are_of_one_size(height: int, width: int, side: int, share: float) -> None:
    overlap = int(share * side)
    seen = torch.zeros(height, width)
    for rows, columns in tiles.boxes(height, width, side, overlap):
        assert rows.stop - rows.start == min(side, height)
        assert columns.stop - columns.start == min(side, width)
        seen[rows, columns] += 1
    assert seen.min() >= 1
    spans = tiles._spans(width, side, overlap)
    assert all(a.stop - b.start >= overlap for a, b in pairwise(spans))


@given(height=st.integers(1, 90), width=st.integers(1, 90), side=st.integers(2, 40), share=st.floats(0, 0.5))
def test_what_a_method_does_to_each_pixel_is_done_once(height: int, width: int, side: int, share: float) -> None:
    """Weights that sum to one: a constant change comes out as that constant everywhere, y's own values leave none."""
    y = torch.randn(1, 3, height, width, generator=compute.generator(height, "y"))
    *_, last = tiles.restore(y, lambda tile, index: iter([torch.full_like(tile, 0.25)]), side, int(share * side))
    # three of float32's roundings for each of at most nine tiles at a pixel, of values up to 5
    torch.testing.assert_close(last.image, torch.full_like(y, 0.25), rtol=0, atol=9 * 3 * 5 * 2**-23)


def test_tiles_that_disagree_are_blended_without_a_step() -> None:
    """Each tile a constant of its own: neighbouring pixels differ by no more than the ramp's slope."""
    y = torch.zeros(1, 3, 16, 100)
    *_, last = tiles.restore(y, lambda tile, index: iter([torch.full_like(tile, float(index % 2))]), 40, 16)
    assert len(tiles.boxes(16, 100, 40, 16)) == 4
    assert last.image.diff(dim=-1).abs().max() <= 1 / 16 + 1e-6


def test_the_steps_show_the_whole_as_it_is_restored() -> None:
    y = torch.ones(1, 3, 20, 50)
    steps = tiles.restore(y, lambda tile, index: iter([tile / 2, 0 * tile]), 20, 4)
    seen = [(step.done, step.count, float(step.image.mean())) for step in steps]
    assert [step[:2] for step in seen] == [(done, 3) for done in (0, 0, 1, 1, 1, 2, 2, 2, 3)]
    assert seen[1][2] == 1, "only the last estimate of a tile is blended in"
    assert 1 > seen[2][2] > seen[5][2] > seen[8][2] == pytest.approx(0, abs=1e-6)
    assert y.min() == 1, "what came is left alone"


def test_a_photograph_by_tiles_is_as_good_as_whole() -> None:
    """One-step denoising: tiles of 64 with 16 shared against the whole at once, and the seams are no worse."""
    x = images.load("coffee", 144)
    noisy = x + 2 * 50 / 255 * torch.randn(x.shape, generator=compute.generator(0, "noise"))
    denoiser = priors.load(x)

    def method(tile: Image, index: int) -> Iterator[Image]:
        yield ddpm.denoise_once(denoiser, tile, 2 * 50 / 255)

    (whole,) = method(noisy, 0)
    *_, tiled = tiles.restore(noisy, method, 64, 16)
    assert metrics.psnr(tiled.image, x) > metrics.psnr(whole, x) - 0.3
    error = (tiled.image - x).square().mean((0, 1))
    seams = torch.zeros(144, dtype=torch.bool)
    for rows, _ in tiles.boxes(144, 144, 64, 16):
        seams[rows.start : rows.start + 16] |= rows.start > 0
    assert 0 < seams.sum() < 72
    assert error[seams].mean() < 1.25 * error[~seams].mean()


@pytest.mark.parametrize(
    ("side", "overlap", "part"), [(1, 0, "2 pixels or more"), (16, 9, "half of the tiles"), (16, -1, "half")]
)
def test_bad_tiles_are_answered_in_one_line(side: int, overlap: int, part: str) -> None:
    with pytest.raises(InputError, match=part):
        tiles.boxes(100, 100, side, overlap)
    with pytest.raises(InputError, match="one image"):
        next(tiles.restore(torch.zeros(2, 3, 32, 32), lambda tile, index: iter([tile])))
