"""Values between the layers: they cannot be changed, and bad ones are refused in one line."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import jaxtyping
import numpy as np
import pytest
import torch
from torch import Tensor

from dipddpm_lib import types
from dipddpm_lib.operators import Identity
from dipddpm_lib.types import InputError, Interval, LinearOperator, Measurement, Result, Step, check_fields, require


class Doubled(LinearOperator):
    """y = 2x, at half of the width: small, and not the identity."""

    support = torch.ones(1)

    def A(self, x: Tensor) -> Tensor:
        return 2 * x[..., ::2]

    def A_adjoint(self, y: Tensor) -> Tensor:
        return torch.stack([2 * y, torch.zeros_like(y)], -1).flatten(-2)

    def prox(self, x: Tensor, y: Tensor, rho: float) -> Tensor:
        raise NotImplementedError

    def image_size(self, y: Tensor) -> tuple[int, int]:
        return y.shape[-2], 2 * y.shape[-1]


def test_require_raises_an_input_error_with_its_message_and_only_when_the_condition_fails() -> None:
    require(True, "never said")
    with pytest.raises(InputError, match=r"^expected this, got that$"):
        require(False, "expected this, got that")


@dataclass(frozen=True)
class Fields:
    whole: int = 1
    real: float = 0.5
    either: int | None = None
    word: Literal["a", "b"] = "a"
    many: tuple[int, ...] = (1,)
    truth: bool = False


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"whole": True}, "whole: expected a whole number, got True"),
        ({"whole": 1.0}, "whole: expected a whole number, got 1.0"),
        ({"real": math.nan}, "real: expected a finite number, got nan"),
        ({"real": 10**400}, "real: expected a finite number, got 1000"),
        ({"real": True}, "real: expected a finite number, got True"),
        ({"either": "x\ny"}, r"either: expected a whole number or None, got 'x\\ny'"),
        ({"word": "c"}, "word: expected a or b, got 'c'"),
        ({"many": (1, "2")}, r"many: expected a tuple, each of its items a whole number, got \(1, '2'\)"),
        ({"truth": 1}, "truth: expected True or False, got 1"),
    ],
)
def test_fields_are_of_their_types(given: dict[str, object], words: str) -> None:
    check_fields(Fields())
    check_fields(Fields(real=3, either=2, word="b", many=()))
    with pytest.raises(InputError, match=words) as caught:
        check_fields(Fields(**given))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


def test_an_input_error_is_a_value_error() -> None:
    """Callers outside the library need no import of ours to catch it."""
    assert issubclass(InputError, ValueError)


@pytest.mark.parametrize("sigma_y", [-1e-9, -1.0, float("nan")])
def test_a_measurement_refuses_a_standard_deviation_below_zero(sigma_y: float) -> None:
    with pytest.raises(InputError, match="sigma_y") as caught:
        Measurement(torch.zeros(1, 3, 4, 2), Doubled(), sigma_y)
    assert "\n" not in str(caught.value)


def test_an_operator_observes_all_unless_it_says_otherwise() -> None:
    class Plain(Doubled):
        support = LinearOperator.support

    y = torch.zeros(1, 3, 4, 6)
    held = Plain().held_out(y, 0.5, torch.Generator())
    assert int(held.sum()) == 12


def test_a_measurement_knows_its_image_size_from_the_operator() -> None:
    x = torch.zeros(1, 3, 4, 6)
    operator = Doubled()
    assert Measurement(operator.A(x), operator, 0.0).image_size == (4, 6)


def test_an_interval_is_written_with_two_decimals() -> None:
    assert str(Interval(1.234, -0.5, 2.0, 5)) == "1.23 [−0.50, 2.00]"


def test_values_are_frozen() -> None:
    x = torch.zeros(1, 3, 4, 4)
    step = Step(0, 0, x, x)
    with pytest.raises(dataclasses.FrozenInstanceError):
        step.t = 1  # type: ignore[misc]
    measurement = Measurement(x, Doubled(), 0.1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        measurement.sigma_y = 0.0  # type: ignore[misc]


def test_a_measurement_carries_nothing_but_what_a_solver_may_see() -> None:
    """No field for the clean image: leakage would have to be added here first."""
    assert {field.name for field in dataclasses.fields(Measurement)} == {"y", "operator", "sigma_y"}


def test_an_operator_without_all_of_its_methods_cannot_be_made() -> None:
    class Half(LinearOperator):
        def A(self, x: Tensor) -> Tensor:
            return x

    with pytest.raises(TypeError, match="abstract"):
        Half()  # type: ignore[abstract]


def test_a_result_reads_quality_from_the_last_row_and_sums_its_stages() -> None:
    x = torch.zeros(1, 3, 4, 4)
    trace = [(0, 0.1, 10.0, 0.2), (5, 0.6, 20.0, 0.5)]
    result = Result({"a": 1}, 0, "digest", x, trace, {"dip": 2.0, "ddpm": 0.5}, 7, 0, {}, {})
    assert (result.psnr, result.ssim, result.total_seconds) == (20.0, 0.5, 2.5)
    assert len(result.frames) == 0
    other = Result({}, 0, "digest", x, trace, {}, 0, 0, {}, {})
    result.extra["rmse"] = 1.0
    assert other.extra == {}, "the default of a mutable field is shared between results"


def test_type_checks_are_on_while_the_tests_run(request: pytest.FixtureRequest) -> None:
    if not request.config.getoption("--jaxtyping-packages"):
        pytest.skip("run with --jaxtyping-packages=dipddpm_lib,beartype.beartype")
    x = torch.zeros(1, 3, 4, 4)
    with pytest.raises(jaxtyping.TypeCheckError):
        types.Step(0, 0, torch.zeros(1, 1, 4, 4), x)
    with pytest.raises(jaxtyping.TypeCheckError):
        types.Step(0, 0, x, torch.zeros(1, 3, 4, 5))  # one step's images are of one size


@pytest.mark.global_random
@pytest.mark.parametrize(
    ("name", "draw"),
    [
        ("torch", lambda: torch.rand(1)),
        ("torch", lambda: torch.manual_seed(1)),
        ("numpy", lambda: np.random.rand(1)),  # noqa: NPY002
        ("random", random.random),
    ],
)
def test_the_guard_over_global_random_state_sees_each_library(
    name: str, draw: Callable[[], object], random_state_guard: Callable[[], AbstractContextManager[None]]
) -> None:
    with pytest.raises(pytest.fail.Exception, match=name), random_state_guard():
        draw()


def test_the_guard_lets_draws_from_a_generator_of_ones_own_pass(
    random_state_guard: Callable[[], AbstractContextManager[None]],
) -> None:
    with random_state_guard():
        torch.rand(3, generator=torch.Generator().manual_seed(0))
        np.random.default_rng(0).random(3)
        random.Random(0).random()


def test_an_interval_is_written_with_its_bounds_or_without() -> None:
    assert f"{Interval(1.25, -0.5, 3.0, 4):+.2f}" == "+1.25 [−0.50, +3.00]"
    assert f"{Interval(-1.25, math.nan, math.nan, 1):.1f}" == "−1.2"
    assert f"{Interval(-0.001, -0.2, 0.001, 4):+.2f}" == "+0.00 [−0.20, +0.00]", "no minus zero"
    assert f"{Interval(-0.001, -0.2, 0.001, 4):.1%}" == "−0.1% [−20.0%, 0.1%]"
    assert f"{Interval(-0.5, -0.5, 0.5, 4)}" == "−0.5 [−0.5, 0.5]"
    assert f"{Interval(1.2, -0.0, 3.4, 4):>5.1f}" == "  1.2 [  0.0,   3.4]"


def test_an_error_estimate_is_not_taken_below_its_own_uncertainty() -> None:
    def measured(sigma_y: float) -> Measurement:
        return Measurement(torch.zeros(1, 3, 4, 4), Identity(), sigma_y)

    assert measured(0.2).rmse(0.09, 200) == pytest.approx((0.09 - 0.04) ** 0.5)
    assert measured(0.2).rmse(0.04, 200) == pytest.approx((0.04 * 0.1) ** 0.5)  # √(2/200) = 0.1
    assert measured(0.0).rmse(0.01, 2) == pytest.approx(0.1)


def test_a_measurement_of_other_channels_is_refused_by_the_solvers() -> None:
    """Broadcast over three channels its error would be counted for one."""
    grey = Measurement(torch.zeros(1, 1, 32, 32), Identity(), 0.1)
    with pytest.raises(InputError, match=r"y: expected \(1, 3, 32, 32\), .* got \(1, 1, 32, 32\); of a grey image"):
        grey.check_single("dip")
    Measurement(torch.zeros(1, 3, 32, 32), Identity(), 0.1).check_single("dip")


@pytest.mark.usefixtures("unchecked")
def test_what_is_no_operator_or_no_number_is_one_line() -> None:
    y = torch.zeros(1, 3, 32, 32)
    with pytest.raises(InputError, match="operator: expected a LinearOperator, as those of operators, got a str"):
        Measurement(y, "blur", 0.1)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"expected a number, 0 or more, got '0\.1'"):
        Measurement(y, Identity(), "0.1")  # type: ignore[arg-type]
