"""Code that eager runs stays valid: outputs, inputs and feature maps changed in place after the call, and outputs laid out as eager's."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ganfast
from tests.dropin import small

ACTS = {
    "leaky_relu": lambda: nn.LeakyReLU(0.2),
    "elu": nn.ELU,
    "selu": nn.SELU,
    "softplus": nn.Softplus,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "prelu": lambda: nn.PReLU(4),
    "linear": nn.Identity,
}
BEFORE = {
    "conv": lambda: [nn.Conv2d(3, 4, 3, padding=1)],
    "transposed": lambda: [nn.ConvTranspose2d(3, 4, 4, 2, 1)],
    "batch norm": lambda: [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)],
    "instance norm": lambda: [nn.Conv2d(3, 4, 3, padding=1), nn.InstanceNorm2d(4)],
    "upsampled": lambda: [nn.Upsample(scale_factor=2), nn.Conv2d(3, 4, 3, padding=1)],
    "norm alone": lambda: [nn.InstanceNorm2d(4)],
}
CHANGES = {
    "out += x": lambda y: y.add_(1.0),
    "out.mul_(.5)": lambda y: y.mul_(0.5),
    "through a view": lambda y: y.view(-1)[::2].mul_(3.0),
    "one channel": lambda y: y[:, 0].zero_(),
    "detached": lambda y: y.detach().mul_(0.5),
    "out = ": lambda y: y.copy_(torch.ones_like(y)),
}


class Kept(nn.Module):
    """Feature maps in a list, given to the caller."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(layers)

    def forward(self, x):
        found = []
        for block in self.blocks:
            x = block(x)
            found.append(x)
        return found


def changed_after(model, x, change, at=None) -> dict[str, torch.Tensor] | str:
    """Gradients when the caller changes what came out; the kind of error where that is none of eager's valid programs."""
    model.zero_grad()
    x = x.detach().clone().requires_grad_()
    y = model(x * 1)
    y = y if at is None else y[at]
    try:
        change(y)
        small.loss_of(y).backward()
    except RuntimeError as error:
        return "in place" if "modified by an inplace operation" in str(error) else str(error)
    return {f"g {n}": p.grad for n, p in model.named_parameters() if p.grad is not None} | {"x": x.grad, "y": y.detach().clone()}


def agree(got, want) -> None:
    """What eager allows is allowed and right; where eager raises, an answer does no harm."""
    if isinstance(want, dict):
        assert isinstance(got, dict), got
        small.assert_alike(got, want)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("act", ACTS)
@pytest.mark.pairs
def test_the_caller_changes_the_output(act, before, change):
    plain, model = small.pair(lambda: nn.Sequential(*BEFORE[before](), ACTS[act]()))
    x = small.images(2, channels=4 if before == "norm alone" else 3)
    agree(*(changed_after(m, x, CHANGES[change]) for m in (model, plain)))


@pytest.mark.parametrize("act", ACTS)
def test_feature_maps_that_are_kept_and_changed(act):
    plain, model = small.pair(lambda: Kept([nn.Conv2d(3, 4, 3, padding=1), ACTS[act](), nn.Sequential(nn.Conv2d(4, 4, 1), ACTS[act]())]))
    for at in (0, 1, 2, -1):
        for change in ("out.mul_(.5)", "one channel"):
            agree(*(changed_after(m, small.images(2), CHANGES[change], at) for m in (model, plain)))


class Continued(nn.Module):
    """Changes what a child gave, as residual blocks do."""

    def __init__(self, act: nn.Module, child: bool) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), act) if child else nn.Conv2d(3, 3, 3, padding=1)
        self.act = nn.Identity() if child else act

    def forward(self, x):
        out = self.act(self.block(x))
        out += x
        out[:, 1] *= 2
        return out


@pytest.mark.parametrize("child", [False, True])
@pytest.mark.parametrize("act", [name for name in ACTS if name != "prelu"])
def test_the_forward_changes_it(act, child):
    plain, model = small.pair(lambda: Continued(ACTS[act](), child))
    small.same(model, plain, small.images(2))


INPUTS = {
    "upsampled": BEFORE["upsampled"],  # eager keeps the upsampled x
    "upsampled, functional": lambda: [Upsampled()],
    "conv + act": lambda: [nn.Conv2d(3, 4, 3), nn.LeakyReLU(0.2)],  # eager keeps x
    "bias + act": lambda: [Biased("leaky_relu")],
    "bias + silu": lambda: [Biased("silu")],
    "bias + gelu": lambda: [Biased("gelu")],
    "bias + elu": lambda: [Biased("elu")],
    "norm by running statistics": lambda: [nn.BatchNorm2d(3).eval(), nn.LeakyReLU(0.2)],
}


class Upsampled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, 3, 3))

    def forward(self, x):
        return F.elu(F.conv2d(F.interpolate(x, scale_factor=2.0), self.weight, padding=1))


class Biased(nn.Module):
    def __init__(self, act: str) -> None:
        super().__init__()
        self.bias, self.act = nn.Parameter(torch.randn(3)), getattr(F, act)

    def forward(self, x):
        return self.act(x + self.bias.view(1, -1, 1, 1))


