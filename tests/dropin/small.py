"""Small networks, and how two of them are compared: outputs, gradients, the gradients of a gradient penalty, buffers."""

import copy

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import ganfast


def generator(latent: int = 8, width: int = 4) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(latent, width, 4, bias=False), nn.BatchNorm2d(width), nn.ReLU(True),
        nn.ConvTranspose2d(width, 3, 4, 2, 1), nn.Tanh(),
    )  # fmt: skip


def critic(width: int = 4) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(width, width, 3, padding=1), nn.InstanceNorm2d(width), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(16 * width, 1),
    )  # fmt: skip


class Blocks(nn.Module):
    """A forward of its own around modules, which returns a feature map too."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SiLU())
        self.last = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.first(x)
        return torch.tanh(self.last(features)), features


def pair(make=critic) -> tuple[nn.Module, nn.Module]:
    """(plain, accelerated) with the same parameters."""
    torch.manual_seed(0)
    plain = make()
    return plain, ganfast.accelerate(copy.deepcopy(plain))


def images(n: int = 4, size: int = 8, channels: int = 3) -> Tensor:
    return torch.randn(n, channels, size, size, generator=torch.Generator().manual_seed(n))


def layers(model) -> list[tuple[str, ...]]:
    return [row.layers for row in ganfast.explain(model).groups]


def fallbacks(model) -> list:
    """What explain reports of code that does not run through graphs."""
    return [entry for entry in ganfast.explain(model).breaks if entry.kind != "compiled anew"]


def loss_of(y: Tensor) -> Tensor:
    """Another weight for each value: what a norm gives has the same plain sum of squares whatever went in."""
    return (y.square() * torch.linspace(0.5, 1.5, y.numel()).view(y.shape)).sum()


def orders(model, *inputs: Tensor, second: bool = True) -> dict[str, Tensor]:
    """Outputs, first gradients, and gradients of the squared norm of the input's gradient, of parameters and inputs."""
    inputs = tuple(t.detach().clone().requires_grad_() for t in inputs)
    outputs = [t for t in pytree.tree_leaves(model(*inputs)) if isinstance(t, Tensor)]
    parameters = dict(model.named_parameters()) if isinstance(model, nn.Module) else {}
    wanted = {name: p for name, p in parameters.items() if p.requires_grad} | {f"x{i}": x for i, x in enumerate(inputs)}
    found = {f"y{i}": y.detach() for i, y in enumerate(outputs)}
    loss = sum(loss_of(y) for y in outputs if y.requires_grad)
    if not isinstance(loss, Tensor):
        return found
    first = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True, create_graph=second)
    found |= {f"d {name}": g.detach() for name, g in zip(wanted, first) if g is not None}
    slopes = [g for name, g in zip(wanted, first) if name.startswith("x") and g is not None and g.requires_grad]
    if second and slopes:
        again = torch.autograd.grad(sum(g.square().sum() for g in slopes), list(wanted.values()), allow_unused=True)
        found |= {f"dd {name}": g for name, g in zip(wanted, again) if g is not None}
    return found


def assert_alike(got: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    """Within a float32's rounding of the largest value of their order: a bias before a norm has a gradient that cancels to nothing."""
    assert got.keys() == want.keys()
    largest: dict[str, float] = {}
    for name, value in want.items():
        order = name.partition(" ")[0]
        largest[order] = max(largest.get(order, 1e-3), value.abs().max().item() if value.numel() else 0.0)
    for name, value in want.items():
        near = 2e-5 * largest[name.partition(" ")[0]]
        torch.testing.assert_close(got[name], value, rtol=1e-3, atol=near, msg=lambda text, name=name: f"{name}: {text}")


def same(model, plain, *inputs: Tensor, second: bool = True) -> None:
    """Both networks once, with what they wrote into their buffers."""
    got, want = orders(model, *inputs, second=second), orders(plain, *inputs, second=second)
    assert_alike(got, want)
    if isinstance(plain, nn.Module):
        assert_alike(dict(model.named_buffers()), dict(plain.named_buffers()))
