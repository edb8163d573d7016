"""The networks: the published parameter counts, any image size, the v-prediction's algebra, seeded weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from dipddpm_lib import compute, networks
from dipddpm_lib.networks import DeepDecoder, DenoisingUNet, SkipNetwork, build, parameter_count
from dipddpm_lib.types import InputError

U = 2.0**-24  # relative error of one rounding in float32


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def published(seed: int = 0) -> nn.Module:
    return build(
        SkipNetwork,
        generator(seed),
        filters=(128,) * 5,
        skip=(4,) * 5,
        in_channels=32,
        upsampling="bilinear",
        lean=False,
    )


def small(lean: bool, upsampling: str = "nearest", scales: int = 4, seed: int = 0) -> nn.Module:
    return build(
        SkipNetwork,
        generator(seed),
        filters=(8,) * scales,
        skip=(4, 0) * (scales // 2) + (4,) * (scales % 2),
        in_channels=5,
        upsampling=upsampling,
        lean=lean,
    )


def decoder(seed: int = 0) -> nn.Module:
    return build(DeepDecoder, generator(seed), filters=(16, 16, 16), in_channels=7)


def awake(network: nn.Module) -> nn.Module:
    """The same with every zero-initialised convolution filled: nothing is switched off any more."""
    for name, p in network.named_parameters():
        if name.endswith("conv2.weight") or name == "head.2.weight":
            nn.init.normal_(p, std=p[0].numel() ** -0.5, generator=generator(7))
    return network


def unet(channels: tuple[int, ...] = (8, 16, 16), seed: int = 0) -> nn.Module:
    return build(DenoisingUNet, generator(seed), channels=channels)


MAKERS: list[Callable[[int], nn.Module]] = [
    lambda seed: small(True, seed=seed),
    lambda seed: small(False, seed=seed),
    decoder,
    lambda seed: unet(seed=seed),
]


# ---- published sizes


def test_the_published_dip_network_has_the_published_number_of_parameters() -> None:
    """`skip` of DmitryUlyanov/deep-image-prior with its denoising arguments."""
    assert parameter_count(published()) == 2_217_831


def test_the_published_dip_network_is_the_published_one_layer_by_layer() -> None:
    """`skip.py` of the same repository: down, down, skip 1×1, norm of both, up 3×3, up 1×1 at each of five scales."""
    network = published()
    c_in = 32
    for i in range(5):
        down, skip, up = network.down[i], network.skip[i], network.up[i]
        convolutions = [m for part in (down, skip, up) for m in part.modules() if isinstance(m, nn.Conv2d)]
        found = [(m.in_channels, m.out_channels, *m.kernel_size, *m.stride) for m in convolutions]
        assert found == [
            (c_in, 128, 3, 3, 2, 2),
            (128, 128, 3, 3, 1, 1),
            (c_in, 4, 1, 1, 1, 1),
            (132, 128, 3, 3, 1, 1),
            (128, 128, 1, 1, 1, 1),
        ]
        assert all(m.padding_mode == "reflect" for m in convolutions if m.kernel_size == (3, 3))
        assert all(m.bias is not None for m in convolutions)
        norms = [m.num_features for part in (down, skip, up) for m in part.modules() if isinstance(m, nn.BatchNorm2d)]
        assert norms == [128, 128, 4, 132, 128, 128]
        assert up.norm.num_features == 132
        assert up.upsampling == "bilinear"
        activations = [m for part in (down, skip, up) for m in part.modules() if isinstance(m, nn.LeakyReLU)]
        assert {m.negative_slope for m in activations} == {0.2}
        c_in = 128
    assert (network.out.in_channels, network.out.out_channels, network.out.kernel_size) == (128, 3, (1, 1))


@given(
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    groups=st.integers(1, 3),
    bias=st.booleans(),
)
def test_upsampling_and_convolving_at_once_is_the_same(
    size: tuple[int, int], channels: tuple[int, int], groups: int, bias: bool
) -> None:
    """In float64, up to rounding: sums of at most 9 · 3 products of numbers of order 1."""
    draw = generator()
    c_in, c_out = channels
    x, weight, b = (
        torch.randn(shape, generator=draw, dtype=torch.float64)
        for shape in ((2, groups * c_in, *size), (groups * c_out, c_in, 3, 3), (groups * c_out,))
    )
    b = b if bias else None
    plain = F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), weight, b, padding=1, groups=groups)
    found = networks.upsampled_convolution(x, weight, b, groups)
    torch.testing.assert_close(found, plain, rtol=0, atol=1e-12)


def test_the_unets_expansion_is_upsampling_then_convolution() -> None:
    """In float64, through the layer itself and in the order of channels that it was trained with."""
    layer = build(networks._Expand, generator(), in_channels=5, out_channels=4, kernel_size=3, padding=1).double()
    x = torch.randn((2, 5, 6, 7), generator=generator(), dtype=torch.float64)
    plain = F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), layer.weight, layer.bias, padding=1)
    torch.testing.assert_close(layer(x), plain, rtol=0, atol=1e-12)


def test_the_lean_way_up_is_upsampling_joining_and_convolving() -> None:
    """Both ways through the same weights, gradients included."""
    act = nn.SiLU()
    shape = {"c_kept": 2, "c_deep": 3, "c": 4, "refine": 1}
    up = build(networks._Up, generator(), **shape, activation=act, upsampling="nearest", lean=True)
    up, draw = up.double(), generator()
    x, kept = (torch.randn(shape, generator=draw, dtype=torch.float64) for shape in ((1, 3, 17, 16), (1, 2, 34, 32)))
    outputs, gradients = [], []
    for at_once in (True, False):
        up.at_once = at_once
        y = up(x, kept)
        up.zero_grad()
        y.square().sum().backward()
        outputs.append(y.detach())
        gradients.append(up.first[0].weight.grad.clone())
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-10)
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-9)


def test_the_snail_has_the_published_number_of_parameters() -> None:
    """The same repository's settings for the picture of a snail."""
    network = build(
        SkipNetwork,
        generator(),
        filters=(8, 16, 32, 64, 128),
        skip=(0, 0, 0, 4, 4),
        in_channels=3,
        upsampling="bilinear",
        lean=False,
    )
    assert parameter_count(network) == 572_827