@pytest.mark.parametrize("leaf", [False, True])
@pytest.mark.parametrize("name", INPUTS)
def test_the_caller_changes_the_input(name, leaf):
    found = []
    for m in reversed(small.pair(lambda: nn.Sequential(*INPUTS[name]()))):
        x = small.images(2) if leaf else small.images(2).requires_grad_() * 1
        y = m(x)
        try:
            with torch.no_grad():
                x.mul_(3)
            small.loss_of(y).backward()
            found.append({f"g {n}": p.grad for n, p in m.named_parameters() if p.grad is not None})
        except RuntimeError as error:
            found.append(str(error))
    agree(*found)


@pytest.mark.parametrize("backend", ["reference", "torch", "cpu"])
def test_the_caller_changes_what_was_upsampled(backend):
    """The fused ways keep x, where eager keeps the upsampled copy; left to itself a CPU takes another way."""
    found = []
    for m in reversed(small.pair(lambda: nn.Sequential(*BEFORE["upsampled"](), nn.LeakyReLU(0.2)))):
        x = small.images(2)
        with ganfast.use_backend(backend):
            y = m(x)
        x.mul_(3)
        small.loss_of(y).backward()
        found.append({name: p.grad for name, p in m.named_parameters()})
    small.assert_alike(*found)


@pytest.mark.parametrize("name", ["conv", "transposed", "batch norm", "upsampled"])
def test_an_optimizer_changes_the_bias_before_the_backward(name):
    """Eager keeps the weight and none of the biases."""
    found = []
    for m in reversed(small.pair(lambda: nn.Sequential(*BEFORE[name](), nn.LeakyReLU(0.2)))):
        y = m(small.images(2))
        with torch.no_grad():
            for n, p in m.named_parameters():
                if n.endswith("bias"):
                    p.add_(1)
        small.loss_of(y).backward()
        found.append({f"g {n}": p.grad for n, p in m.named_parameters()})
    agree(*found)


LAYOUTS = {
    "contiguous": lambda t: t.contiguous(),
    "channels_last": lambda t: t.contiguous(memory_format=torch.channels_last),
    "transposed": lambda t: t.transpose(2, 3).contiguous().transpose(2, 3),
    "sliced": lambda t: t.repeat(1, 1, 1, 2)[..., ::2],
    "neither": lambda t: t.permute(0, 3, 2, 1).contiguous().permute(0, 3, 2, 1),
    "expanded": lambda t: t[:1].expand(t.shape),
}
SHAPES = [(2, 4, 6, 6), (1, 4, 6, 6), (2, 1, 6, 6), (1, 1, 6, 6), (2, 4, 1, 1), (2, 4, 6, 2)]
LAYERS = {
    "conv": lambda c: [nn.Conv2d(c, 4, 3, padding=1), nn.LeakyReLU(0.2)],
    "1x1": lambda c: [nn.Conv2d(c, 4, 1), nn.SiLU()],
    "1x1 to one": lambda c: [nn.Conv2d(c, 1, 1), nn.Sigmoid()],
    "transposed": lambda c: [nn.ConvTranspose2d(c, 4, 4, 2, 1), nn.Tanh()],
    "conv + batch norm": lambda c: [nn.Conv2d(c, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()],
    "conv + instance norm": lambda c: [nn.Conv2d(c, 4, 3, padding=1), nn.InstanceNorm2d(4, affine=True), nn.ReLU()],
    "instance norm": lambda c: [nn.InstanceNorm2d(c), nn.LeakyReLU(0.2)],
    "batch norm": lambda c: [nn.BatchNorm2d(c), nn.ReLU()],
    "upsampled": lambda c: [nn.Upsample(scale_factor=2), nn.Conv2d(c, 4, 3, padding=1), nn.ReLU()],
}


def formats(t: torch.Tensor) -> tuple[bool, bool]:
    return t.is_contiguous(), t.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("weights", ["contiguous", "channels_last"])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.pairs
@pytest.mark.thinned(2)
def test_the_output_is_laid_out_as_eagers(layer, shape, layout, weights):
    """Somebody may flatten it by `view`: where eager's is contiguous, or channels_last, so is this."""
    plain, model = small.pair(lambda: nn.Sequential(*LAYERS[layer](shape[1])))
    if weights == "channels_last":
        plain, model = (m.to(memory_format=torch.channels_last) for m in (plain, model))
    x = LAYOUTS[layout](torch.randn(shape))
    one = shape[-2:] == (1, 1) and "instance" in layer  # eager refuses to normalise a value by itself
    for training in () if one else (False, True):
        y, want = (m.train(training)(x) for m in (model, plain))
        for ours, theirs in zip(formats(y), formats(want)):
            assert ours or not theirs, (training, y.stride(), want.stride())


class Between(nn.Module):
    """Writes to what a convolution read before its activation runs."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.register_buffer("weight", torch.randn(4, 3, 3, 3))
        self.register_buffer("bias", torch.randn(4))

    def forward(self, x):
        z, weight, bias = x * 1, self.weight * 1, self.bias * 1
        y = F.conv2d(z, weight, bias)
        {"x": z, "a view": z[:, 0], "weight": weight, "bias": bias, "the buffer": self.bias}[self.what].mul_(2)
        return F.leaky_relu(y, 0.2), z


@pytest.mark.parametrize("what", ["x", "a view", "weight", "bias", "the buffer"])
def test_a_write_between_the_parts_of_a_group(what):
    plain, model = small.pair(lambda: Between(what))
    x = small.images(2)
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(model(x), plain(x), rtol=1e-4, atol=1e-5)
