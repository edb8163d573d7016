"""Collections of images against closed forms, and at their limits."""

from __future__ import annotations

import math

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given
from torch import Tensor

from dipddpm_lib import compute, distribution, images, metrics
from dipddpm_lib.types import InputError


def noise(seed: int = 0, *shape: int) -> Tensor:
    return torch.randn(*(shape or (1, 3, 32, 32)), generator=torch.Generator().manual_seed(seed))


def pair(seed: int = 0, spread: float = 0.3) -> tuple[Tensor, Tensor]:
    """A picture in [-1, 1] and a noisy copy of it."""
    x = images.load("coffee", 32)
    return x, (x + spread * noise(seed)).clamp(-1, 1)


def draw(seed: int = 0) -> torch.Generator:
    return compute.generator(seed, "swd")


# ---- patches


def swd(x: Tensor, y: Tensor) -> float:
    return distribution.patch_swd(x, y, draw())


def test_patches_of_equal_images_are_at_no_distance() -> None:
    x, y = pair()
    assert swd(x, x) == 0
    assert swd(x, y) == swd(y, x) > 0


def test_patch_distance_grows_with_the_noise() -> None:
    x, _ = pair()
    found = [swd(x, x + s * noise()) for s in (0.0, 0.05, 0.1, 0.2, 0.4, 0.8)]
    assert found == sorted(found)
    assert found[0] == 0


@given(st.floats(-1, 1), st.floats(-1, 1))
def test_constant_images_have_their_distance_in_closed_form(a: float, b: float) -> None:
    """|a − b| |Σu| for a unit direction u; Σu/√d is one coordinate of it: √d E|u₁| = √d Γ(d/2)/(√π Γ((d + 1)/2))."""
    d = 3 * 7 * 7
    mean = math.sqrt(d / math.pi) * math.exp(math.lgamma(d / 2) - math.lgamma((d + 1) / 2))
    x = torch.zeros(1, 3, 32, 32)
    # two scales of 128 directions; √d u₁ is all but N(0, 1), so |·| has standard deviation 0.60: five of them
    slack = 5 * 0.61 / math.sqrt(2 * 128)
    assert abs(swd(x + a, x + b) - mean * abs(a - b)) <= slack * abs(a - b) + 1e-5


@given(st.floats(0.1, 3), st.floats(-1, 1))
def test_patch_distance_scales_and_does_not_see_a_common_shift(scale: float, shift: float) -> None:
    x, y = pair()
    # sums of 147 float32 products of size |values| ≤ 4, each a rounding: 147 · 4 · 2⁻²⁴
    assert swd(scale * x + shift, scale * y + shift) == pytest.approx(scale * swd(x, y), abs=4e-5)


def test_the_order_of_images_is_no_matter() -> None:
    many = torch.cat([images.load(name, 32) for name in ("coffee", "rocket", "chelsea", "astronaut")])
    other = noise(1, 2, 3, 32, 32)
    # the same numbers in another order are summed in another order
    assert swd(many, other) == pytest.approx(swd(many[[2, 0, 3, 1]], other), abs=1e-5)
    assert swd(many, many.flip(0)) == pytest.approx(0, abs=1e-5)
    # twice the same cloud has the same quantiles but for their interpolation
    assert swd(many, torch.cat([many, many])) < 0.01 * swd(many, other)


def test_patch_distance_depends_on_its_generator_alone() -> None:
    x, y = pair()
    once = swd(x, y)
    with torch.random.fork_rng():
        torch.manual_seed(5)
        assert swd(x, y) == once
    assert distribution.patch_swd(x, y, draw(1)) != once
    generator = draw()
    assert distribution.patch_swd(x, y, generator) == once != distribution.patch_swd(x, y, generator)


def test_a_few_more_patches_than_needed_are_thinned_alike() -> None:
    x = images.load("coffee", 160)  # 154² patches: every one is taken; with two images every second
    y = x + 0.3 * noise(0, *x.shape)
    assert swd(torch.cat([x, x]), torch.cat([y, y])) == pytest.approx(swd(x, y), rel=0.05)


def test_patches_need_room_and_one_size() -> None:
    with pytest.raises(InputError, match="14 or more"):
        swd(torch.zeros(1, 3, 13, 32), torch.zeros(1, 3, 13, 32))


@pytest.mark.usefixtures("unchecked")
def test_patches_of_other_sizes_are_not_compared() -> None:
    with pytest.raises(InputError, match="one size"):
        swd(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 17))


# ---- detail


def detail(x: Tensor, y: Tensor) -> float:
    return distribution.detail_swd(x, y, draw())


