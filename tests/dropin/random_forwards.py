"""Forwards drawn at random: members of groups, and all that may stand between them."""

import random
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

C = 4  # channels, everywhere


class Line(NamedTuple):
    """`target = operation(sources)`; numbers: the parameters' places, constants."""

    operation: str
    target: int
    sources: tuple[int, ...]
    number: float


def _weighted(model, x, at, transposed: bool) -> Tensor:
    weight = model.weights[at % len(model.weights)]
    bias = model.biases[at % len(model.biases)] if at % 2 else None
    return (F.conv_transpose2d if transposed else F.conv2d)(x, weight, bias, padding=1)


OPERATIONS = {
    # members
    "conv": lambda m, x, y, c, at: _weighted(m, x, at, False),
    "transposed": lambda m, x, y, c, at: _weighted(m, x, at, True),
    "module": lambda m, x, y, c, at: m.layers[at % len(m.layers)](x),
    "batch norm": lambda m, x, y, c, at: F.batch_norm(x, m.mean, m.var, m.gain, m.shift, m.training, 0.2),
    "instance norm": lambda m, x, y, c, at: F.instance_norm(x, weight=m.gain, bias=m.shift),
    "bias": lambda m, x, y, c, at: x + m.shift.view(1, -1, 1, 1),
    "bias in place": lambda m, x, y, c, at: (x * 1).add_(m.shift.view(-1, 1, 1)),
    "scale": lambda m, x, y, c, at: x * m.gain.view(1, -1, 1, 1),
    "leaky": lambda m, x, y, c, at: F.leaky_relu(x, 0.2),
    "leaky in place": lambda m, x, y, c, at: F.leaky_relu_(x * 1, 0.2),
    "relu": lambda m, x, y, c, at: torch.relu(x),
    "relu in place": lambda m, x, y, c, at: F.relu(x, inplace=True),
    "tanh": lambda m, x, y, c, at: x.tanh(),
    "silu": lambda m, x, y, c, at: F.silu(x),
    "written silu": lambda m, x, y, c, at: x * torch.sigmoid(x),
    "elu": lambda m, x, y, c, at: F.elu(x),
    "prelu": lambda m, x, y, c, at: F.prelu(x, m.slope),
    "gelu": lambda m, x, y, c, at: F.gelu(x),
    "gain": lambda m, x, y, c, at: x * c,
    "clamp": lambda m, x, y, c, at: x.clamp(-1.0, 1.0),
    "up and conv": lambda m, x, y, c, at: F.avg_pool2d(_weighted(m, F.interpolate(x, scale_factor=2.0), at, False), 2),
    # what stands between
    "sum": lambda m, x, y, c, at: (x + y) * 0.7,
    "sum in place": lambda m, x, y, c, at: x.add_(y),
    "product in place": lambda m, x, y, c, at: x.mul_(c),
    "one channel": lambda m, x, y, c, at: _written(x, at, c),
    "view": lambda m, x, y, c, at: x.view(x.shape[0], -1).view(x.shape),
    "view changed": lambda m, x, y, c, at: _through_view(x, c),
    "flipped": lambda m, x, y, c, at: x.transpose(2, 3),
    "dropout": lambda m, x, y, c, at: F.dropout(x, 0.0, m.training),
    "pad": lambda m, x, y, c, at: F.pad(x, (1, 1, 1, 1), mode="reflect")[:, :, 1:-1, 1:-1],
    "detached": lambda m, x, y, c, at: x + y.detach(),
    "no grad": lambda m, x, y, c, at: _without_grad(m, x, at),
    "autocast": lambda m, x, y, c, at: _mixed(m, x, at),
    "statistics": lambda m, x, y, c, at: x * (1 + m.mean.view(1, -1, 1, 1) * 0.1),
    "pooled": lambda m, x, y, c, at: x + x.mean((2, 3), keepdim=True),
    "swap": lambda m, x, y, c, at: y,
}
DISTURBANCES = ("sum in place", "product in place", "one channel", "view changed", "relu in place")
MEMBERS = list(OPERATIONS)[: list(OPERATIONS).index("sum")]


def _written(x: Tensor, at: int, c: float) -> Tensor:
    x[:, at % C] = c
    return x


def _through_view(x: Tensor, c: float) -> Tensor:
    x.view(x.shape[0], -1)[:, ::3].mul_(c)
    return x


def _without_grad(model, x: Tensor, at: int) -> Tensor:
    with torch.no_grad():
        y = torch.tanh(_weighted(model, x, at, False))
    return x + y


def _mixed(model, x: Tensor, at: int) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        y = F.leaky_relu(_weighted(model, x, at, False), 0.2)
    return x + 0.01 * y.float()


class Drawn(nn.Module):
    """A forward of some 8 to 14 lines over the tensors made so far; gives the last and perhaps another."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        draw = random.Random(seed)
        torch.manual_seed(seed)
        scaled = lambda *shape: nn.Parameter(torch.randn(*shape) * 0.3)
        self.weights = nn.ParameterList([scaled(C, C, 3, 3) for _ in range(3)])
        self.biases = nn.ParameterList([scaled(C) for _ in range(2)])
        self.gain, self.shift, self.slope = nn.Parameter(torch.rand(C) + 0.5), scaled(C), nn.Parameter(torch.tensor([0.2]))
        self.register_buffer("mean", torch.zeros(C))
        self.register_buffer("var", torch.ones(C))
        convolution = lambda: nn.Conv2d(C, C, 3, padding=1)
        self.layers = nn.ModuleList([
            convolution(), nn.Sequential(convolution(), nn.BatchNorm2d(C), nn.ReLU(True)), nn.LeakyReLU(0.1), nn.InstanceNorm2d(C),
            nn.Sequential(nn.Conv2d(C, C, 1), nn.SiLU(), nn.ConvTranspose2d(C, C, 3, padding=1)),
        ])  # fmt: skip
        self.lines = []
        made, last = 2, 1
        for _ in range(draw.randint(8, 14)):
            operation = draw.choice(MEMBERS if draw.random() < 0.65 else list(OPERATIONS))
            x = last if draw.random() < 0.85 else draw.randrange(made)
            self.lines.append(Line(operation, made, (x, draw.randrange(made)), round(draw.uniform(0.5, 1.5), 2)))
            last, made = made, made + 1
            if draw.random() < 0.25:  # a write that the chain passes by
                at = (draw.randrange(1, made), draw.randrange(made))
                self.lines.append(Line(draw.choice(DISTURBANCES), made, at, round(draw.uniform(0.5, 1.5), 2)))
                made += 1
        self.also = draw.randrange(2, made) if draw.random() < 0.3 else None

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        values = [x, x * 1]
        for line in self.lines:
            x, y = (values[source] for source in line.sources)
            values.append(OPERATIONS[line.operation](self, x, y, line.number, line.target))
        return (values[-1],) if self.also is None else (values[-1], values[self.also])
