"""The networks: DIP's skip encoder–decoder, the Deep Decoder, and the U-Net of the diffusion model."""

from __future__ import annotations

import math
from functools import cache
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .types import Image, require

Upsampling = Literal["bilinear", "nearest"]


Padding = Literal["zeros", "reflect"]
Network = TypeVar("Network", bound=nn.Module)


def build(make: type[Network], *generators: torch.Generator, device: str = "cpu", **arguments: object) -> Network:
    """Construct `make(**arguments)` with weights drawn from `generators`; the global random state stays untouched.

    Convolutions and linear layers get PyTorch's own initial distribution, U(±1/√fan_in).
    A module with an `after_init` method then sets what starts otherwise (zero outputs).
    Several generators are for networks with as many `copies`: each copy is the network that its generator alone gives.
    """
    copies = arguments.get("copies", 1)
    known = all(isinstance(generator, torch.Generator) for generator in generators)
    require(known, f"build: expected torch.Generators before the named arguments, got {generators!r}")
    require(len(generators) == copies, f"build: expected {len(generators)} copies, one a generator, got {copies}")
    with torch.device("meta"):
        network = make(**arguments)
    network = network.to_empty(device="cpu")
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            bound = 1 / math.sqrt(module.weight[0].numel())
            for values in (module.weight, module.bias):
                if values is not None:
                    for part, generator in zip(values.data.chunk(len(generators)), generators, strict=True):
                        part.uniform_(-bound, bound, generator=generator)
        elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            module.reset_parameters()
        else:
            own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
            known = not own or hasattr(module, "after_init")
            require(known, f"build: no initial values are known for a {type(module).__name__}; give it after_init")
    for module in network.modules():
        if hasattr(module, "after_init"):
            module.after_init()  # type: ignore[operator]
    return network.to(device)


def parameter_count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def _padded(x: Tensor, multiple: int) -> Tensor:
    """Grow height and width to a multiple, so that any size goes through every scale; the caller crops."""
    height, width = x.shape[-2:]
    bottom, right = -height % multiple, -width % multiple
    if bottom == right == 0:
        return x
    return F.pad(x, (0, right, 0, bottom), mode="replicate")


@cache
def _gather(device: torch.device, dtype: torch.dtype) -> Tensor:
    """Which of the 3×3 taps fall on one coarse pixel, for each of the 4×4: (3 · 3, 4 · 4) of 0 and 1."""
    taps = torch.tensor([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], device=device, dtype=dtype)
    return torch.einsum("ka,lb->abkl", taps, taps).reshape(9, 16)


def upsampled_convolution(x: Tensor, weight: Tensor, bias: Tensor | None = None, groups: int = 1) -> Tensor:
    """conv2d(interpolate(x, scale_factor=2, mode="nearest"), weight, bias, padding=1, groups=groups).

    weight: (c_out, c_in / groups, 3, 3). Done as one transposed convolution with 4×4 weights: four products a pixel in
    place of nine, and the large tensor is never made (see Shi et al. 2016, arXiv 1609.07009).
    """
    c_out, c_in = weight.shape[0] // groups, weight.shape[1]
    by_group = weight.unflatten(0, (groups, c_out)).transpose(1, 2)
    kernel = by_group.reshape(-1, 9) @ _gather(weight.device, weight.dtype)
    kernel = kernel.view(groups * c_in, c_out, 4, 4)
    return F.conv_transpose2d(x, kernel, bias, stride=2, padding=1, groups=groups)


def _norm(channels: int) -> nn.BatchNorm2d:
    # DIP never leaves training mode: one image is the batch, running statistics would only cost
    return nn.BatchNorm2d(channels, track_running_stats=False)


