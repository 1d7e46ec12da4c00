"""State dicts as users of ESRGAN and Real-ESRGAN have them. The stand-ins are written here from the layout of the published ones."""

import copy

import pytest
import torch
import torch.nn.functional as F

import ganfast
from ganfast.dropin.explain import explain
from ganfast.models.super_resolution import RRDBNet, Upscaler, enlarged, rrdbnet


def layout(width: int, blocks: int, growth: int, channels: int = 3) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of an RRDBNet of scale 4."""
    sizes = {"conv_first": (width, channels)}
    for block in range(blocks):
        for dense in (1, 2, 3):
            for i in range(5):
                sizes[f"body.{block}.rdb{dense}.conv{i + 1}"] = growth if i < 4 else width, width + i * growth
    sizes |= dict.fromkeys(("conv_body", "conv_up1", "conv_up2", "conv_hr"), (width, width)) | {"conv_last": (channels, width)}
    found = {}
    for name, (c_out, c_in) in sizes.items():
        found |= {f"{name}.weight": (c_out, c_in, 3, 3), f"{name}.bias": (c_out,)}
    return found


def standing_in(width: int = 8, blocks: int = 2, growth: int = 4, seed: int = 0) -> dict[str, torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    return {key: 0.1 * torch.randn(shape, generator=source) for key, shape in layout(width, blocks, growth).items()}


def by_hand(state: dict[str, torch.Tensor], x: torch.Tensor, blocks: int = 2) -> torch.Tensor:
    """The formula from the state dict alone."""
    conv = lambda x, name: F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1)
    act = lambda x: torch.where(x > 0, x, 0.2 * x)
    twice = lambda x: x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    x = first = conv(x, "conv_first")
    for block in range(blocks):
        y = x
        for dense in (1, 2, 3):
            seen = y
            for i in range(1, 5):
                seen = torch.cat([seen, act(conv(seen, f"body.{block}.rdb{dense}.conv{i}"))], 1)
            y = y + 0.2 * conv(seen, f"body.{block}.rdb{dense}.conv5")
        x = x + 0.2 * y
    x = first + conv(x, "conv_body")
    x = act(conv(twice(x), "conv_up1"))
    x = act(conv(twice(x), "conv_up2"))
    return conv(act(conv(x, "conv_hr")), "conv_last")


def low(n: int = 2) -> torch.Tensor:
    return torch.rand(n, 3, 6, 5, generator=torch.Generator().manual_seed(1))


def test_a_state_dict_loads_and_means_the_same():
    state = standing_in()
    network = rrdbnet(state)
    torch.testing.assert_close(network(low()), by_hand(state, low()))
    signed = rrdbnet(state, signed=True)  # the same of pictures in [-1, 1]
    torch.testing.assert_close(signed(2 * low() - 1), 2 * by_hand(state, low()) - 1)


def test_the_published_size():
    with torch.device("meta"):
        own = {key: tuple(value.shape) for key, value in RRDBNet().state_dict().items()}
    assert own == layout(64, 23, 32)


WRAPPED = {"one": lambda s: {"params": s}, "both": lambda s: {"params": standing_in(seed=1), "params_ema": s}}


@pytest.mark.parametrize("wrapped", WRAPPED.values(), ids=WRAPPED)
def test_wrapped_as_it_is_published(wrapped):
    state = standing_in()
    network = rrdbnet(wrapped({f"module.{key}": value.half() for key, value in state.items()}))
    assert torch.equal(network.conv_hr.weight, state["conv_hr.weight"].half().float())
    assert len(network.body) == 2 and network.body[0].rdb1.conv1.weight.shape[0] == 4


OLD = {"conv_body": "trunk_conv", "body.": "RRDB_trunk.", ".rdb": ".RDB", "conv_up": "upconv", "conv_hr": "HRconv"}


def test_esrgan_s_own_names():
    """RRDB_trunk.0.RDB1.conv1, trunk_conv, upconv1, upconv2, HRconv, as xinntao/ESRGAN's files have them."""
    state, old = standing_in(), {}
    for key, value in state.items():
        for new, name in OLD.items():
            key = key.replace(new, name)
        old[key] = value
    assert {"RRDB_trunk.1.RDB3.conv5.bias", "trunk_conv.weight", "upconv2.bias", "HRconv.weight"} <= old.keys()
    assert all(torch.equal(value, state[key]) for key, value in rrdbnet(old).state_dict().items())


def without(state: dict, *ends: str) -> dict:
    return {key: value for key, value in state.items() if not key.endswith(ends)}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda s: [s], TypeError, "is a list, wants a state dict"),
        (lambda s: {"model": s, "step": 3}, TypeError, "holds 'model', 'step', wants a state dict"),
        (lambda s: {}, TypeError, "holds nothing"),
        (lambda s: {"params": {}}, TypeError, "holds nothing"),
        (lambda s: {"body.0.weight": s["conv_hr.weight"]}, ValueError, "no 'conv_first.weight', its first is 'body.0.weight'. An"),
        (lambda s: s | {"conv_first.weight": torch.zeros(8, 12, 3, 3)}, ValueError, "takes 12 channels, conv_last gives 3.*scale 2"),
        (lambda s: without(s, "body.1.rdb3.conv5.bias"), ValueError, r"lacks 'body.1.rdb3.conv5.bias' \(1 keys\)"),
        (lambda s: s | {"conv_up3.bias": torch.zeros(8)}, ValueError, r"has too much: 'conv_up3.bias' \(1 keys\)"),
        (lambda s: s | {"conv_hr.bias": torch.zeros(9)}, ValueError, r"'conv_hr.bias' of the state dict is \[9\], wants \[8\]"),
    ],
)
def test_another_network_s_is_refused(change, error, words):
    with pytest.raises(error, match=f"super-resolution: .*{words}"):
        rrdbnet(change(standing_in()))


@pytest.mark.parametrize("network", [lambda: rrdbnet(standing_in()), lambda: Upscaler(3, 8, 2)], ids=["rrdb", "small"])
@torch.no_grad()
def test_an_accelerated_one_gives_the_same(network):
    plain = network().eval()
    for p in plain.parameters():  # the small one begins with zeros at its end
        p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(2)))
    accelerated = ganfast.accelerate(copy.deepcopy(plain))
    torch.testing.assert_close(accelerated(low()), plain(low()))
    assert explain(accelerated).groups


def test_the_small_one_begins_as_bicubic_enlargement_and_its_first_step_leads_away():
    network, x = Upscaler(3, 8, 2), 2 * low() - 1
    assert torch.equal(network(x), enlarged(x)) and enlarged(x).shape == (2, 3, 24, 20)
    network(x).square().mean().backward()
    assert network.last.weight.grad.abs().sum() > 0
