"""Accelerated networks in what people wrap around them: casts, layouts, copies, compilers, hooks, freezing, sharing."""

import copy
import io

import pytest
import torch
from torch import Tensor, nn

from ganfast import accelerate, restore
from tests.families import dcgan, oracle
from tests.families.family import aliases, groups_of
from tests.families.registry import FAMILIES

ROWS = {row.name: row for row in FAMILIES}
# One of each kind of forward: flat, by functions, with a trunk of blocks, nested in place, 1-D with learned activations, two stages.
SOME = ["dcgan-flat-g", "dcgan-functional-g", "lsgan-g", "srgan-g", "pix2pix-unet", "codec-decoder", "stackgan-stage2-g"]
NORMALISED = ["hifigan-old-g", "hifigan-new-g", "sngan-resnet-old-d", "sngan-resnet-new-d"]


def rows(*names):
    return pytest.mark.parametrize("row", [pytest.param(ROWS[name], id=name) for name in names])


def in_turn(what, values, *names):
    """Each row with one of the values, in turn, and with the others in `make prove`. Both of a row in one case."""
    cases = [(i, name, j, value) for i, name in enumerate(names) for j, value in enumerate(values)]
    left = lambda i, j: [] if i % len(values) == j else [pytest.mark.prove]
    params = [pytest.param(ROWS[name], values[value], id=f"{value}-{name}", marks=left(i, j)) for i, name, j, value in cases]
    return pytest.mark.parametrize(("row", what), params)


MODES = {"train": True, "eval": False}
WHEN = {"before": "before", "after": "after"}


def assert_same(row, change, *, training=True, dtype=torch.float32):
    assert not (found := oracle.judge(row, training, dtype, change)), "\n".join(found)


def saved(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def other_is_accelerated(row, copied):
    """A copy gives what the network gives, and is accelerated itself."""
    others = []

    def change(model):
        model = accelerate(model)
        others.append(copied(model))
        assert not {*others[0].parameters()} & {*model.parameters()}
        return others[0]

    assert_same(row, change)
    assert groups_of(others[0]) == aliases(others[0], row.fused)


@rows(*SOME, "sngan-resnet-old-d", "sngan-resnet-new-d")
def test_deep_copies(row):
    other_is_accelerated(row, copy.deepcopy)


@rows(*[name for name in SOME if name != "codec-decoder"], "sngan-resnet-old-d")  # torch refuses to pickle parametrized modules
def test_saved_whole(row):
    other_is_accelerated(row, saved)


@rows(*SOME)
def test_a_copy_restores(row):
    plain, model = oracle.network(row, True), copy.deepcopy(accelerate(oracle.network(row, True)))
    names = lambda network: [(type(m).__module__, type(m).__name__, type(m).__mro__[1]) for m in network.modules()]
    assert names(restore(model)) == names(plain)


HALVES = {"cast after": lambda model: accelerate(model.float()).bfloat16(), "autocast": accelerate}


@in_turn("change", HALVES, *SOME, *NORMALISED)
@pytest.mark.thinned(3)
def test_bfloat16(row, change):
    half = "autocast" if change is accelerate else "cast"
    assert_same(row.variant(half, half=half), change, dtype=torch.bfloat16)


@in_turn("when", WHEN, "dcgan-flat-g", "lsgan-g", "codec-decoder", "hifigan-new-g")
def test_half(row, when):
    change = accelerate if when == "before" else lambda model: accelerate(model.float()).half()
    assert_same(row.variant("cast", half="cast"), change, dtype=torch.float16)


@in_turn("when", WHEN, "dcgan-flat-g", "dcgan-functional-g", "lsgan-g", "srgan-g", "sngan-resnet-new-d")
def test_channels_last(row, when):
    last = lambda model: model.to(memory_format=torch.channels_last)
    change = (lambda model: accelerate(last(model))) if when == "before" else (lambda model: last(accelerate(model)))
    assert_same(row, change)
    plain, model = last(oracle.network(row, False)), change(oracle.network(row, False))
    x = [v.contiguous(memory_format=torch.channels_last) if v.dim() == 4 else v for v in row.example()]
    layouts = [
        [y.is_contiguous(memory_format=layout) for layout in (torch.contiguous_format, torch.channels_last)]
        for y in (next(oracle.tensors(network(*x))) for network in (model, plain))
    ]
    assert layouts[0] == layouts[1]


@rows("dcgan-flat-g", "lsgan-g", "hifigan-new-g", "dcgan-functional-g")
def test_compiled_whole(row):
    torch._dynamo.reset()
    x = oracle.to(row.example(), torch.float32)
    plain, reference = oracle.network(row, True), oracle.network(row, True).double()
    model = accelerate(oracle.network(row, True))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    want, exact = oracle.run(plain, x, second=False), oracle.run(reference, oracle.to(x, torch.float64), second=False)
    targets = [*(p for p in model.parameters()), *x]
    outputs = list(oracle.tensors(compiled(*x)))
    for y, one in zip(outputs, want["output"].values(), strict=True):
        torch.testing.assert_close(y, one, rtol=1e-4, atol=1e-5)
    generator = torch.Generator().manual_seed(3)
    weights = [torch.randn(y.shape, generator=generator, dtype=torch.float64).float() for y in outputs]
    gradients = torch.autograd.grad(sum((y * w).sum() for y, w in zip(outputs, weights)), targets)
    got = dict(zip([*(name for name, _ in model.named_parameters()), *(f"input{i}" for i in range(len(x)))], gradients))
    wrong, _ = oracle.distances(got, exact["gradient"])
    assert max(wrong.values()) < 2e-5
    torch._dynamo.reset()


def layers_frozen(model: nn.Module) -> nn.Module:
    """Every other convolution, and all norms: trunks that were trained before."""
    for i, module in enumerate(m for m in model.modules() if isinstance(m, nn.modules.conv._ConvNd)):
        module.requires_grad_(i % 2 == 0)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.requires_grad_(False)
    return model


def biases_frozen(model: nn.Module) -> nn.Module:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not name.endswith("bias"))
    return model


