"""What people do to a network after it was accelerated: normalisations removed, layers exchanged, settings changed, weights replaced."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from ganfast import accelerate, explain, restore
from tests.families import oracle
from tests.families.registry import FAMILIES

ROWS = {row.name: row for row in FAMILIES}


def exchange(path, make):
    def change(model):
        parent, _, name = path.rpartition(".")
        setattr(model.get_submodule(parent), name, make())

    return change


def each(kind, change):
    return lambda model: [change(module) for module in model.modules() if isinstance(module, kind)]


def setting(path, name, value):
    return lambda model: setattr(model.get_submodule(path), name, value)


def hooked(path, register, hook):
    return lambda model: getattr(model.get_submodule(path), register)(hook)


def without_old_norms(model):
    for module in model.modules():
        if hasattr(module, "weight_g"):
            nn.utils.remove_weight_norm(module)
        elif hasattr(module, "weight_orig"):
            nn.utils.remove_spectral_norm(module)


def without_new_norms(model):
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            parametrize.remove_parametrizations(module, "weight")


@torch.no_grad()
def larger(model):
    for parameter in model.parameters():
        parameter.data = parameter.data * 1.2  # larger ones, and rounding decides srgan-g's second order


def wider_first(model):
    """Another number of input channels, as for images with a mask."""
    old = model.main[0]
    model.main[0] = nn.Conv2d(old.in_channels, old.out_channels, 6, 2, 2, bias=False)


LATER = {
    "old weight norm removed": ("hifigan-old-g", without_old_norms),
    "new weight norm removed": ("hifigan-new-g", without_new_norms),
    "old spectral norm removed": ("sngan-resnet-old-d", without_old_norms),
    "new spectral norm removed": ("sngan-resnet-new-d", without_new_norms),
    "spectral norm added": ("dcgan-flat-d", each(nn.Conv2d, parametrizations.spectral_norm)),
    "old spectral norm added": ("dcgan-flat-d", each(nn.Conv2d, nn.utils.spectral_norm)),
    "a slope": ("dcgan-flat-d", setting("main.4", "negative_slope", 0.5)),
    "a negative slope": ("wgan-gp-d", setting("main.3", "negative_slope", -0.5)),
    "a slope above one": ("dcgan-flat-d", setting("main.4", "negative_slope", 1.5)),
    "a momentum": ("dcgan-functional-g", setting("deconv1_bn", "momentum", 0.7)),
    "no momentum": ("lsgan-g", setting("conv_blocks.2", "momentum", None)),
    "eps": ("cyclegan-d", setting("model.3", "eps", 0.1)),
    "an upsampling's mode": ("lsgan-g", setting("conv_blocks.4", "mode", "bilinear")),
    "an upsampling's factor": ("gan3d-upsample-g", setting("decode.0", "scale_factor", 3)),
    "a padding mode": ("lsgan-g", setting("conv_blocks.1", "padding_mode", "replicate")),
    "norms in evaluation mode": ("dcgan-functional-g", each(nn.BatchNorm2d, nn.Module.eval)),
    "one norm in evaluation mode": ("dcgan-flat-g", lambda model: model.main[1].eval()),
    "norms that keep no statistics": ("dcgan-flat-d", each(nn.BatchNorm2d, lambda m: setattr(m, "track_running_stats", False))),
    "an activation exchanged": ("dcgan-flat-g", exchange("main.5", lambda: nn.LeakyReLU(0.2))),
    "an activation that has no kernel": ("dcgan-flat-g", exchange("main.5", nn.Mish)),
    "an activation exchanged below a forward": ("srgan-nearest-g", exchange("residual_block1.prelu", nn.Tanh)),
    "a norm exchanged": ("vae", exchange("decoder.0.1", lambda: nn.InstanceNorm2d(16))),
    "a norm left out": ("dcgan-flat-g", exchange("main.4", nn.Identity)),
    "a norm left out below a forward": ("dcgan-functional-g", exchange("deconv2_bn", nn.Identity)),
    "a layer with another kernel": ("dcgan-flat-d", wider_first),
    "layers appended": ("dcgan-flat-g", lambda model: model.main.append(nn.Conv2d(3, 2, 3)).append(nn.ReLU())),
    "a layer inserted": ("dcgan-flat-g", lambda model: model.main.insert(4, nn.Dropout(0.5)).train(model.training)),
    "a forward replaced": ("dcgan-flat-g", lambda model: setattr(model.main[4], "forward", lambda x: 2 * x)),
    "values replaced": ("srgan-g", larger),
    "parameters replaced": ("lsgan-g", lambda model: setattr(model.conv_blocks[1], "bias", nn.Parameter(torch.ones(16)))),
    "a bias removed": ("lsgan-g", lambda model: setattr(model.conv_blocks[8], "bias", None)),
    "a hook that changes the output": ("dcgan-functional-g", hooked("deconv2_bn", "register_forward_hook", lambda m, a, y: 2 * y)),
    "a hook that changes the input": ("dcgan-flat-g", hooked("main.6", "register_forward_pre_hook", lambda m, a: a[0] + 1)),
}  # fmt: skip


def wrong(got, want, exact):
    if found := [line for kind in want for line in oracle.unlike(kind, got[kind], want[kind])]:
        return found
    for kind in exact:
        own, _ = oracle.distances(want[kind], exact[kind])
        off, _ = oracle.distances(got[kind], exact[kind])
        limit = 3 * max(own.values(), default=0.0) + 2e-5
        found += [(kind, group, off[group], limit) for group in off if not off[group] <= limit]
    return found


# In evaluation mode `make test` has one change of each kind, `make prove` all.
IN_EVAL = {
    "old weight norm removed", "new spectral norm removed", "spectral norm added", "a slope", "eps", "an upsampling's mode",
    "norms that keep no statistics", "an activation exchanged", "a norm left out below a forward", "a layer inserted", "a forward replaced",
    "values replaced", "a bias removed", "a hook that changes the output",
}  # fmt: skip


def _changes():
    cases = [(name, training) for name in LATER for training in (True, False)]
    marks = lambda name, training: [] if training or name in IN_EVAL else [pytest.mark.prove]
    return [pytest.param(*case, id=f"{case[0]}-{'train' if case[1] else 'eval'}", marks=marks(*case)) for case in cases]


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize(("name", "training"), _changes())
@pytest.mark.thinned(3)
def test_what_is_changed_later_counts(name, training):
    row, change = ROWS[LATER[name][0]], LATER[name][1]
    plain, exact, model = (oracle.network(row, training) for _ in range(3))
    x = oracle.to(row.example(), torch.float32)
    accelerate(model)
    state = {key: t.clone() for key, t in model.state_dict().items()}
    model(*x)  # by now everything is compiled, for calls that look like the later one
    assert explain(model).graphs
    model.load_state_dict(state)
    for network in (plain, exact, model):
        torch.manual_seed(4)
        change(network)
    want = oracle.run(plain, x)
    exact = oracle.run(exact.double(), oracle.to(x, torch.float64))
    got = oracle.run(model, x)
    assert wrong(got, want, exact) == []
    if training and "removed" not in name:
        assert wrong(oracle.run(oracle.network(row, training), x), want, exact) != []
    names = [type(module).__name__ for module in plain.modules()]
    assert [type(module).__name__ for module in restore(model).modules()] == names


def test_a_weight_is_made_once_per_call():
    """Old spectral norm takes a step of its iteration each time."""
    networks = []
    for change in (lambda model: model, accelerate):
        torch.manual_seed(0)
        conv = nn.utils.spectral_norm(nn.Conv2d(3, 4, 3, padding=1))
        networks.append(change(nn.Sequential(nn.Upsample(scale_factor=2), conv, nn.ReLU())))
        networks[-1][0].mode = "bilinear"
        networks[-1](torch.ones(2, 3, 5, 5))
    torch.testing.assert_close(networks[1][1].weight_u, networks[0][1].weight_u)
