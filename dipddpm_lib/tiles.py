"""Large photographs: a method on overlapping tiles, blended so that no seam shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .types import Image, require

Box = tuple[slice, slice]  # rows and columns of an image


@dataclass(frozen=True)
class Tile:
    """A restoration under way.

    done:  how many tiles are finished, of `count`
    image: the whole, restored where tiles are done and as it came elsewhere; the next tile writes into the same tensor
    """

    done: int
    count: int
    image: Image


def boxes(height: int, width: int, side: int = 256, overlap: int = 32) -> list[Box]:
    """Squares of `side` that cover the image row by row, neighbours sharing `overlap` pixels or more."""
    require(side >= 2, f"side of the tiles: expected 2 pixels or more, got {side}")
    require(0 <= 2 * overlap <= side, f"overlap: expected 0 to half of the tiles' side {side}, got {overlap}")
    return [(rows, columns) for rows in _spans(height, side, overlap) for columns in _spans(width, side, overlap)]


def _spans(length: int, side: int, overlap: int) -> list[slice]:
    """Evenly spread, so that the last tile is as large as the others and does not stand out."""
    if length <= side:
        return [slice(0, length)]
    count = math.ceil((length - overlap) / (side - overlap))
    starts = [round(i * (length - side) / (count - 1)) for i in range(count)]
    return [slice(start, start + side) for start in starts]


def _weights(spans: list[slice], length: int) -> list[Tensor]:
    """Of each span's pixels: ramps over what neighbours share; over all spans they sum to 1 at every pixel."""
    out = []
    for before, span, after in zip([None, *spans], spans, [*spans[1:], None], strict=False):
        position = torch.arange(span.start, span.stop, dtype=torch.float32) + 0.5
        weight = torch.ones(span.stop - span.start)
        if before is not None and before.stop > span.start:
            weight *= ((position - span.start) / (before.stop - span.start)).clamp(0, 1)
        if after is not None and span.stop > after.start:
            weight *= ((span.stop - position) / (span.stop - after.start)).clamp(0, 1)
        out.append(weight)
    total = torch.zeros(length)  # 1 but where a third tile reaches into what two share
    for span, weight in zip(spans, out, strict=True):
        total[span] += weight
    return [weight / total[span] for span, weight in zip(spans, out, strict=True)]


def restore(
    y: Image, method: Callable[[Image, int], Iterator[Image]], side: int = 256, overlap: int = 32
) -> Iterator[Tile]:
    """On every tile of y the last of the estimates that `method(tile, index)` yields, blended over the overlaps.

    For degradations that act on each pixel by itself, as noise does: what a tile shows is all that was measured of it.
    Yields at every estimate, so that the caller can stop within a tile, and after every tile.
    """
    height, width = y.shape[-2:]
    require(y.shape[0] == 1, f"tiles: expected one image, got {y.shape[0]}")
    cover = boxes(height, width, side, overlap)
    rows, columns = _spans(height, side, overlap), _spans(width, side, overlap)
    weights = [a[:, None] * b for a in _weights(rows, height) for b in _weights(columns, width)]
    image = y.clone()
    for index, ((down, across), weight) in enumerate(zip(cover, weights, strict=True)):
        tile = estimate = y[..., down, across]
        for estimate in method(tile, index):  # noqa: B007 (the last one is the tile)
            yield Tile(index, len(cover), image)
        # the weights sum to 1, so adding each tile's change leaves no trace of y where all of its tiles are done
        image[..., down, across] += weight.to(image) * (estimate.to(image.device) - tile)
        yield Tile(index + 1, len(cover), image)