def _convolution(c_in: int, c_out: int, kernel: int, copies: int, **how: Any) -> nn.Conv2d:
    """Of each copy by itself: the copies' channels follow each other."""
    return nn.Conv2d(copies * c_in, copies * c_out, kernel, padding=kernel // 2, groups=copies, **how)


class _Block(nn.Sequential):
    """Convolution, batch normalisation, activation."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int,
        activation: nn.Module,
        stride: int = 1,
        pad: Padding = "zeros",
        bias: bool = True,
        copies: int = 1,
    ):
        convolution = _convolution(c_in, c_out, kernel, copies, stride=stride, padding_mode=pad, bias=bias)
        super().__init__(convolution, _norm(copies * c_out), activation)


class _Up(nn.Module):
    """One scale of the way up: x is upsampled, what was kept on the way down joins it, and both are convolved."""

    def __init__(
        self,
        c_kept: int,
        c_deep: int,
        c: int,
        refine: int,
        activation: nn.Module,
        upsampling: Upsampling,
        lean: bool,
        copies: int = 1,
    ):
        super().__init__()
        pad: Padding = "zeros" if lean else "reflect"
        self.copies = copies
        self.channels = (c_kept, c_deep)
        self.upsampling = upsampling
        # with nothing between them, upsampling and convolution are one operation
        self.at_once = lean and upsampling == "nearest"
        self.norm = nn.Identity() if lean else _norm(copies * (c_kept + c_deep))
        self.first = _Block(c_kept + c_deep, c, 3, activation, 1, pad, not lean, copies)
        self.second = _Block(c, c, refine, activation, 1, pad, not lean, copies)

    def forward(self, x: Tensor, kept: Tensor | None) -> Tensor:
        # on fewer pixels the kernel costs more to make than it saves
        if self.at_once and x.shape[-2] * x.shape[-1] >= 256:
            convolution, norm, activation = self.first
            assert isinstance(convolution, nn.Conv2d)  # for the types
            for_kept, for_deep = convolution.weight.split(self.channels, 1)
            y = upsampled_convolution(x, for_deep, groups=self.copies)
            if kept is not None:
                y = y + F.conv2d(kept, for_kept, padding=1, groups=self.copies)
            return self.second(activation(norm(y)))
        align = False if self.upsampling == "bilinear" else None
        x = F.interpolate(x, scale_factor=2, mode=self.upsampling, align_corners=align)
        if kept is not None:  # chunks of four dimensions: a join of five would lose the memory format
            by_copy = zip(kept.chunk(self.copies, 1), x.chunk(self.copies, 1), strict=True)
            x = torch.cat([part for both in by_copy for part in both], 1)
        return self.second(self.first(self.norm(x)))


class SkipNetwork(nn.Module):
    """Encoder–decoder with skip connections (Ulyanov et al. 2018, fig. 21 and supplementary).

    filters, skip: one number a scale, finest first. `lean` leaves one strided convolution a scale on the way down,
    pads with zeros, and drops the biases that the norms after them cancel; otherwise, with the defaults of `refine`
    (kernel of each scale's second convolution on the way up) and `activation`, it is the published one, layer by layer.
    lift: how many of the finest scales have only a way up; z then comes at 2^-lift of the output's size.
    coarse: add an image at half the size to the output, before the sigmoid; with `half` it is the whole output, and
    the finest scale is left out (the skip outputs of Karras et al. 2020, fig. 7). The finest scale starts at zero.
    copies: networks of this shape side by side, none connected with another, as groups of every layer: one call for
    all, where so small layers cost more to call than to compute. z holds their inputs' channels, one after the other.
    """

    def __init__(
        self,
        filters: tuple[int, ...],
        skip: tuple[int, ...],
        in_channels: int,
        upsampling: Upsampling,
        lean: bool,
        refine: Literal[1, 3] = 1,
        activation: Literal["silu", "leaky_relu"] = "leaky_relu",
        lift: int = 0,
        coarse: bool = False,
        copies: int = 1,
    ):
        super().__init__()
        self.scales, self.lift, self.copies = len(filters), lift, copies
        act: nn.Module = nn.SiLU() if activation == "silu" else nn.LeakyReLU(0.2)
        pad: Padding = "zeros" if lean else "reflect"
        self.down, self.skip, self.up = (nn.ModuleList() for _ in range(3))
        c_in = in_channels
        for i, (c, c_skip) in enumerate(zip(filters, skip, strict=True)):
            deeper = filters[i + 1] if i + 1 < self.scales else c
            if i < lift:
                self.up.append(_Up(0, deeper, c, refine, act, upsampling, lean, copies))
                continue
            block = [_Block(c_in, c, 3, act, 2, pad, not lean, copies)]
            if not lean:
                block.append(_Block(c, c, 3, act, 1, pad, copies=copies))
            self.down.append(nn.Sequential(*block))
            joining = _Block(c_in, c_skip, 1, act, bias=not lean, copies=copies) if c_skip else nn.Identity()
            self.skip.append(joining)
            self.up.append(_Up(c_skip, deeper, c, refine, act, upsampling, lean, copies))
            c_in = c
        self.out = _convolution(filters[0], 3, 1, copies)
        self.half_out = _convolution(filters[1], 3, 1, copies) if coarse else None

    def after_init(self) -> None:
        if self.half_out is not None:
            nn.init.zeros_(self.out.weight)
            nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, z: Float[Tensor, "1 c h_z w_z"], half: bool = False) -> Image:
        """One image a copy."""
        height, width = (side * 2**self.lift for side in z.shape[-2:])
        # reflection needs two pixels at the coarsest scale
        multiple = 2 ** (self.scales - self.lift)
        x = _padded(z, multiple * (1 if min(z.shape[-2:]) > multiple else 2)).to(self.out.weight.dtype)
        skips: list[Tensor | None] = [None] * self.lift
        for down, skip in zip(self.down, self.skip, strict=True):
            skips.append(None if isinstance(skip, nn.Identity) else skip(x))
            x = down(x)
        for i in reversed(range(1, self.scales)):
            x = self.up[i](x, skips[i])
        logits: Tensor | float = 0.0
        if self.half_out is not None:
            logits = F.interpolate(self.half_out(x), scale_factor=2, mode="bilinear", align_corners=False)
        if not half:
            logits = logits + self.out(self.up[0](x, skips[0]))
        assert isinstance(logits, Tensor)  # `half` needs `coarse`
        return _images(logits[..., :height, :width], self.copies)


def _images(logits: Tensor, copies: int) -> Image:
    """(1, 3 copies, h, w) as (copies, 3, h, w) within [-1, 1]."""
    return 2 * torch.sigmoid(logits.unflatten(1, (copies, 3)).flatten(0, 1).float()) - 1


class DeepDecoder(nn.Module):
    """1×1 convolutions and bilinear upsampling alone (Heckel and Hand 2019): each layer conv, up, ReLU, BatchNorm.

    Its input is `in_channels` channels at 2^-depth of the image's size. copies: as in `SkipNetwork`.
    """

    def __init__(self, filters: tuple[int, ...], in_channels: int, copies: int = 1):
        super().__init__()
        self.scales, self.copies = len(filters), copies
        sizes = zip((in_channels, *filters[:-1]), filters, strict=True)
        self.mix = nn.ModuleList(_convolution(a, b, 1, copies, bias=False) for a, b in sizes)
        self.norm = nn.ModuleList(_norm(copies * c) for c in filters)
        last = _convolution(filters[-1], filters[-1], 1, copies, bias=False)
        self.last = nn.Sequential(last, nn.ReLU(), _norm(copies * filters[-1]))
        self.out = _convolution(filters[-1], 3, 1, copies)

    def forward(self, z: Float[Tensor, "1 c h0 w0"]) -> Image:
        """z at the coarse size; the output is 2^depth times as large."""
        x = z.to(self.out.weight.dtype)
        for mix, norm in zip(self.mix, self.norm, strict=True):
            x = F.interpolate(mix(x), scale_factor=2, mode="bilinear", align_corners=False)
            x = norm(F.relu(x))
        return _images(self.out(self.last(x)), self.copies)


def _normalised(x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> tuple[Tensor, Tensor, Tensor]:
    """Group normalisation for any memory format, and each group's mean and inverse deviation, both (b, groups)."""
    b, c, h, w = x.shape
    by_group = (b, groups, c // groups)
    mean = x.sum((2, 3), dtype=torch.float32).reshape(by_group).mean(2, keepdim=True) / (h * w)
    square = torch.linalg.vector_norm(x, 2, (2, 3), dtype=torch.float32).square() / (h * w)
    rstd = (square.reshape(by_group).mean(2, keepdim=True) - mean**2).clamp(min=0).add(1e-5).rsqrt()
    scale = weight.float().expand(b, c).reshape(by_group) * rstd
    shift = bias.float().expand(b, c).reshape(by_group) - scale * mean
    scale, shift = (v.reshape(b, c, 1, 1).to(x.dtype) for v in (scale, shift))
    return torch.addcmul(shift, x, scale), mean[..., 0], rstd[..., 0]


class _Normalise(torch.autograd.Function):
    """Group normalisation with weight and bias of shape (c,), or (b, c) for each image its own.

    Forward is ATen's, but on CUDA, where ATen wants the channels first. Its backward takes on the CPU ten times as
    long as forward for channels_last bf16; this one is the same formula (Wu and He 2018, eq. 1, differentiated) in
    whole-tensor operations.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int) -> Tensor:
        b, c, h, w = x.shape
        whole = weight.dim() == 1 or b == 1
        if x.is_cuda:
            y, mean, rstd = _normalised(x, weight, bias, groups)
        else:
            w0, b0 = (weight.reshape(c), bias.reshape(c)) if whole else (None, None)
            y, mean, rstd = torch.native_group_norm(x, w0, b0, b, c, h * w, groups, 1e-5)
            if not whole:
                y = torch.addcmul(bias.to(x.dtype)[:, :, None, None], y, weight.to(x.dtype)[:, :, None, None])
        ctx.save_for_backward(x, weight, mean, rstd)
        ctx.groups = groups
        return y

    @staticmethod
    @once_differentiable  # a second derivative would be wrong, for mean and rstd are saved as constants
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (g,) = gradients
        x, weight, mean, rstd = ctx.saved_tensors
        b, c, h, w = x.shape
        by_group = (b, ctx.groups, c // ctx.groups)
        mean, rstd = (v.float().reshape(b, ctx.groups, 1) for v in (mean, rstd))
        scale = weight.float().expand(b, c).reshape(by_group)
        sum_g = g.sum((2, 3), dtype=torch.float32).reshape(by_group)
        sum_gx = (g * x).sum((2, 3), dtype=torch.float32).reshape(by_group)
        sum_gx = (sum_gx - mean * sum_g) * rstd  # Σ g x̂, x̂ the normalised input
        share = 1 / (h * w * by_group[2])
        mean_g = (scale * sum_g).sum(2, keepdim=True) * share
        mean_gx = (scale * sum_gx).sum(2, keepdim=True) * share
        # rstd (scale g − mean_g − x̂ mean_gx), gathered by powers of g and x
        of_g, of_x = rstd * scale, -(rstd**2) * mean_gx
        rest = -rstd * mean_g - of_x * mean
        of_g, of_x, rest = (v.expand(by_group).reshape(b, c, 1, 1).to(g.dtype) for v in (of_g, of_x, rest))
        d_x = torch.addcmul(torch.addcmul(rest, x, of_x), g, of_g)
        d_weight, d_bias = (v.reshape(b, c).sum_to_size(weight.shape).to(weight) for v in (sum_gx, sum_g))
        return d_x, d_weight, d_bias, None


class _GroupNorm(nn.GroupNorm):
    """Group normalisation over 8 groups; scale and shift, where given, come on top: (1 + scale) · y + shift."""

    def __init__(self, channels: int):
        super().__init__(8, channels)

    def forward(self, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None) -> Tensor:
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if scale is not None and shift is not None:
            weight, bias = weight * (1 + scale), bias * (1 + scale) + shift
        normed: Tensor = _Normalise.apply(x, weight, bias, self.num_groups)
        return normed


class _ResBlock(nn.Module):
    """GroupNorm, SiLU, convolution, twice; the noise level scales and shifts in between (Dhariwal, Nichol 2021)."""

    def __init__(self, c_in: int, c_out: int, c_emb: int):
        super().__init__()
        self.norm1 = _GroupNorm(c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, padding=1)
        self.emb = nn.Linear(c_emb, 2 * c_out)
        self.norm2 = _GroupNorm(c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.residual = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()

    def after_init(self) -> None:
        for weights in self.conv2.parameters():
            nn.init.zeros_(weights)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.emb(emb).chunk(2, 1)
        h = self.conv2(F.silu(self.norm2(h, scale, shift)))
        return self.residual(x) + h


class _Expand(nn.Conv2d):
    """Upsampling by nearest neighbours, then a 3×3 convolution."""

    def forward(self, x: Tensor) -> Tensor:
        return upsampled_convolution(x, self.weight, self.bias)


class DenoisingUNet(nn.Module):
    """v_θ(x_t, σ): U-Net conditioned on the noise level, zero-initialised output (Ho et al. 2020; Salimans, Ho 2022).

    channels: one number a scale, finest first. Calling it gives E[x_0 | x_t]; `.v` is the bare output.
    Being told σ and not an index, one set of weights serves every schedule and every T.
    """

    def __init__(self, channels: tuple[int, ...]):
        super().__init__()
        self.channels = channels
        c_emb = 4 * channels[0]
        self.embed = nn.Sequential(nn.Linear(32, c_emb), nn.SiLU(), nn.Linear(c_emb, c_emb), nn.SiLU())
        self.stem = nn.Conv2d(3, channels[0], 3, padding=1)
        self.encode, self.reduce, self.decode, self.expand = (nn.ModuleList() for _ in range(4))
        for i, c in enumerate(channels):
            self.encode.append(_ResBlock(c, c, c_emb))
            if i + 1 < len(channels):
                self.reduce.append(nn.Conv2d(c, channels[i + 1], 3, stride=2, padding=1))
                self.expand.append(_Expand(channels[i + 1], c, 3, padding=1))
            self.decode.append(_ResBlock(2 * c, c, c_emb))
        self.middle = _ResBlock(channels[-1], channels[-1], c_emb)
        self.head = nn.Sequential(_GroupNorm(channels[0]), nn.SiLU(), nn.Conv2d(channels[0], 3, 3, padding=1))

    def after_init(self) -> None:
        for weights in self.head[-1].parameters():
            nn.init.zeros_(weights)

    def v(self, x_t: Image, sigma: float | Tensor) -> Image:
        """v = √ᾱ ε − √(1−ᾱ) x_0 (Salimans and Ho 2022, appendix D); sigma: a number, or one an image.

        Computed where the weights are; the result is where x_t came from.
        """
        home, x_t = x_t.device, x_t.to(self.stem.weight.device)
        sigma = torch.as_tensor(sigma, dtype=torch.float32, device=x_t.device).expand(x_t.shape[0])
        # log σ/4 as in Karras et al. 2022, table 1; clamped where only noise or only image is left
        level = sigma.clamp(1e-3, 1e3).log() / 4
        frequency = torch.linspace(0, math.log(32), 16, device=x_t.device).exp()
        angle = level[:, None] * frequency
        emb = self.embed(torch.cat([angle.sin(), angle.cos()], 1))
        height, width = x_t.shape[-2:]
        h = self.stem(_padded(x_t, 2 ** len(self.reduce)).to(self.stem.weight.dtype))
        skips = []
        for i, encode in enumerate(self.encode):
            h = encode(h, emb)
            skips.append(h)
            if i < len(self.reduce):
                h = self.reduce[i](h)
        h = self.middle(h, emb)
        for i in reversed(range(len(self.encode))):
            h = self.decode[i](torch.cat([h, skips[i]], 1), emb)
            if i > 0:
                h = self.expand[i - 1](h)
        v: Tensor = self.head(h)[..., :height, :width].float()
        return v.to(home)

    def forward(self, x_t: Image, sigma: float | Tensor) -> Image:
        sigma = torch.as_tensor(sigma, dtype=torch.float32, device=x_t.device).reshape(-1, 1, 1, 1)
        alpha = (1 + sigma**2).rsqrt()
        return alpha * x_t - alpha * sigma * self.v(x_t, sigma.reshape(-1))
