"""Adam on float32 weights, for networks that compute in fewer bits."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate, pairwise

import torch
from torch import Tensor, nn

from .compute import Compute


class Adam:
    """Adam (Kingma and Ba 2015) over one flat float32 vector of all weights.

    The network is placed where `where` says and computes there with copies of these weights in its own precision.
    One vector and not a hundred tensors: the calls for so many small ones cost more than the arithmetic.
    """

    def __init__(self, network: nn.Module, where: Compute, lr: float, betas: tuple[float, float] = (0.9, 0.999)):
        full = [p.detach().clone() for p in network.parameters()]
        self.parameters = list(where.place(network).parameters())
        self._ends = list(accumulate((p.numel() for p in self.parameters), initial=0))
        device = self.parameters[0].device
        self.weights = nn.Parameter(torch.zeros(self._ends[-1], device=device))
        self.weights.grad = torch.zeros_like(self.weights)
        self._weights = self.views(self.weights.data)
        self._gradients = self.views(self.weights.grad)
        for view, values in zip(self._weights, full, strict=True):
            view.copy_(values)
        self._adam = torch.optim.Adam([self.weights], lr, betas=betas, fused=True)

    def views(self, flat: Tensor) -> list[Tensor]:
        """The pieces of a flat vector in the shapes of the network's parameters, and in their order in memory."""
        out = []
        for p, (start, end) in zip(self.parameters, pairwise(self._ends), strict=True):
            piece = flat[start:end]
            if p.dim() == 4 and p.is_contiguous(memory_format=torch.channels_last):
                c_out, c_in, height, width = p.shape
                out.append(piece.view(c_out, height, width, c_in).permute(0, 3, 1, 2))
            else:
                out.append(piece.view(p.shape))
        return out

    def step(self, loss: Tensor, lr: float | None = None, clip: float | None = None) -> None:
        """One step down the gradient of `loss`; lr: the rate from now on; clip: largest norm of the gradient."""
        loss.backward()
        assert self.weights.grad is not None  # set above, never taken away
        pairs = [(g, p.grad) for g, p in zip(self._gradients, self.parameters, strict=True) if p.grad is not None]
        torch._foreach_copy_([g for g, _ in pairs], [p for _, p in pairs])
        if clip is not None:
            self.weights.grad *= (clip / (self.weights.grad.norm() + 1e-6)).clamp(max=1)
        if lr is not None:
            self._adam.param_groups[0]["lr"] = lr
        self._adam.step()
        torch._foreach_copy_([p.data for p in self.parameters], self._weights)
        for p in self.parameters:
            p.grad = None

    def state(self) -> dict[str, Tensor]:
        """A copy of all that the next steps depend on: weights, both moments, the number of steps."""
        adam = self._adam.state[self.weights]
        moments = {name: adam[name].clone() for name in ("exp_avg", "exp_avg_sq", "step")}
        return {"weights": self.weights.detach().clone(), **moments}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on as the optimiser that `state` came from would, bit by bit."""
        self.weights.data.copy_(state["weights"])
        self._adam.state[self.weights] = {
            name: state[name].to(self.weights.device, copy=True) for name in ("exp_avg", "exp_avg_sq", "step")
        }
        torch._foreach_copy_([p.data for p in self.parameters], self._weights)