@given(st.floats(0.1, 3), st.floats(-1, 1), st.floats(-1, 1))
def test_detail_drops_the_scale_of_both_and_the_colour_of_each(scale: float, shift: float, other: float) -> None:
    x, y = pair()
    # float32: sums of 147 products of values below 4, over a deviation of 0.1 · 0.1 at the least
    assert detail(scale * x + shift, scale * y + other) == pytest.approx(detail(x, y), rel=2e-3)
    assert detail(x, x) == 0
    assert swd(x + shift, x) >= 0.5 * abs(shift) - 1e-5, "patch SWD sees it: √d E|u₁| = 0.8 times"


@given(st.floats(0, 4))
def test_a_gain_is_at_a_distance_in_proportion(gain: float) -> None:
    """Sorted projections are multiplied by it: |gain − 1| times the distance of no detail at all."""
    x, _ = pair()
    assert detail(gain * x, x) == pytest.approx(abs(gain - 1) * detail(0 * x, x), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee", "rocket"])
@pytest.mark.parametrize("size", [64, 128])
def test_phases_at_random_lack_edges_and_detail_tells(name: str, size: int) -> None:
    x, other = images.load(name, size), images.load("coffee" if name != "coffee" else "chelsea", size)
    corners = images.corners(name, size)
    no_image = distribution.phases_at_random(x, noise(0, 4, 3, size, size))
    found = [detail(clouds, x) for clouds in (corners, no_image, noise(1, 4, 3, size, size).clamp(-1, 1))]
    assert found == sorted(found)
    assert found[1] > 1.2 * found[0]
    assert detail(other, x) > 1.5 * found[0]


def test_what_has_no_detail_is_no_yardstick() -> None:
    x, _ = pair()
    assert 0 < detail(torch.zeros_like(x), x) < math.inf
    with pytest.raises(InputError, match="y is flat"):
        detail(x, torch.zeros_like(x))
    with pytest.raises(InputError, match="detail_swd: expected sides of 14 or more"):
        detail(torch.zeros(1, 3, 13, 32), torch.zeros(1, 3, 13, 32))


@pytest.mark.parametrize("size", [(32, 32), (31, 48)])
def test_phases_at_random_keep_spectrum_mean_and_the_relation_of_channels(size: tuple[int, int]) -> None:
    x = images.load("coffee", size)
    drawn = distribution.phases_at_random(x, noise(0, 2, 3, *size))
    assert drawn.shape == (2, 3, *size)
    before, after = (torch.fft.fft2(v.double()) for v in (x.expand(2, -1, -1, -1), drawn))
    assert torch.allclose(after.abs(), before.abs(), rtol=1e-4, atol=1e-2)
    assert torch.allclose(drawn.mean((-2, -1)), x.mean((-2, -1)).expand(2, -1), atol=1e-5)
    cross = [spectrum[:, 0] * spectrum[:, 2].conj() for spectrum in (before, after)]
    assert torch.allclose(*cross, rtol=1e-3, atol=1.0)
    assert swd(drawn[:1], drawn[1:]) > 0
    assert metrics.psnr(drawn[:1], x) < 20


# ---- diversity


def test_diversity_is_0_for_copies_and_1_for_noise_of_the_references_spread() -> None:
    reference, n = images.load("coffee", 32), 16
    assert distribution.diversity(reference.expand(3, -1, -1, -1), reference) == 0
    spread = reference.mean(1).std()
    samples = (spread * noise(0, n, 1, 32, 32)).expand(-1, 3, -1, -1) + 0.2
    # the deviation of n normal draws has mean c₄ and standard deviation √(1 − c₄²); here the mean over 32² pixels
    c4 = math.sqrt(2 / (n - 1)) * math.gamma(n / 2) / math.gamma((n - 1) / 2)
    assert abs(distribution.diversity(samples, reference) - c4) <= 5 * math.sqrt(1 - c4**2) / 32
    # channels that vary apart leave a third of the variance in their mean
    free = spread * noise(1, n, 3, 32, 32)
    assert abs(distribution.diversity(free, reference) - c4 / math.sqrt(3)) <= 5 * math.sqrt(
        1 - c4**2
    ) / 32 / math.sqrt(3)


@given(st.floats(0.1, 2), st.floats(-0.5, 0.5))
def test_diversity_drops_scale_and_offset(scale: float, shift: float) -> None:
    reference, samples = images.load("coffee", 32), 0.3 * noise(0, 4, 3, 32, 32)
    found = distribution.diversity(scale * samples + shift, scale * reference + shift)
    assert found == pytest.approx(distribution.diversity(samples, reference), rel=1e-4)  # float32


def test_one_sample_is_not_diverse() -> None:
    with pytest.raises(InputError, match="two samples"):
        distribution.diversity(noise(), noise())


# ---- the spectrum


def rings(height: int, width: int) -> list[int]:
    """How many frequencies lie nearest to 0, 1, 2, … cycles per shorter side."""
    short = min(height, width)
    counts = [0] * (short // 2 + 1)
    for v in range(-(height // 2), height - height // 2):
        for u in range(-(width // 2), width - width // 2):
            ring = round(short * math.hypot(v / height, u / width))
            if ring < len(counts):
                counts[ring] += 1
    return counts


@pytest.mark.parametrize("size", [(32, 32), (32, 48), (33, 32)])
@pytest.mark.parametrize("k", [2, 6, 14])
@pytest.mark.parametrize("across", [True, False])
def test_a_cosine_peaks_at_its_frequency(size: tuple[int, int], k: int, across: bool) -> None:
    short = min(size)
    along = size[1] if across else size[0]
    if (k * along) % short:
        along = short  # only whole periods are a single frequency: cut the picture to fit
        size = (short, short)
    wave = 0.7 * torch.cos(2 * math.pi * k * torch.arange(along, dtype=torch.float64) / short)
    x = (wave if across else wave[:, None]).expand(1, 3, *size) + 0.3
    found = distribution.spectrum(x)
    assert int(found.argmax()) == k
    # two coefficients of (A√(hw)/2)² each, over all frequencies of the ring
    assert found[k].item() == pytest.approx(2 * 0.7**2 * size[0] * size[1] / 4 / rings(*size)[k], rel=1e-9)
    others = torch.cat([found[:k], found[k + 1 :]])
    assert others.abs().max() < 1e-20 * size[0] * size[1] + 1e-12


@pytest.mark.parametrize("size", [(32, 32), (32, 48), (31, 33)])
def test_the_rings_hold_the_energy(size: tuple[int, int]) -> None:
    """Parseval: what lies within the rings, and nothing of the mean."""
    x = noise(0, 2, 3, *size).double() + 5
    weights = torch.tensor(rings(*size), dtype=torch.float64)
    grey = x.mean(1) - x.mean((1, 2, 3))[:, None, None]
    energy = (grey**2).sum((1, 2)).mean()
    held = (distribution.spectrum(x) * weights).sum()
    assert held < energy, "the corners lie beyond the last ring"
    # without its corners all of it is held
    f = torch.hypot(torch.fft.fftfreq(size[0])[:, None], torch.fft.fftfreq(size[1])[None]) * min(size)
    low = torch.fft.ifft2(torch.fft.fft2(x) * (f < min(size) // 2)).real
    grey = low.mean(1) - low.mean((1, 2, 3))[:, None, None]
    held = (distribution.spectrum(low) * weights).sum()
    assert held.item() == pytest.approx((grey**2).sum((1, 2)).mean().item(), rel=1e-9)


def test_white_noise_is_flat() -> None:
    batch = 64
    x = noise(0, batch, 1, 32, 32).expand(-1, 3, -1, -1)
    found = distribution.spectrum(x)
    assert found[0] == pytest.approx(0, abs=1e-20)
    for power, count in list(zip(found.tolist(), rings(32, 32), strict=True))[1:]:
        # |F|² of unit noise is exponential with mean 1; frequencies come in conjugate pairs, so half of them count
        assert abs(power - 1) <= 5 * math.sqrt(2 / (count * batch))


def test_photographs_fall_with_frequency() -> None:
    found = distribution.spectrum(images.load("coffee", 128))
    assert found[1:5].mean() > 30 * found[20:40].mean()


@given(gain=st.floats(0.05, 20), seed=st.integers(0, 100))
def test_a_gain_moves_every_frequency_by_its_decibels(gain: float, seed: int) -> None:
    x = noise(seed, 2, 3, 16, 24).double()
    assert distribution.spectral_distance(x, x) == 0
    assert distribution.spectral_distance(gain * x + 3, x) == pytest.approx(
        abs(20 * math.log10(gain)), rel=1e-9, abs=1e-9
    )
    assert distribution.spectral_distance(x, gain * x) == pytest.approx(distribution.spectral_distance(gain * x, x))


def test_too_much_power_here_does_not_make_up_for_too_little_there() -> None:
    x, white = images.load("coffee", 64), noise(0, 1, 3, 64, 64)
    behind = 10 * (distribution.spectrum(x)[1:] / distribution.spectrum(white)[1:]).log10()
    as_strong = white * 10 ** (float(behind.mean()) / 20)  # no difference left in the mean
    assert distribution.spectral_distance(as_strong, x) > 5


@pytest.mark.usefixtures("unchecked")
def test_noise_is_far_from_a_photograph_and_its_mirror_image_is_not() -> None:
    x = images.load("coffee", 64)
    assert distribution.spectral_distance(x.flip(-1), x) < 1e-9
    assert distribution.spectral_distance(noise(0, 4, 3, 64, 64), x) > 5
    flat = torch.zeros(1, 3, 64, 64)
    assert distribution.spectral_distance(flat, flat) == 0
    assert 50 < distribution.spectral_distance(flat, x) < math.inf
    with pytest.raises(InputError, match="spectral_distance: expected one size"):
        distribution.spectral_distance(x, images.load("coffee", 32))
