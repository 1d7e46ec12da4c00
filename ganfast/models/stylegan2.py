"""StyleGAN2's generator: a mapping network from latents to styles, and a synthesis network from styles to images.

Source: Karras et al. 2020, "Analyzing and improving the image quality of StyleGAN" (skip connections, demodulation); Karras, Laine & Aila
2019, "A style-based generator architecture" (mapping, noise, style mixing, truncation); written from the papers.
"""

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfast import _checks
from ganfast._autograd import no_autocast
from ganfast.models.conditional import Given
from ganfast.models.equalised import BiasedActivation, Blur, EqualLinear, Upsample, normalised
from ganfast.models.sizes import check_latent, check_size, widths_of

NOISES = ("random", "const", "none")
_OP = "stylegan2"


class Conditioned(nn.Module):
    """A class label or a vector as [N, out] of mean square 1; None: there is none. For the mapping networks of both sides."""

    def __init__(self, out: int, num_classes: int | None, condition_dim: int | None) -> None:
        super().__init__()
        self.given = Given(_OP, num_classes, condition_dim, out)
        self.linear = None if condition_dim is None else EqualLinear(condition_dim, out)

    def forward(self, condition: Tensor | None, rows: int) -> Tensor | None:
        given = self.given(condition, rows)
        return None if given is None else normalised(given if self.linear is None else self.linear(given))


