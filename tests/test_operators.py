"""Operators: adjoints, proximal maps against their normal equation, and measurements that show only what A shows."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dipddpm_lib import compute, images, operators
from dipddpm_lib.operators import Blur, Compressive, Downsampling, Fourier, Identity, Inpainting
from dipddpm_lib.types import InputError, LinearOperator, Measurement

HEIGHT, WIDTH = 12, 20  # not square: a swapped axis shows


def _mask(draw: torch.Generator) -> Tensor:
    return torch.rand(HEIGHT, WIDTH, generator=draw) < 0.4


def every_operator(seed: int) -> dict[str, LinearOperator]:
    draw = compute.generator(seed, "operators")
    signs = torch.where(torch.rand(HEIGHT, WIDTH, generator=draw) < 0.5, -1.0, 1.0)
    return {
        "identity": Identity(),
        "inpainting": Inpainting(_mask(draw)),
        "downsampling": Downsampling(4),
        "blur": Blur(torch.rand(5, 3, generator=draw, dtype=torch.float64)),
        "compressive": Compressive(signs, _mask(draw)),
        "fourier": Fourier(_mask(draw)),
    }


NAMES = tuple(every_operator(0))


def _x(draw: torch.Generator) -> Tensor:
    return torch.randn(1, 3, HEIGHT, WIDTH, generator=draw, dtype=torch.float64)


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 10**6))
def test_the_adjoint_is_the_adjoint(name: str, seed: int) -> None:
    operator = every_operator(seed)[name]
    draw = compute.generator(seed, "vectors")
    x = _x(draw)
    u = torch.randn(operator.A(x).shape, generator=draw, dtype=torch.float64)
    left, right = (operator.A(x) * u).sum(), (x * operator.A_adjoint(u)).sum()
    # float64 sums of about 10³ products of unit size
    assert math.isclose(left, right, rel_tol=1e-10, abs_tol=1e-10)


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 10**6), rho=st.floats(1e-3, 1e3))
def test_prox_solves_its_normal_equation(name: str, seed: int, rho: float) -> None:
    operator = every_operator(seed)[name]
    draw = compute.generator(seed, "vectors")
    x, other = _x(draw), _x(draw)
    y = operator.A(other)
    z = operator.prox(x, y, rho)
    residual = operator.A_adjoint(operator.A(z)) + rho * z - operator.A_adjoint(y) - rho * x
    scale = 1 + rho * x.norm() + operator.A_adjoint(y).norm()
    assert residual.norm() < 1e-9 * scale


@pytest.mark.parametrize("name", NAMES)
def test_prox_goes_from_x_to_the_measurement(name: str) -> None:
    operator = every_operator(1)[name]
    draw = compute.generator(1, "vectors")
    x, truth = _x(draw), _x(draw)
    y = operator.A(truth)
    torch.testing.assert_close(operator.prox(x, y, 1e9), x, rtol=1e-6, atol=1e-6)
    far, near = ((operator.A(operator.prox(x, y, rho)) - y).norm() for rho in (1.0, 1e-6))
    assert near < 1e-3 * far


@pytest.mark.parametrize("name", NAMES)
def test_measurements_know_the_size_of_their_images(name: str) -> None:
    operator = every_operator(2)[name]
    y = operator.A(_x(compute.generator(2, "x")))
    assert Measurement(y, operator, 0.0).image_size == (HEIGHT, WIDTH)


def test_compressive_measurements_are_orthonormal_on_the_kept_entries() -> None:
    operator = every_operator(3)["compressive"]
    u = torch.randn(1, 3, HEIGHT, WIDTH, generator=compute.generator(3, "u"), dtype=torch.float64)
    kept = u * operator.support
    torch.testing.assert_close(operator.A(operator.A_adjoint(kept)), kept)


def test_downsampling_takes_means_and_blur_keeps_constants() -> None:
    x = torch.arange(16.0).reshape(1, 1, 4, 4).expand(1, 3, 4, 4)
    torch.testing.assert_close(Downsampling(2).A(x)[0, 0], torch.tensor([[2.5, 4.5], [10.5, 12.5]]))
    kernel = torch.full((3, 3), 1 / 9)
    torch.testing.assert_close(Blur(kernel).A(torch.ones(1, 3, 8, 9)), torch.ones(1, 3, 8, 9))
    # a kernel with its weight off the centre moves the image by as much, with wrap-around
    shift = torch.zeros(3, 3)
    shift[1, 2] = 1
    x = torch.rand(1, 3, 8, 9, generator=compute.generator(0, "x"))
    torch.testing.assert_close(Blur(shift).A(x), x.roll(1, -1))


def test_noise_has_its_size_and_stays_where_something_is_seen() -> None:
    mask = torch.rand(64, 64, generator=compute.generator(0, "m")) < 0.5
    x = torch.zeros(1, 3, 64, 64)
    y = operators.measure(Inpainting(mask), x, 0.3, compute.generator(0, "n")).y
    assert (y[..., ~mask] == 0).all()
    n = int(mask.sum()) * 3
    # the standard deviation of a sample standard deviation is σ/√(2n); five of them
    assert abs(y[..., mask].std().item() - 0.3) < 5 * 0.3 / math.sqrt(2 * n)


def test_measuring_without_noise_is_A() -> None:
    x = images.load("coffee", (32, 48))
    for name in operators.TASKS:
        operator, _ = operators.task(name, 32, 48, compute.generator(0, name))
        torch.testing.assert_close(operators.measure(operator, x, 0.0, compute.generator(0, "n")).y, operator.A(x))


@pytest.mark.parametrize("name", tuple(operators.TASKS))
def test_tasks_repeat_with_their_seed_and_hide_what_they_say(name: str) -> None:
    a, sigma = operators.task(name, 64, 64, compute.generator(0, name))
    b, _ = operators.task(name, 64, 64, compute.generator(0, name))
    x = images.load("chelsea", 64)
    torch.testing.assert_close(a.A(x), b.A(x), rtol=0, atol=0)
    share = {"inpaint_50": 0.5, "inpaint_90": 0.1, "compressive_10": 0.1, "fourier_x4": 0.25}.get(name)
    if share is not None:
        # binomial over 4096 entries; the Fourier rows are an exact quarter
        assert abs(a.support.float().mean() - share) < 5 * math.sqrt(share * (1 - share) / 4096)
    if name.startswith("denoise"):
        assert sigma == pytest.approx(2 * int(name[-2:]) / 255)


FIXED = ("denoise", 25), ("denoise", 50), ("inpaint", 50), ("inpaint", 90), ("holes", 6), ("super", 4)
FIXED += ("deblur", 1.6), ("compressive", 10), ("fourier", 4)


@pytest.mark.parametrize(("name", "at"), list(zip(operators.TASKS, FIXED, strict=True)))
def test_the_nine_tasks_are_points_of_the_degradations(name: str, at: tuple[str, float]) -> None:
    a, sigma = operators.task(name, 64, 48, compute.generator(0, name))
    b, same = operators.degradation(*at, 64, 48, compute.generator(0, name))
    x = images.load("chelsea", (64, 48))
    assert sigma == same
    assert torch.equal(a.A(x), b.A(x))


@given(st.sampled_from(sorted(operators.DEGRADATIONS)), st.data())
@settings(max_examples=20)
def test_a_task_may_name_any_strength(kind: str, data: st.DataObject) -> None:
    bounds = operators.DEGRADATIONS[kind]
    numbers = (
        st.integers(1, 255) if bounds.whole else st.floats(0.1, 255, allow_subnormal=False).map(lambda v: round(v, 2))
    )
    strength = data.draw(numbers.filter(lambda v: bounds.low <= v <= bounds.high))
    a, sigma = operators.task(f"{kind}_{strength}", 16, 16, compute.generator(0, "t"))
    b, same = operators.degradation(kind, strength, 16, 16, compute.generator(0, "t"))
    x = images.load("chelsea", 16)
    if kind == "super" and 16 % strength:
        return
    assert sigma == same
    assert torch.equal(a.A(x), b.A(x))


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("paint", "task: expected one of denoise_25, "),
        ("paint_50", "or a kind and its strength as inpaint_70 (denoise, inpaint, "),
        ("inpaint_", "got 'inpaint_'"),
        ("inpaint_nan", "got 'inpaint_nan'"),
        ("inpaint_1e1", "got 'inpaint_1e1'"),
        ("inpaint_100", "strength of inpaint: expected a number from 1 to 99"),
        ("super_2.5", "strength of super: expected a whole number"),
    ],
)
def test_a_task_that_is_none_is_one_line(name: str, line: str) -> None:
    with pytest.raises(InputError) as caught:
        operators.task(name, 16, 16, compute.generator(0, "t"))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", operators.DEGRADATIONS)
def test_more_strength_leaves_less(kind: str) -> None:
    """Measured and inverted: between its bounds a stronger degradation is further from the image."""
    x = images.load("coffee", 64)
    bounds = operators.DEGRADATIONS[kind]
    weak, strong = sorted((bounds.usual, bounds.high), reverse=kind == "compressive")
    errors = []
    for strength in (weak, strong):
        operator, sigma = operators.degradation(kind, strength, 64, 64, compute.generator(0, kind))
        sigma = sigma if kind == "denoise" else 0.0  # a blur's inverse would show its faint noise, not the blur
        y = operators.measure(operator, x, sigma, compute.generator(0, "n"))
        errors.append((operators.pseudo_inverse(y) - x).square().mean())
    assert errors[1] > 1.1 * errors[0], errors


def test_the_pseudo_inverse_agrees_with_the_measurement() -> None:
    x = images.load("coffee", 32)
    for name in ("inpaint_50", "super_x4", "super_16", "compressive_10", "fourier_x4"):
        operator, _ = operators.task(name, 32, 32, compute.generator(0, name))
        y = operators.measure(operator, x, 0.0, compute.generator(0, "n"))
        found = operators.pseudo_inverse(y)
        # ρ leaves ρ/(a + ρ) of each entry: of the eigenvalues a of A Aᵀ the largest is 10⁴ ρ, the least half of that
        assert (operator.A(found) - y.y).abs().max() < 1.1 * 2e-4 * y.y.abs().max(), name


@pytest.mark.parametrize("name", operators.TASKS)
def test_no_image_is_amplified_by_more_than_the_norm(name: str) -> None:
    """‖A‖², by power iteration from below."""
    operator, _ = operators.task(name, 32, 32, compute.generator(0, name))
    x = 1 + torch.randn(1, 3, 32, 32, generator=compute.generator(0, "x"), dtype=torch.float64)
    for _ in range(100):
        x = operator.A_adjoint(operator.A(x))
        norm = float(x.norm())
        x /= norm
    assert norm == pytest.approx(operator.norm_squared, rel=1e-3)


@pytest.mark.parametrize("name", ["denoise_25", "inpaint_50", "compressive_10", "fourier_x4"])
def test_an_error_on_entries_is_told_in_pixels(name: str) -> None:
    """Of a white error, which every orthonormal operator shows as it is, in one number or in two."""
    operator, _ = operators.task(name, 64, 64, compute.generator(0, name))
    error = 0.3 * torch.randn(1, 3, 64, 64, generator=compute.generator(0, "e"))
    y = operators.measure(operator, error, 0.1, compute.generator(0, "n"))
    seen = (operator.support > 0).expand(y.y.shape)
    count = int(seen.sum())
    found = y.rmse(float((y.y[seen] ** 2).mean()), count)
    # the mean of n squares of variance v = s²/parts + σ² varies by v √(2/n), and s by half of that over s/parts
    v, parts = 0.3**2 / operator.parts + 0.1**2, operator.parts
    assert abs(found - 0.3) <= 5 * parts * v * (2 / (count / parts)) ** 0.5 / (2 * 0.3), found


@pytest.mark.parametrize(
    ("make", "part"),
    [
        (lambda: Inpainting(torch.zeros(4, 4, dtype=torch.bool)), "at least one observed"),
        (lambda: Inpainting(torch.ones(3, 4, 4)), "(height, width)"),
        (lambda: Inpainting(torch.ones(4, 4)).A(torch.zeros(1, 3, 5, 4)), "expected an image of 4 × 4"),
        (lambda: Compressive(torch.zeros(4, 4), torch.ones(4, 4)), "signs of ±1"),
        (lambda: Compressive(torch.ones(4, 4), torch.ones(4, 4)).A(torch.zeros(1, 3, 4, 5)), "expected an image"),
        (lambda: Fourier(torch.ones(4, 4)).A(torch.zeros(1, 3, 8, 8)), "expected an image"),
        (lambda: Downsampling(1), "factor of 2"),
        (lambda: Downsampling(3).A(torch.zeros(1, 3, 8, 8)), "choose another size"),
        (lambda: Blur(torch.ones(2, 3)), "two odd sides"),
        (lambda: Blur(torch.ones(9, 9)).A(torch.zeros(1, 3, 8, 8)), "no smaller than"),
        (lambda: operators.degradation("deblurr", 1, 8, 8, torch.Generator()), "task: expected one of denoise"),
        (lambda: operators.degradation("inpaint", 100, 8, 8, torch.Generator()), "a number from 1 to 99"),
        (lambda: operators.degradation("denoise", math.nan, 8, 8, torch.Generator()), "a number from 1 to 255"),
        (lambda: operators.degradation("super", 2.5, 8, 8, torch.Generator()), "a whole number from 2 to 16"),
        (lambda: operators.task("deblurr", 8, 8, torch.Generator()), "task: expected one of"),
        (
            lambda: operators.measure(Identity(), torch.zeros(1, 3, 4, 4), -0.1, torch.Generator()),
            "sigma_y is a standard deviation",
        ),
        (
            lambda: operators.measure(Identity(), torch.zeros(1, 3, 4, 4), math.nan, torch.Generator()),
            "sigma_y is a standard deviation",
        ),
    ],
)
def test_bad_input_is_answered_in_one_line(make: object, part: str) -> None:
    with pytest.raises(InputError) as caught:
        make()  # type: ignore[operator]
    assert part in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rho", [1e-9, 1e-6])
def test_fourier_prox_keeps_x_where_nothing_is_seen_in_single_precision(rho: float) -> None:
    """Near t = T ρ is tiny: rounding of Aᵀy over ρ would swamp the unseen frequencies."""
    operator, _ = operators.task("fourier_x4", 96, 96, compute.generator(0, "f"))
    assert isinstance(operator, Fourier)
    x, truth = (torch.randn(1, 3, 96, 96, generator=compute.generator(0, name)) for name in ("x", "truth"))
    z = operator.prox(x, operator.A(truth), rho)
    hidden = operator._diagonal == 0
    change = torch.fft.fft2(z - x, norm="ortho")[..., hidden].abs().max()
    assert change < 1e-4  # a few units of float32's rounding of a 96² transform


@pytest.mark.parametrize(("name", "same"), [("super_x2", "super_2"), ("fourier_x8", "fourier_8")])
def test_a_factor_may_be_written_with_an_x_as_the_nine_are(name: str, same: str) -> None:
    a, b = (operators.task(n, 32, 32, torch.Generator().manual_seed(0))[0] for n in (name, same))
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert torch.equal(a.A(x), b.A(x))


def test_only_factors_are_written_with_an_x() -> None:
    with pytest.raises(InputError, match="task: expected one of"):
        operators.task("inpaint_x50", 32, 32, torch.Generator())


def test_the_pseudo_inverse_makes_a_colour_image_of_one_channel() -> None:
    """An operator of one's own may measure the luminance alone."""

    class Luminance(operators.Identity):
        def A(self, x: Tensor) -> Tensor:
            return x.mean(1, keepdim=True)

        def A_adjoint(self, y: Tensor) -> Tensor:
            return y.expand(-1, 3, -1, -1) / 3

        def prox(self, x: Tensor, y: Tensor, rho: float) -> Tensor:
            assert x.shape[1] == 3
            return x + self.A_adjoint(y - self.A(x)) / (1 / 3 + rho)

    y = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    x = operators.pseudo_inverse(Measurement(y, Luminance(), 0.0))
    assert x.shape == (1, 3, 8, 8)
    torch.testing.assert_close(x.mean(1, keepdim=True), y, atol=1e-3, rtol=0)
