"""What a user would pick instead: scikit-image's restorers behind the same measurement."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from skimage import restoration
from torch import Tensor

from . import images
from .operators import Blur, Compressive, Downsampling, Fourier, Identity, Inpainting, pseudo_inverse
from .types import Image, InputError, LinearOperator, Measurement, Step, check_fields, require


@dataclass(frozen=True)
class ClassicalConfig:
    """The restorer is chosen by the operator; `tv_iterations` is for total variation alone."""

    tv_iterations: int = 60

    def __post_init__(self) -> None:
        check_fields(self)
        require(self.tv_iterations >= 1, f"tv_iterations: expected 1 or more, got {self.tv_iterations}")


def _array(x: Tensor) -> np.ndarray:
    """(1, 3, h, w) in [-1, 1] → (h, w, 3) float64 in [0, 1], as scikit-image wants it."""
    return (x[0].permute(1, 2, 0).double().cpu().numpy() + 1) / 2


def _tensor(array: np.ndarray) -> Image:
    return torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1)[None].float() * 2 - 1


def _non_local_means(m: Measurement, config: ClassicalConfig) -> Image:
    sigma = m.sigma_y / 2
    y = _array(m.y)
    smooth = restoration.denoise_nl_means(
        y, patch_size=5, patch_distance=6, h=0.6 * sigma, sigma=sigma, fast_mode=True, channel_axis=-1
    )
    return _tensor(smooth)


def _biharmonic(m: Measurement, config: ClassicalConfig) -> Image:
    missing = ~m.operator.support.cpu().numpy()
    return _tensor(restoration.inpaint_biharmonic(_array(m.y), missing, channel_axis=-1))


def _bicubic(m: Measurement, config: ClassicalConfig) -> Image:
    return images.resize(m.y.cpu(), m.image_size)


def _wiener(m: Measurement, config: ClassicalConfig) -> Image:
    assert isinstance(m.operator, Blur)
    kernel = m.operator.kernel.double().cpu().numpy()
    y = _array(m.y)
    channels = [restoration.wiener(y[..., c], kernel, balance=0.01, clip=False) for c in range(3)]
    return _tensor(np.stack(channels, axis=-1))


def _total_variation(m: Measurement, config: ClassicalConfig) -> Image:
    """Proximal gradient on ½‖Ax − y‖² + w TV(x), w falling from 0.2 to 0.01 whatever the noise; ‖A‖ = 1 here.

    So it is for measurements with little noise, as those of the nine tasks are.
    """
    x = pseudo_inverse(m).cpu()
    y = m.y.cpu()
    for weight in np.geomspace(0.2, 0.01, config.tv_iterations):
        x = x + m.operator.A_adjoint(y - m.operator.A(x))
        x = _tensor(restoration.denoise_tv_chambolle(_array(x), weight=weight, channel_axis=-1, max_num_iter=30))
    return m.operator.prox(x, y, max(m.sigma_y, 1e-2) ** 2)


METHODS: dict[type[LinearOperator], tuple[str, Callable[[Measurement, ClassicalConfig], Image]]] = {
    Identity: ("non-local means", _non_local_means),
    Inpainting: ("biharmonic", _biharmonic),
    Downsampling: ("bicubic", _bicubic),
    Blur: ("Wiener", _wiener),
    Compressive: ("total variation", _total_variation),
    Fourier: ("total variation", _total_variation),
}


def _method(operator: LinearOperator) -> tuple[str, Callable[[Measurement, ClassicalConfig], Image]]:
    """The restorer for an operator of one of these classes, or of one derived from them."""
    known = next((kind for kind in type(operator).__mro__ if kind in METHODS), None)
    if known is None:
        names = ", ".join(kind.__name__ for kind in METHODS)
        raise InputError(
            f"classical: no restorer for {type(operator).__name__}; expected one of {names}, or derived from one"
        )
    return METHODS[known]


def name_for(operator: LinearOperator) -> str:
    """What the restorer for this operator is called."""
    return _method(operator)[0]


def reconstruct(measurement: Measurement, config: ClassicalConfig) -> Iterator[Step]:
    """One step: the restorer's image, clipped to [-1, 1]."""
    _, restore = _method(measurement.operator)
    measurement.check_single("classical")
    x0_hat = restore(measurement, config).clamp(-1, 1).to(measurement.y.device)
    yield Step(0, 0, x0_hat, x0_hat)


def held_out_rmse(measurement: Measurement, config: ClassicalConfig, share: float, generator: torch.Generator) -> float:
    """The restorer's RMSE on seen pixels that it is not shown, in units of [-1, 1]; for `Inpainting` alone.

    share: of the seen pixels to keep back
    """
    operator, y = measurement.operator, measurement.y
    require(
        isinstance(operator, Inpainting),
        f"held_out_rmse: expected an Inpainting, got {type(operator).__name__}, whose entries are no pixels",
    )
    held = operator.held_out(y, share, generator)
    seen = int(operator.support.sum())
    require(seen > 1, f"held_out: expected two seen pixels or more, one of them to hold out, got {seen}")
    fewer = Inpainting(operator.support & ~held.to(operator.support.device))
    (step,) = reconstruct(Measurement(fewer.A(y), fewer, measurement.sigma_y), config)
    error = (step.x0_hat.to(y) - y)[..., held]
    return measurement.rmse(float((error**2).mean()), error.numel())