def test_the_deep_decoder_has_about_the_published_number_of_parameters() -> None:
    """k = 128 and five upsamplings: "100 k" in Heckel and Hand; exactly, by hand: 1×1 convolutions and norms."""
    network = build(DeepDecoder, generator(), filters=(128,) * 5, in_channels=128)
    assert parameter_count(network) == 6 * 128 * 128 + 6 * 2 * 128 + 3 * 128 + 3


# ---- sizes


SIZES = [(16, 16), (17, 16), (33, 47), (64, 32), (31, 100), (32, 33)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("lean", [False, True])
@pytest.mark.parametrize("upsampling", ["bilinear", "nearest"])
def test_a_skip_network_keeps_any_size(size: tuple[int, int], lean: bool, upsampling: str) -> None:
    z = torch.rand(1, 5, *size, generator=generator())
    out = small(lean, upsampling)(z)
    assert out.shape == (1, 3, *size)
    assert out.dtype == torch.float32
    assert -1 <= out.min() < out.max() <= 1


@pytest.mark.parametrize("size", [(16, 16), (33, 50)])
def test_the_published_network_takes_sizes_its_own_code_does_not(size: tuple[int, int]) -> None:
    out = published()(torch.rand(1, 32, *size, generator=generator()))
    assert out.shape == (1, 3, *size)
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("size", [*SIZES, (1, 1), (3, 5)])
def test_the_unet_keeps_any_size(size: tuple[int, int]) -> None:
    x = torch.randn(2, 3, *size, generator=generator())
    network = awake(unet())
    assert network(x, 0.5).shape == x.shape
    assert torch.isfinite(network(x, 0.5)).all()


@pytest.mark.parametrize("coarse", [(2, 2), (4, 7), (5, 3)])
def test_a_deep_decoders_output_is_two_to_its_depth_times_its_input(coarse: tuple[int, int]) -> None:
    out = decoder()(torch.rand(1, 7, *coarse, generator=generator()))
    assert out.shape == (1, 3, 8 * coarse[0], 8 * coarse[1])
    assert -1 <= out.min() < out.max() <= 1


# ---- structure


def test_lean_and_published_differ_in_what_the_docstring_says() -> None:
    lean, whole = small(True), small(False)
    strided = [sum(m.stride == (2, 2) for m in n.modules() if isinstance(m, nn.Conv2d)) for n in (lean, whole)]
    assert strided == [4, 4]
    convolutions = [sum(isinstance(m, nn.Conv2d) for m in n.down.modules()) for n in (lean, whole)]
    assert convolutions == [4, 8]
    assert {m.padding_mode for m in lean.modules() if isinstance(m, nn.Conv2d)} == {"zeros"}
    assert any(m.padding_mode == "reflect" for m in whole.modules() if isinstance(m, nn.Conv2d))


def test_skips_reach_the_output_and_scales_without_them_have_none() -> None:
    """With every decoder weight that reads the deeper path at zero, only a skip can carry z to the output."""
    network = small(True)
    z = torch.rand(1, 5, 16, 16, generator=generator())
    before = network(z)
    nn.init.zeros_(network.skip[0][0].weight)
    assert not torch.allclose(network(z), before)
    assert [isinstance(s, nn.Identity) for s in network.skip] == [False, True, False, True]


def test_batch_norm_works_the_same_in_evaluation_mode() -> None:
    """DIP has one image: statistics are always its own."""
    network = small(False)
    z = torch.rand(1, 5, 32, 32, generator=generator())
    training = network.train()(z)
    assert torch.equal(network.eval()(z), training)


def test_every_parameter_gets_a_gradient() -> None:
    """A layer built and forgotten would stay without one."""
    for network, z in (
        (small(True), torch.rand(1, 5, 32, 32, generator=generator())),
        (small(False), torch.rand(1, 5, 32, 32, generator=generator())),
        (decoder(), torch.rand(1, 7, 4, 4, generator=generator())),
    ):
        network(z).square().mean().backward()
        assert all(p.grad is not None for p in network.parameters())
    network = unet()
    network.v(torch.randn(1, 3, 16, 16, generator=generator()), 1.0).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


# ---- group normalisation


@pytest.mark.parametrize("each", [False, True], ids=["one affine map", "one for each image"])
@pytest.mark.parametrize("b", [1, 3])
def test_group_normalisation_and_its_gradient_are_those_of_pytorch(b: int, each: bool) -> None:
    draw = generator()
    x = torch.randn(b, 16, 5, 7, generator=draw, dtype=torch.float64, requires_grad=True)
    norm = networks._GroupNorm(16).double()
    for p in norm.parameters():
        p.data = torch.randn(p.shape, generator=draw, dtype=torch.float64)
    maps = torch.randn(2, b, 16, generator=draw, dtype=torch.float64, requires_grad=True)
    wanted = F.group_norm(x, 8, norm.weight, norm.bias)
    if each:
        scale, shift = maps[..., None, None]
        wanted = wanted * (1 + scale) + shift
    found = norm(x, *maps) if each else norm(x)
    sources = [x, norm.weight, norm.bias] + ([maps] if each else [])
    weights = torch.randn(x.shape, generator=draw, dtype=torch.float64)
    gradients = [torch.autograd.grad((y * weights).sum(), sources) for y in (found, wanted)]
    assert torch.allclose(found, wanted, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(*gradients, strict=True):
        # the input's gradient goes through float32 sums, which hold 35 products of order 10 each
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("each", [False, True], ids=["one affine map", "one for each image"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_normalisation_of_gpus_is_that_of_pytorch(layout: torch.memory_format, each: bool) -> None:
    draw = generator()
    x = (3 + torch.randn(3, 16, 5, 7, generator=draw)).contiguous(memory_format=layout)
    weight, bias = torch.randn(2, *((3, 16) if each else (16,)), generator=draw)
    y, mean, rstd = networks._normalised(x, weight, bias, 8)
    grouped = x.reshape(3, 8, -1)
    assert torch.allclose(mean, grouped.mean(2), rtol=1e-5)
    assert torch.allclose(rstd, (grouped.var(2, correction=0) + 1e-5).rsqrt(), rtol=1e-4)
    wanted = F.group_norm(x, 8) * weight.expand(3, 16)[..., None, None] + bias.expand(3, 16)[..., None, None]
    assert torch.allclose(y, wanted, rtol=1e-4, atol=1e-4)
    assert y.is_contiguous(memory_format=layout)


# ---- precisions


@pytest.mark.parametrize("make", MAKERS)
def test_the_fast_precision_agrees_with_float32(make: Callable[[int], nn.Module]) -> None:
    """bf16 rounds by up to 2⁻⁹; errors of independent sign add in quadrature over the layers.

    A layer rounds its weights, what it takes in, and what convolution, norm and activation give: five times. A norm
    over the few pixels of the coarsest scale can double them.
    """
    plain, fast = awake(make(0)), compute.Compute("cpu", "bfloat16", True, 1).place(awake(make(0)))
    layers = sum(isinstance(m, nn.Conv2d) for m in plain.modules())
    if isinstance(plain, networks.DenoisingUNet):
        x = torch.randn(2, 3, 32, 32, generator=generator())
        found, wanted = fast.v(x, 0.5), plain.v(x, 0.5)
    else:
        z = torch.rand(1, 7 if isinstance(plain, DeepDecoder) else 5, 32, 32, generator=generator())
        found, wanted = fast(z), plain(z)
    assert found.dtype == torch.float32
    error = (found - wanted).square().mean().sqrt() / wanted.std()
    assert 0 < error < 2 * 5 * 2**-9 * layers**0.5


# ---- the denoiser's algebra


@pytest.mark.parametrize("sigma", [0.0, 1e-3, 0.2, 1.0, 7.0, 500.0])
def test_an_untrained_denoiser_returns_the_shrunken_input(sigma: float) -> None:
    """Zero-initialised: v = 0, so E[x_0 | x_t] = √ᾱ x_t exactly."""
    network = unet()
    x_t = torch.randn(2, 3, 16, 16, generator=generator())
    assert (network.v(x_t, sigma) == 0).all()
    root_alpha_bar = torch.tensor(1 / math.sqrt(1 + sigma**2))
    # 1 + σ², its root and the product: a few roundings
    assert ((network(x_t, sigma) - root_alpha_bar * x_t).abs() <= 8 * U * root_alpha_bar * x_t.abs()).all()


def test_the_true_v_gives_back_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """x_0 = √ᾱ x_t − √(1−ᾱ) v for x_t = √ᾱ x_0 + √(1−ᾱ) ε, v = √ᾱ ε − √(1−ᾱ) x_0; one σ for each image."""
    network = unet()
    sigma = torch.tensor([0.0, 0.05, 1.0, 3.0, 80.0])
    x0 = torch.rand(5, 3, 8, 8, generator=generator()) * 2 - 1
    eps = torch.randn(5, 3, 8, 8, generator=generator(1))
    a = (1 / (1 + sigma.double() ** 2))[:, None, None, None]
    x_t = (a.sqrt() * x0 + (1 - a).sqrt() * eps).float()
    v = (a.sqrt() * eps - (1 - a).sqrt() * x0).float()
    monkeypatch.setattr(network, "v", lambda x, s: v)
    bound = 16 * U * (x_t.abs() + v.abs())  # each factor at most 1: a few roundings of either term
    assert ((network(x_t, sigma) - x0).abs() <= bound).all()


def test_v_and_the_denoised_image_are_views_of_one_output() -> None:
    network = awake(unet())
    x_t = torch.randn(3, 3, 16, 16, generator=generator())
    sigma = torch.tensor([0.1, 1.0, 10.0])
    alpha = (1 / (1 + sigma**2)).sqrt()[:, None, None, None]
    v = network.v(x_t, sigma)
    assert v.abs().max() > 0.1
    wanted = alpha * x_t - (1 - alpha**2).sqrt() * v
    assert torch.allclose(network(x_t, sigma), wanted, rtol=0, atol=32 * U * (x_t.abs().max() + v.abs().max()).item())


def test_each_image_of_a_batch_is_denoised_on_its_own_at_its_own_level() -> None:
    network = awake(unet())
    x = torch.randn(3, 3, 16, 16, generator=generator())
    sigma = torch.tensor([0.1, 1.0, 10.0])
    together = network(x, sigma)
    for i in range(3):
        alone = network(x[i : i + 1], float(sigma[i]))
        # the same sums in another order, ten layers deep
        assert torch.allclose(together[i : i + 1], alone, rtol=0, atol=1e-4)
    assert not torch.allclose(network(x, 0.1), network(x, 1.0), atol=1e-2), "σ must matter beyond its own algebra"


def test_the_noise_level_conditions_v() -> None:
    network = awake(unet())
    x = torch.randn(1, 3, 16, 16, generator=generator())
    outputs = [network.v(x, sigma) for sigma in (0.01, 0.1, 1.0, 10.0, 100.0)]
    for i, a in enumerate(outputs):
        for b in outputs[i + 1 :]:
            assert (a - b).abs().max() > 1e-3
    assert all(torch.isfinite(network.v(x, sigma)).all() for sigma in (0.0, 1e-30, 1e30))


# ---- weights


@pytest.mark.parametrize("make", MAKERS)
def test_the_same_generator_gives_the_same_weights_and_another_gives_others(
    make: Callable[[int], nn.Module],
) -> None:
    first, again, other = make(0).state_dict(), make(0).state_dict(), make(1).state_dict()
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.global_random
def test_weights_do_not_depend_on_the_global_state(make: Callable[[int], nn.Module]) -> None:
    torch.manual_seed(1)
    first = make(0).state_dict()
    torch.manual_seed(2)
    assert all(torch.equal(first[k], v) for k, v in make(0).state_dict().items())


@pytest.mark.parametrize("make", MAKERS)
def test_no_weight_keeps_what_the_memory_held_before(
    make: Callable[[int], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`build` starts from uninitialised memory; here that memory is full of NaN."""
    to_empty = nn.Module.to_empty

    def to_nan(module: nn.Module, **arguments: object) -> nn.Module:
        module = to_empty(module, **arguments)
        for tensor in [*module.parameters(), *module.buffers()]:
            tensor.data.fill_(math.nan)
        return module

    monkeypatch.setattr(nn.Module, "to_empty", to_nan)
    for name, value in make(0).state_dict().items():
        assert torch.isfinite(value).all(), name


def test_convolutions_start_uniform_within_one_over_root_fan_in() -> None:
    """PyTorch's own initial distribution U(−b, b), b = 1/√fan_in, whose variance is b²/3."""
    network = published()
    seen = 0
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            weight = module.weight.detach()
            bound = 1 / math.sqrt(weight[0].numel())
            assert weight.abs().max() <= bound
            n = weight.numel()
            # the sample variance of n uniforms has relative error √(0.8/n); 5σ
            assert abs(3 * weight.var().item() / bound**2 - 1) < 5 * math.sqrt(0.8 / n) + 1 / n
            assert module.bias.detach().abs().max() <= bound
            seen += n
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
    assert seen > 2_000_000


def test_residual_branches_and_the_head_start_at_zero() -> None:
    network = unet()
    zeros = [name for name, p in network.named_parameters() if p.dim() == 4 and (p == 0).all()]
    blocks = 2 * 3 + 1  # an encoder and a decoder block a scale, and the middle
    assert len(zeros) == blocks + 1
    assert "head.2.weight" in zeros


LEAN = {"filters": (8, 4, 8), "skip": (4, 0, 3), "in_channels": 5, "upsampling": "nearest", "lean": True}
SEVERAL: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "lean": (SkipNetwork, {**LEAN, "activation": "silu", "lift": 1}),
    "published": (SkipNetwork, {**LEAN, "upsampling": "bilinear", "lean": False}),
    "coarse": (SkipNetwork, {**LEAN, "coarse": True}),
    "decoder": (DeepDecoder, {"filters": (8, 4), "in_channels": 5}),
}


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("size", [(32, 24), (64, 64)])
@pytest.mark.parametrize("kind", SEVERAL)
def test_copies_are_the_networks_that_their_generators_give(kind: str, size: tuple[int, int], half: bool) -> None:
    """In float64: the same weights to the bit, the same images and gradients up to rounding, none from another's."""
    make, arguments = SEVERAL[kind]
    if half and kind != "coarse":
        pytest.skip("it has no output at half the size")
    count, inputs, how = 3, 5, {"half": True} if half else {}
    together = build(make, *(generator(seed) for seed in range(count)), **arguments, copies=count).double()
    if kind == "coarse":  # whose finest scale would begin at zero
        nn.init.normal_(together.out.weight, generator=generator(6))
    z = torch.rand(1, count * inputs, *size, generator=generator(9), dtype=torch.float64)
    images = together(z, **how)
    targets = torch.rand(images.shape, generator=generator(8), dtype=torch.float64)
    (images - targets).square().sum().backward()
    assert len(images) == count
    for seed in range(count):
        alone = build(make, generator(seed), **arguments).double()
        if kind == "coarse":
            alone.out.weight.data = together.out.weight.data.chunk(count)[seed].clone()
        image = alone(z[:, seed * inputs : (seed + 1) * inputs], **how)
        (image - targets[seed : seed + 1]).square().sum().backward()
        torch.testing.assert_close(image, images[seed : seed + 1], rtol=0, atol=1e-6)  # the sigmoid is of float32
        for whole, own in zip(together.parameters(), alone.parameters(), strict=True):
            assert torch.equal(whole.chunk(count)[seed], own)
            if own.grad is None:
                assert whole.grad is None
                continue
            largest = float(own.grad.abs().max())
            torch.testing.assert_close(whole.grad.chunk(count)[seed], own.grad, rtol=0, atol=1e-5 * (1 + largest))


def test_several_generators_need_as_many_copies() -> None:
    make, arguments = SEVERAL["lean"]
    with pytest.raises(InputError, match="build: expected 2 copies, one a generator, got 3"):
        build(make, generator(0), generator(1), **arguments, copies=3)


def test_the_finest_scale_joins_the_coarse_image_without_a_jump() -> None:
    """With `coarse` the output at half the size is the whole output until the finest scale has learnt something."""
    arguments = {"filters": (8, 16), "skip": (4, 4), "in_channels": 4, "upsampling": "nearest", "lean": True}
    net = build(SkipNetwork, torch.Generator().manual_seed(0), **arguments, coarse=True)
    z = torch.rand(1, 4, 20, 28, generator=torch.Generator().manual_seed(1))
    half = net(z, half=True)
    torch.testing.assert_close(net(z), half, rtol=0, atol=0)
    half.sum().backward()
    assert all(p.grad is None for p in (*net.up[0].parameters(), *net.out.parameters()))
    net.zero_grad()
    net(z).sum().backward()
    assert net.out.weight.grad is not None
    assert net.out.weight.grad.abs().max() > 0


class WithAnother(nn.Module):
    def __init__(self, kind: type[nn.Module], *arguments: int):
        super().__init__()
        self.first, self.other = nn.Conv2d(3, 3, 1), kind(*arguments)


@pytest.mark.parametrize("kind", [(nn.LayerNorm, 4), (nn.ConvTranspose2d, 2, 2, 3), (nn.Embedding, 3, 2)])
def test_a_layer_without_known_initial_values_is_refused(kind: tuple[Any, ...]) -> None:
    """Left as it was made it would hold whatever the memory held."""

    class Own(WithAnother):
        def __init__(self) -> None:
            super().__init__(*kind)

    with pytest.raises(InputError, match=f"no initial values are known for a {kind[0].__name__}"):
        build(Own, torch.Generator())


def test_a_second_derivative_is_refused_and_not_wrong() -> None:
    network = networks.build(networks.DenoisingUNet, torch.Generator(), channels=(8,))
    x = torch.ones(1, 3, 16, 16, requires_grad=True)
    (slope,) = torch.autograd.grad(network(x, 0.5).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()
