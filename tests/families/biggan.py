"""BigGAN (Brock et al. 2019): norms whose gain and bias follow class and latent, layers that divide by their spectral norm, attention."""

import itertools

import torch
import torch.nn.functional as F
from torch import nn

from tests.families.family import Family, Groups, Real

N_CLASSES = 5


class SpectralNorm:
    """One power iteration at each forward in training; the weight over its largest singular value."""

    def w(self):
        flat = self.weight.flatten(1)
        with torch.no_grad():
            v = F.normalize(self.u @ flat, dim=1, eps=1e-6)
            u = F.normalize(v @ flat.t(), dim=1, eps=1e-6)
            if self.training:
                self.u.copy_(u)
        return self.weight / (u @ flat @ v.t()).squeeze()


class SNConv2d(nn.Conv2d, SpectralNorm):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.register_buffer("u", torch.randn(1, self.out_channels))

    def forward(self, x):
        return F.conv2d(x, self.w(), self.bias, self.stride, self.padding, self.dilation, self.groups)


class SNLinear(nn.Linear, SpectralNorm):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.register_buffer("u", torch.randn(1, self.out_features))

    def forward(self, x):
        return F.linear(x, self.w(), self.bias)


class SNEmbedding(nn.Embedding, SpectralNorm):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.register_buffer("u", torch.randn(1, self.num_embeddings))

    def forward(self, y):
        return F.embedding(y, self.w())


class ClassConditionalBN(nn.Module):
    """The norm itself by the function; a gain around one and a bias for each sample."""

    def __init__(self, channels, condition):
        super().__init__()
        self.gain = SNLinear(condition, channels, bias=False)
        self.bias = SNLinear(condition, channels, bias=False)
        self.register_buffer("stored_mean", torch.zeros(channels))
        self.register_buffer("stored_var", torch.ones(channels))

    def forward(self, x, y):
        gain = (1 + self.gain(y)).view(y.size(0), -1, 1, 1)
        bias = self.bias(y).view(y.size(0), -1, 1, 1)
        out = F.batch_norm(x, self.stored_mean, self.stored_var, None, None, self.training, 0.1, 1e-5)
        return out * gain + bias