@rows("dcgan-functional-g", "lsgan-g", "srgan-g", "codec-decoder", "sngan-resnet-new-d")
@pytest.mark.parametrize("frozen", [layers_frozen, biases_frozen])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.pairs
def test_frozen_parameters(row, frozen, when):
    variant = row.variant(frozen.__name__, make=lambda: frozen(row.make()))
    assert_same(variant, accelerate if when == "before" else lambda model: frozen(accelerate(model.requires_grad_())))


def tied(model: nn.Module) -> nn.Module:
    """One weight for two convolutions, one block in two places."""
    first, second = model.res_blocks
    second.conv_block[0].weight = first.conv_block[0].weight
    model.res_blocks.append(first)
    return model


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_tied_weights_and_shared_blocks(training):
    row = ROWS["srgan-g"].variant("tied", make=lambda: tied(ROWS["srgan-g"].make()))
    assert_same(row, accelerate, training=training)


def seen_by_hooks(model: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[dict[str, Tensor], list[Tensor]]:
    """What hooks on every layer see, by the layer's path and its turn; and what comes out once the hooks are gone."""
    seen: dict[str, Tensor] = {}

    def hook(path):
        return lambda module, args, y: seen.update({f"{path}#{sum(key.startswith(path + '#') for key in seen)}": y.detach().clone()})

    model(*inputs)
    layers = [(path, module) for path, module in model.named_modules() if not module._modules]
    handles = [module.register_forward_hook(hook(path)) for path, module in layers]
    torch.manual_seed(7)
    model(*inputs)
    for handle in handles:
        handle.remove()
    torch.manual_seed(7)
    return seen, [y.detach() for y in oracle.tensors(model(*inputs))]


@in_turn("training", MODES, *SOME, *NORMALISED)
@pytest.mark.thinned(3)
def test_hooks_added_later_see_every_layer(row, training):
    x = row.example()
    want, without = seen_by_hooks(oracle.network(row, training), x)
    got, again = seen_by_hooks(accelerate(oracle.network(row, training)), x)
    assert list(got) == list(want)
    for name in want:
        within = max(1e-4, 1e-6 * want[name].abs().max().item())
        torch.testing.assert_close(got[name], want[name], rtol=1e-4, atol=within, msg=lambda text, name=name: f"{name}: {text}")
    torch.testing.assert_close(again, without, rtol=1e-4, atol=1e-4)


@rows("dcgan-flat-g", "dcgan-blocks-g", "dcgan-flat-d")
def test_slices_and_loops(row):
    """Feature extractors take a Sequential to pieces."""
    x = row.example()[0]
    plain, model = oracle.network(row, False), accelerate(oracle.network(row, False))
    theirs, ours = next(plain.children()), next(model.children())
    for stop in range(1, len(theirs)):
        torch.testing.assert_close(ours[:stop](x), theirs[:stop](x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours[stop:](ours[:stop](x)), theirs(x), rtol=1e-4, atol=1e-5)
    y = x
    for layer in ours:
        y = layer(y)
    torch.testing.assert_close(y, theirs(x), rtol=1e-4, atol=1e-5)


def test_initialised_by_class_names():
    plain, model = dcgan.Generator(), accelerate(dcgan.Generator())
    for network in (plain, model):
        torch.manual_seed(5)
        network.apply(dcgan.weights_init)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))
