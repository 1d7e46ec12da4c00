"""The networks of CycleGAN with the layer order of pytorch-CycleGAN-and-pix2pix, so that the state dicts of its users load here."""

import torch
from torch import Tensor, nn

NORMS = ("instance", "batch", "none")


def _norm(kind: str, channels: int) -> nn.Module:
    if kind == "instance":
        return nn.InstanceNorm2d(channels)
    return nn.BatchNorm2d(channels) if kind == "batch" else nn.Identity()


class ResidualBlock(nn.Module):
    """x + two convolutions with reflected borders, each normalised, a ReLU between them."""

    def __init__(self, channels: int, norm: str, dropout: bool) -> None:
        super().__init__()
        conv = lambda: [nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3, bias=norm == "instance"), _norm(norm, channels)]
        self.conv_block = nn.Sequential(*conv(), nn.ReLU(), *([nn.Dropout(0.5)] if dropout else []), *conv())

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv_block(x)


class ResnetGenerator(nn.Module):
    """A 7x7 convolution, two steps down, `blocks` residual blocks, two steps up, a 7x7 convolution, tanh.

    Shapes: [N, channels_in, H, W], H and W multiples of 4 -> [N, channels_out, H, W] in [-1, 1].
    Source: Johnson, Alahi & Fei-Fei 2016 (the architecture), Zhu, Park, Isola & Efros 2017 (its use for translation).
    """

    def __init__(
        self, channels_in: int = 3, channels_out: int = 3, width: int = 64, blocks: int = 9, norm: str = "instance", dropout: bool = False
    ) -> None:
        super().__init__()
        bias = norm == "instance"  # a batch norm has a shift of its own; without any norm there is none in that project either
        layers = [nn.ReflectionPad2d(3), nn.Conv2d(channels_in, width, 7, bias=bias), _norm(norm, width), nn.ReLU()]
        for c in (width, 2 * width):
            layers += [nn.Conv2d(c, 2 * c, 3, 2, 1, bias=bias), _norm(norm, 2 * c), nn.ReLU()]
        layers += [ResidualBlock(4 * width, norm, dropout) for _ in range(blocks)]
        for c in (4 * width, 2 * width):
            layers += [nn.ConvTranspose2d(c, c // 2, 3, 2, 1, output_padding=1, bias=bias), _norm(norm, c // 2), nn.ReLU()]
        layers += [nn.ReflectionPad2d(3), nn.Conv2d(width, channels_out, 7), nn.Tanh()]
        self.model = nn.Sequential(*layers)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class PatchDiscriminator(nn.Module):
    """4x4 convolutions, `layers` of them with stride 2: a logit for each patch, of 70x70 pixels with three layers.

    Shapes: [N, channels, H, W] -> [N, 1, h, w].
    Source: Isola, Zhu, Zhou & Efros 2017.
    """

    def __init__(self, channels: int = 3, width: int = 64, layers: int = 3, norm: str = "instance") -> None:
        super().__init__()
        bias = norm == "instance"
        model = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        c_in = width
        for i in range(1, layers + 1):
            c_out = width * min(2**i, 8)
            model += [nn.Conv2d(c_in, c_out, 4, 2 if i < layers else 1, 1, bias=bias), _norm(norm, c_out), nn.LeakyReLU(0.2)]
            c_in = c_out
        self.model = nn.Sequential(*model, nn.Conv2d(c_in, 1, 4, 1, 1))
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)


def load_published(network: nn.Module, state: dict[str, Tensor], op: str = "cyclegan") -> None:
    """A state dict as that project saves it, into a network of the same shape. What old files hold beside it is left out: the statistics
    of instance norms that keep none, and the prefix "module." of a DataParallel. What they lack stays: how many batches a norm saw.
    op: whose error it is.

    Raises: ValueError for keys or shapes that are not the network's, with the first of them.
    """
    if other := [key for key, value in state.items() if not (isinstance(key, str) and isinstance(value, Tensor))]:
        raise ValueError(f"{op}: the weights' file holds {other[0]!r}, which is no tensor; wants a network's state dict.")
    state = {key.removeprefix("module."): value for key, value in state.items()}
    plain = {name for name, m in network.named_modules() if isinstance(m, nn.InstanceNorm2d) and not m.track_running_stats}
    tracked = ("running_mean", "running_var", "num_batches_tracked")
    state = {key: value for key, value in state.items() if not (key.rpartition(".")[0] in plain and key.endswith(tracked))}
    own = network.state_dict()
    state = {key: value for key, value in own.items() if key.endswith("num_batches_tracked")} | state
    for what, names in (("lacks", own.keys() - state.keys()), ("has too much:", state.keys() - own.keys())):
        if names:
            first = f"{sorted(names)[0]!r} ({len(names)} keys)"
            raise ValueError(f"{op}: the state dict {what} {first}; another netG, netD, norm or no_dropout?")
    for key, value in state.items():
        if value.shape != own[key].shape:
            sizes = f"{list(value.shape)}, wants {list(own[key].shape)}"
            raise ValueError(f"{op}: {key!r} of the state dict is {sizes}; another ngf, ndf, input_nc or output_nc?")
    network.load_state_dict({key: value.to(torch.float32) if value.is_floating_point() else value for key, value in state.items()})
