"""ADA: the draws' statistics, what stays bit for bit, gradients, layouts, dtypes; what is refused."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import ganfast
from ganfast import _ada_matrices as maps
from ganfast.ada import POLICIES, ada_augment, policy_of
from tests.test_ada_maps import GATES, LATER
from tests.test_augment import seeded

FP64, FP16, BF16 = torch.float64, torch.float16, torch.bfloat16


@pytest.mark.parametrize("name", GATES)
def test_each_change_is_made_with_its_probability(name):
    n, p = 20_000, 0.3
    policy = "color" if GATES[name] > 7 else "blit" if GATES[name] < 3 else "geom"
    u = torch.full((n, 21), LATER, dtype=FP64)
    u[:, GATES[name]] = torch.rand(n, dtype=FP64)
    u[:, 13:] = torch.rand(n, 8, dtype=FP64)
    z = torch.randn(n, 7, dtype=FP64)
    if policy == "color":
        along, across, turned, added = maps.colours(u, z, p)
        changed = (along != 1) | (across != 1) | (turned != 0) | (added != 0)
    else:
        changed = (maps.geometry(u, z, p, (policy,), 32, 32) != torch.eye(3)).flatten(1).any(1)
    idle = {"flip": 1 / 2, "luma": 1 / 2, "quarters": 1 / 4, "whole": 1 / 64}.get(name, 0)  # drawn, and nothing comes of it
    chance = 1 - math.sqrt(1 - p) if name.startswith("turn") else p
    assert changed.double().mean().item() == pytest.approx(chance * (1 - idle), abs=0.015)


def test_the_spread_of_what_is_drawn():
    torch.manual_seed(0)
    u, z = torch.rand(40_000, 21, dtype=FP64), torch.randn(40_000, 7, dtype=FP64)
    shut = lambda *names: torch.where(torch.tensor([at not in [GATES[n] for n in names] and at < 13 for at in range(21)]), LATER, u)
    sizes = -maps.geometry(shut("size"), z, 1 - 1e-3, ("geom",), 32, 32)[:, 0, 0].log2()
    assert sizes.std().item() == pytest.approx(0.2, rel=0.02) and abs(sizes.mean().item()) < 0.005
    moved = -maps.geometry(shut("part"), z, 0.99, ("geom",), 32, 64)[:, :2, 2]
    assert moved.std(0).tolist() == pytest.approx([8, 4], rel=0.03)
    whole = -maps.geometry(shut("whole"), z, 0.99, ("blit",), 32, 64)[:, :2, 2]
    assert whole.amax(0).tolist() == [8, 4] and whole.amin(0).tolist() == [-8, -4] and whole.equal(whole.round())
    assert maps.colours(shut("contrast"), z, 0.99)[0].log2().std().item() == pytest.approx(0.5, rel=0.03)
    assert maps.colours(shut("brightness"), z, 0.99)[3].std().item() == pytest.approx(0.2, rel=0.03)
    assert maps.colours(shut("saturation"), z, 0.99)[1].log2().std().item() == pytest.approx(1.0, rel=0.03)
    hues = torch.atan2(*maps.colours(shut("hue"), z, 0.99)[2:0:-1])
    assert (torch.histc(hues, 8, -math.pi, math.pi) / len(u) - 1 / 8).abs().max() < 0.01


def test_nothing_is_changed_bit_for_bit():
    x = torch.randn(6, 3, 12, 12)
    assert ada_augment(x, 0.0) is x and ada_augment(x, 0) is x and ada_augment(x, 0.7, "") is x and len(ada_augment(x[:0], 0.7)) == 0
    assert ada_augment(x, torch.zeros(()), uniform=lambda *s: torch.zeros(s)).equal(x)
    u = torch.rand(6, 21)
    u[1::2, :13] = LATER
    got = ada_augment(x, torch.tensor(0.9), uniform=lambda *_: u)
    assert got[1::2].equal(x[1::2]) and not any(a.equal(b) for a, b in zip(got[::2], x[::2]))


def test_a_tensor_of_a_probability_and_a_float_mean_the_same():
    x = torch.randn(8, 3, 16, 16)
    same = {"uniform": seeded(1), "normal": lambda *s: torch.randn(*s, generator=torch.Generator().manual_seed(2))}
    one = ada_augment(x, 0.5, **same)
    assert torch.equal(one, ada_augment(x, torch.tensor(0.5), **same | {"uniform": seeded(1)})) and not one.equal(x)
    torch.manual_seed(5)
    drawn_here = ada_augment(x, 0.5)
    torch.manual_seed(5)
    assert torch.equal(drawn_here, ada_augment(x, 0.5)) and not torch.equal(drawn_here, ada_augment(x, 0.5))


def test_equal_draws_make_equal_parts():
    x, u, z = torch.randn(4, 3, 16, 16), torch.rand(4, 21), torch.randn(4, 7)
    call = lambda y, policy: ada_augment(y, 0.8, policy, uniform=lambda *_: u, normal=lambda *_: z)
    assert torch.equal(call(x, " color, geom,blit"), call(call(x, "blit,geom"), "color"))


@pytest.mark.parametrize(("policy", "channels"), [("blit", 2), ("geom", 1), ("color", 1), ("color", 3), ("blit,geom,color", 3)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients(policy, channels, layout):
    torch.manual_seed(1)
    x = torch.randn(2, channels, 4, 3, dtype=FP64).to(memory_format=layout).requires_grad_()
    u, z = torch.rand(2, 21, dtype=FP64), torch.randn(2, 7, dtype=FP64)
    call = lambda x: ada_augment(x, 0.9, policy, uniform=lambda *_: u, normal=lambda *_: z)
    assert torch.autograd.gradcheck(call, x) and torch.autograd.gradgradcheck(lambda x: call(x).square(), x)


def test_r1_goes_through_it():
    torch.manual_seed(0)
    x, network = torch.randn(2, 1, 8, 8, dtype=FP64).requires_grad_(), torch.nn.Conv2d(1, 1, 3, dtype=FP64)
    u, z = torch.rand(2, 21, dtype=FP64), torch.randn(2, 7, dtype=FP64)

    def penalty(x):
        seen = ada_augment(x, 0.9, uniform=lambda *_: u, normal=lambda *_: z)
        (gradient,) = torch.autograd.grad(network(seen).tanh().sum(), x, create_graph=True)
        return gradient.square().sum()

    assert torch.autograd.gradcheck(penalty, x)


@pytest.mark.parametrize("dtype", [FP16, BF16])
def test_half_precisions_are_computed_in_float32_and_rounded_once(dtype):
    x, u, z = torch.randn(4, 3, 16, 16).to(dtype), torch.rand(4, 21), torch.randn(4, 7)
    call = lambda y, p=0.8: ada_augment(y, p, uniform=lambda *_: u, normal=lambda *_: z)
    assert torch.equal(call(x), call(x.float()).to(dtype)) and call(x).dtype == dtype
    with torch.autocast("cpu", BF16):
        assert torch.equal(call(x.float()), call(x.float().clone()).float()) and call(x.float()).dtype == torch.float32
        inside = call(x.float())
    assert torch.equal(inside, call(x.float()))


@pytest.mark.parametrize("policy", [*POLICIES, "blit,geom,color"])
def test_layouts_are_kept(policy):
    x, u, z = torch.randn(3, 3, 12, 10), torch.rand(3, 21), torch.randn(3, 7)
    call = lambda y: ada_augment(y, 0.8, policy, uniform=lambda *_: u, normal=lambda *_: z)
    last = call(x.contiguous(memory_format=torch.channels_last))
    assert last.is_contiguous(memory_format=torch.channels_last) and call(x).is_contiguous()
    torch.testing.assert_close(last, call(x), atol=1e-6, rtol=1e-5)
    assert call(x.transpose(2, 3)).is_contiguous()


def test_nothing_waits_for_the_device():
    class Waits(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            assert func._schema.name not in ("aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero"), func
            return func(*args, **(kwargs or {}))

    x, state = torch.randn(2, 3, 8, 8, requires_grad=True), ganfast.ada.AdaptiveAugment(speed=100)
    with Waits():
        state(x).square().sum().backward()
        for _ in range(5):
            state.observe(torch.ones(()), 2)
    assert state.p == pytest.approx(8 / 100)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"images": torch.zeros(3, 8, 8)}, ValueError, r"A single image wants images\[None\]"),
        ({"images": torch.zeros(1, 3, 8, 8).int()}, TypeError, "wants float32"),
        ({"images": torch.zeros(1, 2, 8, 8)}, ValueError, "2 channels, colours want 1 .grey. or 3 .RGB.*any number"),
        ({"policy": "colour"}, ValueError, "Did you mean 'color'"),
        ({"policy": ["blit"]}, TypeError, "policy is a list, wants a str"),
        ({"p": 1.1}, ValueError, "a probability from 0 to 1"),
        ({"p": "much"}, TypeError, "wants a float"),
        ({"p": torch.zeros(2)}, TypeError, "wants a 0-d one"),
        ({"p": torch.zeros((), dtype=torch.long)}, TypeError, "wants a 0-d one of floats"),
        ({"uniform": torch.rand, "normal": lambda *s: torch.randn(2, 2)}, ValueError, r"normal.* gave shape \(2, 2\), wants \(1, 7\)"),
    ],
)
def test_refused(change, error, words):
    given = {"images": torch.zeros(1, 3, 8, 8), "p": 0.5} | change
    with pytest.raises(error, match=words):
        ada_augment(**given)


def test_a_setting_names_its_policy():
    assert policy_of("ada") == policy_of("ada:") == policy_of(" ada : ") == "blit,geom,color"
    assert policy_of("ada: color, blit") == "blit,color" and policy_of("") == policy_of("color,translation") == ""
    with pytest.raises(ValueError, match="'geometry' is unknown"):
        policy_of("ada:geometry")
