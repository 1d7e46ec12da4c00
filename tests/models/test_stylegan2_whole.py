"""StyleGAN2's networks whole, against the papers' formulas written image by image, in float64."""

import math

import pytest
import torch
import torch.nn.functional as F

from ganfast.models import StyleGAN2Discriminator, StyleGAN2Generator

TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 8


def act(x):
    return torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)


def linear(state, path, x, rate=1.0):
    weight, bias = state[f"{path}.weight"], state[f"{path}.bias"]
    return weight @ x * rate / math.sqrt(weight.shape[1]) + bias * rate


def unit(x):
    return x / (x.square().mean() + 1e-8).sqrt()


def filtered(x, gain=1.0):
    """[1, C, H, W] -> [1, C, H - 3, W - 3]"""
    return F.conv2d(x, (gain * torch.outer(TAPS, TAPS)).expand(x.shape[1], 1, 4, 4), groups=x.shape[1])


def between(x):
    """Zeros between the pixels, as many after the last."""
    return torch.stack([torch.stack([x, 0 * x], -1).flatten(-2), torch.zeros(*x.shape[:-1], 2 * x.shape[-1]).double()], -2).flatten(-3, -2)


def modulated(state, path, x, w, demodulate=True):
    weight, style = state[f"{path}.weight"], linear(state, f"{path}.style", w)
    weight = weight / math.sqrt(weight[0].numel()) * style[None, :, None, None]
    return weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt() if demodulate else weight


def styled(state, path, x, w, up=False):
    weight = modulated(state, f"{path}.conv", x, w)
    if up:  # at twice the size: zeros, then the convolution as its transpose does it, then the filter
        y = F.conv2d(F.pad(between(x)[:, :, :-1, :-1], (2, 2, 2, 2)), weight.flip(2, 3))
        y = filtered(F.pad(y, (1, 1, 1, 1)), 4.0)
    else:
        y = F.conv2d(x, weight, padding=1)
    return act(y + state[f"{path}.strength"] * state[f"{path}.noise"] + state[f"{path}.act.bias"])


def generated(state, z, condition, size, layers=2, truncation=1.0):
    x = unit(z)
    if condition is not None:
        x = torch.cat([x, unit(state["mapping.condition.given.table.weight"][condition])])
    for i in range(layers):
        x = act(linear(state, f"mapping.layers.{i}", x, 0.01))
    mean = state["mapping.mean"]
    w, s = mean + truncation * (x - mean), "synthesis."
    state = {key.removeprefix(s): value for key, value in state.items() if key.startswith(s)}
    rgb = lambda at, x: F.conv2d(x, modulated(state, f"to_image.{at}.conv", x, w, False)) + state[f"to_image.{at}.bias"]
    x = styled(state, "first", state["input"], w)
    picture = rgb(0, x)
    for i in range(int(math.log2(size)) - 2):
        x = styled(state, f"convs.{i}", styled(state, f"ups.{i}", x, w, up=True), w)
        picture = filtered(F.pad(between(picture), (2, 1, 2, 1)), 4.0) + rgb(i + 1, x)
    return picture[0]


def conv(state, path, x, **how):
    weight = state[f"{path}.weight"]
    return F.conv2d(x, weight / math.sqrt(weight[0].numel()), **how)