class Attention(nn.Module):
    """Keys and values at half the resolution; its strength begins at zero."""

    def __init__(self, channels, reduced):
        super().__init__()
        self.theta = SNConv2d(channels, reduced, kernel_size=1, bias=False)
        self.phi = SNConv2d(channels, reduced, kernel_size=1, bias=False)
        self.g = SNConv2d(channels, channels // 2, kernel_size=1, bias=False)
        self.o = SNConv2d(channels // 2, channels, kernel_size=1, bias=False)
        self.gamma = nn.Parameter(torch.tensor(0.0))

    def forward(self, x):
        theta = self.theta(x).flatten(2)
        phi = F.max_pool2d(self.phi(x), 2).flatten(2)
        g = F.max_pool2d(self.g(x), 2).flatten(2)
        beta = F.softmax(torch.bmm(theta.transpose(1, 2), phi), -1)
        o = self.o(torch.bmm(g, beta.transpose(1, 2)).view(x.size(0), -1, *x.shape[2:]))
        return self.gamma * o + x


class GBlock(nn.Module):
    def __init__(self, in_channels, out_channels, condition):
        super().__init__()
        self.bn1 = ClassConditionalBN(in_channels, condition)
        self.bn2 = ClassConditionalBN(out_channels, condition)
        self.activation = nn.ReLU(inplace=False)
        self.conv1 = SNConv2d(in_channels, out_channels, kernel_size=3, padding=1)
        self.conv2 = SNConv2d(out_channels, out_channels, kernel_size=3, padding=1)
        self.conv_sc = SNConv2d(in_channels, out_channels, kernel_size=1)

    def forward(self, x, y):
        h = self.activation(self.bn1(x, y))
        h = F.interpolate(h, scale_factor=2)
        x = F.interpolate(x, scale_factor=2)
        h = self.conv1(h)
        h = self.activation(self.bn2(h, y))
        h = self.conv2(h)
        return h + self.conv_sc(x)


class Generator(nn.Module):
    """The latent comes in pieces: one for the first layer, one for each block, there with the class."""

    def __init__(self, ch=8, chunk=8, shared=6, n_classes=N_CLASSES, mults=(2, 1), reduced=2):
        super().__init__()
        self.chunk, self.first = chunk, ch * mults[0]
        self.shared = nn.Embedding(n_classes, shared)
        self.linear = SNLinear(chunk, self.first * 4 * 4)
        widths = [ch * mult for mult in mults] + [ch * mults[-1]]
        self.blocks = nn.ModuleList([GBlock(c_in, c_out, chunk + shared) for c_in, c_out in itertools.pairwise(widths)])
        self.attention = Attention(widths[1], reduced)
        self.output_layer = nn.Sequential(nn.BatchNorm2d(widths[-1]), nn.ReLU(inplace=True), SNConv2d(widths[-1], 3, 3, padding=1))

    def forward(self, z, labels):
        first, *rest = torch.split(z, self.chunk, 1)
        y = self.shared(labels)
        h = self.linear(first).view(z.size(0), self.first, 4, 4)
        for i, (block, piece) in enumerate(zip(self.blocks, rest)):
            h = block(h, torch.cat([y, piece], 1))
            if i == 0:
                h = self.attention(h)
        return torch.tanh(self.output_layer(h))


class DBlock(nn.Module):
    def __init__(self, in_channels, out_channels, preactivation=True, downsample=True):
        super().__init__()
        self.preactivation, self.downsample = preactivation, downsample
        self.conv1 = SNConv2d(in_channels, out_channels, kernel_size=3, padding=1)
        self.conv2 = SNConv2d(out_channels, out_channels, kernel_size=3, padding=1)
        self.learnable_sc = in_channels != out_channels or downsample
        if self.learnable_sc:
            self.conv_sc = SNConv2d(in_channels, out_channels, kernel_size=1)

    def shortcut(self, x):
        if self.downsample and not self.preactivation:
            x = F.avg_pool2d(x, 2)
        if self.learnable_sc:
            x = self.conv_sc(x)
        if self.downsample and self.preactivation:
            x = F.avg_pool2d(x, 2)
        return x

    def forward(self, x):
        h = F.relu(x) if self.preactivation else x  # not in place: the shortcut reads x
        h = self.conv2(F.relu(self.conv1(h)))
        if self.downsample:
            h = F.avg_pool2d(h, 2)
        return h + self.shortcut(x)


class Discriminator(nn.Module):
    def __init__(self, ch=8, n_classes=N_CLASSES, mults=(1, 2), reduced=2):
        super().__init__()
        widths = [3, *(ch * mult for mult in mults)]
        pairs = list(itertools.pairwise(widths))
        self.blocks = nn.ModuleList([DBlock(c_in, c_out, preactivation=i > 0) for i, (c_in, c_out) in enumerate(pairs)])
        self.attention = Attention(widths[1], reduced)
        self.last = DBlock(widths[-1], widths[-1], downsample=False)
        self.linear = SNLinear(widths[-1], 1)
        self.embed = SNEmbedding(n_classes, widths[-1])

    def forward(self, x, y=None):
        h = x
        for i, block in enumerate(self.blocks):
            h = block(h)
            if i == 0:
                h = self.attention(h)
        h = torch.sum(F.relu(self.last(h)), [2, 3])
        out = self.linear(h)
        if y is not None:
            out = out + torch.sum(self.embed(y) * h, 1, keepdim=True)
        return out


_ATTENTION = [(f"attention.{conv}",) for conv in ("theta", "phi", "g", "o")]


def _up(path: str) -> Groups:
    """Gain and bias are each sample's own. The sum belongs to the shortcut, whose upsampling comes before the residual path ends."""
    return [
        ("batch_norm()", "mul()", f"{path}.activation"),
        ("interpolate()", f"{path}.conv1", "batch_norm()", "mul()", f"{path}.activation"),
        ("interpolate()", f"{path}.conv_sc", "add()"),
        (f"{path}.conv2",),
    ]


def _down(path: str, *shortcut: str) -> Groups:
    """The first block pools its shortcut before the convolution, the next after it; both pool the residual path."""
    return [(f"{path}.conv1", "relu()"), (f"{path}.conv2",), (f"{path}.conv_sc", *shortcut)]


def labelled(n_classes: int, *size: int):
    return lambda batch: (torch.randn(batch, *size), torch.randint(0, n_classes, (batch,)))


ROWS = [
    Family(
        "biggan-g",
        Generator,
        labelled(N_CLASSES, 24),
        [*_up("blocks.0"), *_ATTENTION, *_up("blocks.1"), ("output_layer.0", "output_layer.1"), ("output_layer.2", "tanh()")],
        half="autocast",
        real=Real(
            lambda: Generator(64, 20, 128, 1000, (4, 4), 32),
            labelled(1000, 60),
            4,
            "BigGAN (Brock et al. 2019), 1000 classes: two blocks of 256 channels to 16x16, there five of 1536 to 96, 128x128, batch 2048",
        ),
    ).with_small(1),
    Family(
        "biggan-d",
        Discriminator,
        labelled(N_CLASSES, 3, 16, 16),
        [*_down("blocks.0", "add()"), *_ATTENTION, *_down("blocks.1"), *_down("last")[:1], ("last.conv2", "add()", "relu()")],
        batch=2,
    ),
]