class Mapping(nn.Module):
    """Latents to styles w, through `layers` linear layers that learn a hundredth as fast as others. In training mode it keeps the mean
    of w, to which samples may be drawn (`truncation`).

    Shapes: latent [N, latent_dim], condition as the generator's -> w [N, style_dim]. Field: mean [style_dim].
    """

    MEMORY = 0.995  # how much of the mean stays at each call

    def __init__(
        self, latent_dim: int, style_dim: int, layers: int = 8, *, num_classes: int | None = None, condition_dim: int | None = None
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        given = num_classes is not None or condition_dim is not None
        self.condition = Conditioned(latent_dim, num_classes, condition_dim)
        sizes = [latent_dim * (1 + given), *[style_dim] * layers]
        self.layers = nn.Sequential(*(EqualLinear(a, b, rate=0.01, act=True) for a, b in itertools.pairwise(sizes)))
        self.register_buffer("mean", torch.zeros(style_dim))

    def forward(self, latent: Tensor, condition: Tensor | None = None) -> Tensor:
        check_latent(_OP, latent, self.latent_dim)
        with no_autocast(latent):  # styles would be rounded before they scale weights
            x, given = normalised(latent), self.condition(condition, len(latent))
            w = self.layers(x if given is None else torch.cat([x, given], 1))
        if self.training:
            with torch.no_grad():
                self.mean.lerp_(w.detach().mean(0).to(self.mean.dtype), 1 - self.MEMORY)
        return w


class ModulatedConv2d(nn.Module):
    """Each image scales the weight's input channels by its own styles; with `demodulate` each output channel then gets norm 1. The batch
    becomes the groups of one convolution, as plain torch has no other way.

    Shapes: x [N, c_in, H, W], w [N, style_dim] -> [N, c_out, H, W], twice that size with `up`.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int, style_dim: int, *, demodulate: bool = True, up: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c_out, c_in, kernel, kernel))
        self.scale, self.padding, self.demodulate = 1 / math.sqrt(c_in * kernel**2), kernel // 2, demodulate
        self.style = EqualLinear(style_dim, c_in, bias=1.0)
        self.blur = Blur((1, 1), gain=4.0) if up else None

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        n, c_in, height, width = x.shape
        weight = self.scale * self.weight[None] * self.style(w).view(n, 1, c_in, 1, 1)
        if self.demodulate:
            weight = weight * torch.rsqrt(weight.pow(2).sum([2, 3, 4], keepdim=True) + 1e-8)
        x = x.reshape(1, n * c_in, height, width)
        if self.blur is None:
            x = F.conv2d(x, weight.flatten(0, 1), padding=self.padding, groups=n)
            return x.view(n, -1, *x.shape[2:])
        x = F.conv_transpose2d(x, weight.transpose(1, 2).flatten(0, 1), stride=2, groups=n)
        return self.blur(x.view(n, -1, *x.shape[2:]))


class Styled(nn.Module):
    """A modulated 3x3 convolution, noise of a learned strength, bias, leaky ReLU. noise: "random", "const" or "none"."""

    def __init__(self, c_in: int, c_out: int, style_dim: int, size: int, *, up: bool = False) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(c_in, c_out, 3, style_dim, up=up)
        self.strength = nn.Parameter(torch.zeros(1))
        self.register_buffer("noise", torch.randn(1, 1, size, size))
        self.act = BiasedActivation(c_out)

    def forward(self, x: Tensor, w: Tensor, noise: str) -> Tensor:
        x = self.conv(x, w)
        if noise != "none":
            drawn = torch.randn(len(x), 1, *x.shape[2:], device=x.device) if noise == "random" else self.noise
            x = x + self.strength * drawn
        return self.act(x)


class ToImage(nn.Module):
    """A modulated 1x1 convolution to the picture's channels, added to the picture so far, enlarged."""

    def __init__(self, c_in: int, channels: int, style_dim: int, *, first: bool = False) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(c_in, channels, 1, style_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.enlarged = None if first else Upsample()

    def forward(self, x: Tensor, w: Tensor, picture: Tensor | None) -> Tensor:
        y = self.conv(x, w) + self.bias
        return y if picture is None else y + self.enlarged(picture)


class Synthesis(nn.Module):
    """Styles to images.

    Shapes: w [N, style_dim], the same style for all layers, or [N, layers, style_dim] -> [N, channels, image_size, image_size].
    noise: "random", drawn by torch for each image; "const", the same at every call; "none"; None: random in training mode, else const.
    Field: layers, how many styles it takes, of rising resolution: two at 4x4, two more at each further one.
    """

    def __init__(self, image_size: int, style_dim: int, width: int, channels: int, widest: int) -> None:
        super().__init__()
        c = widths_of(image_size, width, widest)
        self.style_dim, self.layers = style_dim, 2 * len(c)
        self.input = nn.Parameter(torch.randn(1, c[0], 4, 4))
        self.first = Styled(c[0], c[0], style_dim, 4)
        self.to_image = nn.ModuleList([ToImage(c[0], channels, style_dim, first=True)])
        self.ups, self.convs = nn.ModuleList(), nn.ModuleList()
        for i, (a, b) in enumerate(itertools.pairwise(c)):
            self.ups.append(Styled(a, b, style_dim, 8 << i, up=True))
            self.convs.append(Styled(b, b, style_dim, 8 << i))
            self.to_image.append(ToImage(b, channels, style_dim))

    def forward(self, w: Tensor, noise: str | None = None) -> Tensor:
        if w.dim() not in (2, 3) or w.shape[-1] != self.style_dim or (w.dim() == 3 and w.shape[1] != self.layers):
            wants = f"[N, {self.style_dim}] or [N, {self.layers}, {self.style_dim}]"
            _checks.fail(_OP, f"w got {list(w.shape)}, wants {wants}", "`mapping` gives it")
        if noise is None:
            noise = "random" if self.training else "const"
        if noise not in NOISES:
            _checks.nearest(_OP, "noise", noise, NOISES)
        of = [w] * self.layers if w.dim() == 2 else w.unbind(1)
        x = self.first(self.input.repeat(len(w), 1, 1, 1), of[0], noise)
        picture = self.to_image[0](x, of[1], None)
        for i, (up, conv, to_image) in enumerate(zip(self.ups, self.convs, self.to_image[1:]), 1):
            x = conv(up(x, of[2 * i - 1], noise), of[2 * i], noise)
            picture = to_image(x, of[2 * i + 1], picture)
        return picture


class StyleGAN2Generator(nn.Module):
    """Latents to images around [-1, 1], without a last activation.

    In training mode a share `style_mixing` of the images takes its styles from two latents, the second from a layer on that is drawn:
    neighbouring layers then do not rely on each other. `truncation` draws styles to their mean: w = mean + truncation (w - mean), which
    gives more typical images of less variety. A condition joins the latent in the mapping network.

    Arguments:
        width: channels of the last layers; twice as many at each lower resolution, `widest` at most. The paper's network at 256x256:
            width 128, there called config F; style_dim None: latent_dim.
        mapping_layers: 8 in the paper; 2 train small networks and few classes sooner.
    Shapes: latent [N, latent_dim]; condition int64 [N] with num_classes, [N, condition_dim] with that, or None
        -> [N, channels, image_size, image_size].
    Fields: mapping(latent, condition) -> w [N, style_dim]; synthesis(w, noise=...), which takes [N, style_dim] or one style for each of
        its `layers`. Both may be called alone; `styles` is what forward hands from one to the other.
    Raises: ValueError for other shapes, an image_size that is no power of two, a truncation outside [0, 1].
    Source: see the head of this file.
    """

    def __init__(
        self,
        image_size: int = 64,
        latent_dim: int = 512,
        width: int = 32,
        channels: int = 3,
        condition_dim: int | None = None,
        *,
        num_classes: int | None = None,
        style_dim: int | None = None,
        mapping_layers: int = 8,
        widest: int = 512,
        style_mixing: float = 0.9,
    ) -> None:
        super().__init__()
        check_size(_OP, image_size)
        if not 0 <= style_mixing <= 1:
            _checks.fail(_OP, f"style_mixing got {style_mixing!r}, wants a share in [0, 1]")
        self.style_mixing = style_mixing
        given = {"num_classes": num_classes, "condition_dim": condition_dim}
        self.mapping = Mapping(latent_dim, style_dim or latent_dim, mapping_layers, **given)
        self.synthesis = Synthesis(image_size, style_dim or latent_dim, width, channels, widest)

    def forward(self, latent: Tensor, condition: Tensor | None = None, *, truncation: float = 1.0, noise: str | None = None) -> Tensor:
        return self.synthesis(self.styles(latent, condition, truncation=truncation), noise)

    def styles(self, latent: Tensor, condition: Tensor | None = None, *, truncation: float = 1.0) -> Tensor:
        """[N, layers, style_dim] of latents, mixed in training mode, truncated."""
        if not 0 <= truncation <= 1:
            _checks.fail(_OP, f"truncation got {truncation!r}, wants a number in [0, 1]", "1 leaves styles as they are, 0 is their mean")
        w, layers = self.mapping(latent, condition), self.synthesis.layers
        styles = w[:, None].expand(-1, layers, -1)
        if self.training and self.style_mixing:
            other = self.mapping(torch.randn_like(latent), condition)
            n = len(latent)
            first = torch.randint(1, layers, (n,), device=latent.device)
            first = torch.where(torch.rand(n, device=latent.device) < self.style_mixing, first, layers)
            of_other = torch.arange(layers, device=latent.device)[None] >= first[:, None]
            styles = torch.where(of_other[:, :, None], other[:, None], styles)
        return styles if truncation == 1 else torch.lerp(self.mapping.mean.to(styles.dtype), styles, truncation)
