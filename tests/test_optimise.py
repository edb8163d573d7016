"""`optimise`: the oracle is torch.optim.Adam on the network's own parameters."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dipddpm_lib import compute
from dipddpm_lib.networks import build
from dipddpm_lib.optimise import Adam

PLAIN = compute.Compute("cpu", "float32", channels_last=False, threads=1)
FAST = compute.Compute("cpu", "bfloat16", channels_last=True, threads=1)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3, padding=1, bias=False)  # a norm cancels it: its gradient would be all rounding
        self.norm = nn.BatchNorm2d(6, track_running_stats=False)
        self.b = nn.Conv2d(6, 2, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.relu(self.norm(self.a(x.to(self.a.weight.dtype))))).float()


def network() -> Small:
    return build(Small, torch.Generator().manual_seed(0))


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("channels_last", [False, True])
def test_it_takes_the_steps_of_pytorch(x: Tensor, clip: float | None, channels_last: bool) -> None:
    ours, theirs = network(), network()
    where = compute.Compute("cpu", "float32", channels_last, threads=1)
    adam = Adam(ours, where, 0.01, betas=(0.8, 0.95))
    oracle = torch.optim.Adam(theirs.parameters(), 0.01, betas=(0.8, 0.95))
    for rate in (0.01, 0.02, 0.005):
        adam.step((ours(x) - 1).square().mean(), rate, clip)
        oracle.zero_grad()
        (theirs(x) - 1).square().mean().backward()
        if clip is not None:
            assert torch.nn.utils.clip_grad_norm_(theirs.parameters(), clip) > clip, "the clip must bite"
        oracle.param_groups[0]["lr"] = rate
        oracle.step()
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        # three steps of up to 0.02; gradients agree to 1e-5 of their size or so
        assert torch.allclose(p, q, rtol=0, atol=2e-5)


def test_the_network_holds_its_weights_rounded(x: Tensor) -> None:
    fast = network()
    adam = Adam(fast, FAST, 1e-4)
    before = adam.weights.detach().clone()
    for _ in range(3):
        adam.step(fast(x).square().mean())
    assert adam.weights.dtype == torch.float32
    for p, view in zip(fast.parameters(), adam.views(adam.weights.data), strict=True):
        assert torch.equal(p, view.to(p.dtype))
        assert p.stride() == view.stride() or p.numel() == max(p.shape)
    # steps below a bf16 weight's rounding add up in float32, and would be lost without it
    moved = (adam.weights.detach() - before).abs()
    assert 1e-5 < float(moved.median()) < 4e-4
    assert not torch.equal(adam.weights, adam.weights.bfloat16().float())


def test_its_weights_start_as_the_networks_and_views_keep_order(x: Tensor) -> None:
    fast = network()
    initial = [p.clone() for p in fast.parameters()]
    adam = Adam(fast, FAST, 0.01)
    for values, view in zip(initial, adam.views(adam.weights.data), strict=True):
        assert torch.equal(values, view), "the initial weights stay exact, whatever the network rounds them to"


def test_gradients_do_not_add_up_over_steps(x: Tensor) -> None:
    one = network()
    adam = Adam(one, PLAIN, 1e-12)  # the weights stay where they are
    adam.step(one(x).square().mean())
    first = adam.weights.grad.clone()
    adam.step(one(x).square().mean())
    assert torch.allclose(adam.weights.grad, first, rtol=1e-4, atol=1e-7)
