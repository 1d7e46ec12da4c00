"""Layers of a StyleGAN2 as its paper describes them, against the published interface of the operations."""

import math

import torch
from torch_utils import misc, persistence
from torch_utils.ops import bias_act, conv2d_resample, fma, upfirdn2d


def modulated_conv2d(x, weight, styles, noise, up=1, padding=0, resample_filter=None, flip_weight=True, fused_modconv=True):
    """Weights scaled by the styles, then to unit length; noise added. One way scales x instead of them."""
    n, (c_out, c_in, *kernel) = len(x), weight.shape
    misc.assert_shape(styles, [n, c_in])
    scaled = weight[None] * styles.view(n, 1, c_in, 1, 1)
    length = (scaled.square().sum([2, 3, 4]) + 1e-8).rsqrt()
    options = {"f": resample_filter, "up": up, "padding": padding, "flip_weight": flip_weight}
    if fused_modconv:
        w = (scaled * length.view(n, -1, 1, 1, 1)).reshape(n * c_out, c_in, *kernel)
        x = x.reshape(1, n * c_in, *x.shape[2:])
        x = conv2d_resample.conv2d_resample(x=x, w=w.to(x.dtype), groups=n, **options)
        return x.reshape(n, c_out, *x.shape[2:]).add_(noise.to(x.dtype))
    x = conv2d_resample.conv2d_resample(x * styles.to(x.dtype).view(n, c_in, 1, 1), weight.to(x.dtype), **options)
    return fma.fma(x, length.to(x.dtype).view(n, c_out, 1, 1), noise.to(x.dtype))


@persistence.persistent_class
class SynthesisLayer(torch.nn.Module):
    def __init__(self, c_in, c_out, w_dim, resolution, up=1):
        super().__init__()
        self.up, self.gain = up, bias_act.activation_funcs["lrelu"].def_gain
        self.register_buffer("resample_filter", upfirdn2d.setup_filter([1, 3, 3, 1]))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))
        self.affine = torch.nn.Linear(w_dim, c_in)
        self.weight = torch.nn.Parameter(torch.randn(c_out, c_in, 3, 3))
        self.noise_strength = torch.nn.Parameter(torch.tensor(0.3))
        self.bias = torch.nn.Parameter(torch.randn(c_out))

    def forward(self, x, w, fused_modconv=True, gain=1):
        noise, flip_weight = self.noise_const * self.noise_strength, self.up == 1
        x = modulated_conv2d(
            x, self.weight, self.affine(w), noise, self.up, 1, self.resample_filter, flip_weight, fused_modconv
        )  # fmt: skip
        return bias_act.bias_act(x, self.bias.to(x.dtype), act="lrelu", gain=self.gain * gain, clamp=256 * gain)


class Generator(torch.nn.Module):
    def __init__(self, w_dim=5, channels=6):
        super().__init__()
        self.const = torch.nn.Parameter(torch.randn(channels, 4, 4))
        self.layers = torch.nn.ModuleList([SynthesisLayer(channels, channels, w_dim, 4), SynthesisLayer(channels, 4, w_dim, 8, up=2)])
        self.rgb = torch.nn.ParameterList([torch.randn(3, channels, 1, 1), torch.randn(3, 4, 1, 1)])

    def forward(self, w, dtype=None, fused_modconv=True):
        x, image = self.const.to(dtype or self.const.dtype).expand(len(w), -1, -1, -1), None
        for layer, rgb in zip(self.layers, self.rgb):
            x = layer(x, w, fused_modconv)
            image = None if image is None else upfirdn2d.upsample2d(image, layer.resample_filter)
            y = bias_act.bias_act(conv2d_resample.conv2d_resample(x, rgb.to(x.dtype)), clamp=256).to(rgb.dtype)
            image = y if image is None else image.add_(y)
        return image


class Conv2dLayer(torch.nn.Module):
    def __init__(self, c_in, c_out, kernel_size, activation="linear", bias=True, down=1):
        super().__init__()
        self.down, self.padding, self.activation = down, kernel_size // 2, activation
        self.register_buffer("resample_filter", upfirdn2d.setup_filter([1, 3, 3, 1]))
        self.weight = torch.nn.Parameter(torch.randn(c_out, c_in, kernel_size, kernel_size))
        self.bias = torch.nn.Parameter(torch.randn(c_out)) if bias else None

    def forward(self, x, gain=1):
        w = (self.weight / math.sqrt(self.weight[0].numel())).to(x.dtype)
        b = None if self.bias is None else self.bias.to(x.dtype)
        x = conv2d_resample.conv2d_resample(x=x, w=w, f=self.resample_filter, down=self.down, padding=self.padding)
        gain = bias_act.activation_funcs[self.activation].def_gain * gain
        return bias_act.bias_act(x, b, act=self.activation, gain=gain, clamp=256 * gain)


class DiscriminatorBlock(torch.nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.fromrgb = Conv2dLayer(3, channels, 1, "lrelu")
        self.conv0 = Conv2dLayer(channels, channels, 3, "lrelu")
        self.conv1 = Conv2dLayer(channels, 2 * channels, 3, "lrelu", down=2)
        self.skip = Conv2dLayer(channels, 2 * channels, 1, bias=False, down=2)

    def forward(self, img):
        x = self.fromrgb(img)
        y = self.skip(x, gain=0.5**0.5)
        return y.add_(self.conv1(self.conv0(x), gain=0.5**0.5))