def judged(state, images, conditions, blocks, group):
    found = []
    for image in images:
        x = act(conv(state, "first.0", image[None]) + state["first.1.bias"])
        for i in range(blocks):
            p = f"blocks.{i}."
            y = act(conv(state, f"{p}conv1.0", x, padding=1) + state[f"{p}conv1.1.bias"])
            y = act(conv(state, f"{p}conv2.1", filtered(F.pad(y, (2, 2, 2, 2))))[:, :, ::2, ::2] + state[f"{p}conv2.2.bias"])
            x = (y + conv(state, f"{p}skip.1", filtered(F.pad(x, (1, 1, 1, 1)))[:, :, ::2, ::2])) / math.sqrt(2)
        found.append(x)
    order = range(len(images)) if conditions is None else sorted(range(len(images)), key=lambda i: (int(conditions[i]), i))
    spread = {}
    for start in range(0, len(images), group):
        some = list(order)[start : start + group]
        features = torch.cat([found[i] for i in some])
        mean = ((features - features.mean(0)).square().mean(0) + 1e-8).sqrt().mean()
        spread |= dict.fromkeys(some, mean)
    logits = []
    for i, x in enumerate(found):
        x = torch.cat([x, spread[i].expand(1, 1, 4, 4)], 1)
        x = act(conv(state, "last.0", x, padding=1) + state["last.1.bias"])
        x = linear(state, "logit", act(linear(state, "hidden", x.flatten())))
        if conditions is not None:
            c = act(linear(state, "mapping.0", unit(state["condition.given.table.weight"][conditions[i]]), 0.01))
            x = (x * c).sum() / math.sqrt(len(c))
        logits.append(x.view(()))
    return torch.stack(logits)


def shaken(network):
    """With parameters that begin at 0 or 1 elsewhere, so that each of them matters."""
    for p in network.parameters():
        p.data += 0.2 * torch.randn_like(p)
    return network.double().eval().requires_grad_(False)


@pytest.mark.parametrize("num_classes", [None, 3])
def test_the_generator(num_classes):
    torch.manual_seed(0)
    generator = shaken(StyleGAN2Generator(16, 6, 4, 3, mapping_layers=2, widest=8, num_classes=num_classes))
    generator.mapping.mean.normal_()
    z, labels = torch.randn(3, 6).double(), None if num_classes is None else torch.tensor([2, 0, 1])
    state = generator.state_dict()
    for truncation in (1.0, 0.6):
        own = [generated(state, z[i], None if labels is None else labels[i], 16, truncation=truncation) for i in range(3)]
        torch.testing.assert_close(generator(z, labels, truncation=truncation), torch.stack(own))


def test_each_layer_takes_its_own_style():
    """Two at 4x4, then the up-convolution shares that of the picture before it."""
    torch.manual_seed(0)
    synthesis = shaken(StyleGAN2Generator(16, 6, 4, 1, mapping_layers=1, widest=8).synthesis)
    w, seen = torch.randn(2, synthesis.layers, 6).double(), {}
    for name, module in synthesis.named_modules():
        if hasattr(module, "style"):
            module.register_forward_pre_hook(lambda _, given, name=name: seen.__setitem__(name.removesuffix(".conv"), given[1]))
    synthesis(w)
    at = {name: next(i for i in range(synthesis.layers) if torch.equal(style, w[:, i])) for name, style in seen.items()}
    assert at == {
        "first": 0, "to_image.0": 1, "ups.0": 1, "convs.0": 2, "to_image.1": 3, "ups.1": 3, "convs.1": 4, "to_image.2": 5,
    }  # fmt: skip


@pytest.mark.parametrize("num_classes", [None, 3])
def test_the_discriminator(num_classes):
    torch.manual_seed(0)
    discriminator = shaken(StyleGAN2Discriminator(16, 4, 3, widest=8, num_classes=num_classes, mapping_layers=1))
    images, labels = torch.randn(8, 3, 16, 16).double(), None if num_classes is None else torch.tensor([2, 0, 1, 0, 2, 0, 1, 0])
    expected = judged(discriminator.state_dict(), images, labels, 2, 4)
    torch.testing.assert_close(discriminator(images, labels), expected)


def test_affine_styles_begin_around_one():
    generator = StyleGAN2Generator(8, 6, 4, 1, mapping_layers=1)
    assert all((m.style.bias == 1).all() for m in generator.modules() if hasattr(m, "style"))
    assert all(m.rate == 0.01 for m in generator.mapping.layers)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_truncation_under_autocast(dtype):
    generator = StyleGAN2Generator(8, 6, 4, 1, mapping_layers=1).eval()
    with torch.autocast("cpu", dtype), torch.no_grad():
        assert generator.mapping(torch.randn(2, 6)).dtype == torch.float32
        assert generator(torch.randn(2, 6), truncation=0.5).shape == (2, 1, 8, 8)
