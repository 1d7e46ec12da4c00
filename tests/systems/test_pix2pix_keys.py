"""State dicts as users of pix2pix have them. The stand-ins are written here from the layout of the published ones."""

import pytest
import torch
import torch.nn.functional as F

from ganfast.models.cyclegan import load_published
from ganfast.models.pix2pix import PairDiscriminator, UnetGenerator
from ganfast.systems import pix2pix
from ganfast.systems.pix2pix import SYSTEM, Options


def norm_layout(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.{key}": (channels,) for key in ("weight", "bias", "running_mean", "running_var")} | {f"{name}.num_batches_tracked": ()}


def generator_layout(ngf: int, downs: int, channels: int = 3) -> dict[str, tuple[int, ...]]:
    """Of a U-Net with batch norm. A block holds activation, convolution, norm, the next block, activation, convolution back, norm; the
    outermost has no first activation and no norms, the innermost no first norm and no block in it. No dropout is counted: it is last."""
    widths = [ngf * min(2**i, 8) for i in range(downs)]
    layout = {
        "model.model.0.weight": (ngf, channels, 4, 4),
        "model.model.3.weight": (2 * ngf, channels, 4, 4), "model.model.3.bias": (channels,),
    }  # fmt: skip
    for i in range(1, downs):
        block = "model.model.1.model" + ".3.model" * (i - 1)
        outer, inner = widths[i - 1], widths[i]
        layout[f"{block}.1.weight"] = (inner, outer, 4, 4)
        if i < downs - 1:
            layout |= norm_layout(f"{block}.2", inner) | {f"{block}.5.weight": (2 * inner, outer, 4, 4)} | norm_layout(f"{block}.6", outer)
        else:
            layout |= {f"{block}.3.weight": (inner, outer, 4, 4)} | norm_layout(f"{block}.4", outer)
    return layout


def discriminator_layout(ndf: int, channels: int = 6) -> dict[str, tuple[int, ...]]:
    """Of the 70x70 PatchGAN with batch norm, on input and output together."""
    layout = {"model.0.weight": (ndf, channels, 4, 4), "model.0.bias": (ndf,), "model.11.weight": (1, 8 * ndf, 4, 4), "model.11.bias": (1,)}
    for place, c in ((2, ndf), (5, 2 * ndf), (8, 4 * ndf)):
        layout |= {f"model.{place}.weight": (2 * c, c, 4, 4)} | norm_layout(f"model.{place + 1}", 2 * c)
    return layout


def standing_in(layout: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    state = {key: 0.2 * torch.randn(shape, generator=source) for key, shape in layout.items()}
    for key, value in state.items():
        if key.endswith("running_var"):
            value.abs_().add_(0.5)
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(7)
    return state


def by_hand(state: dict[str, torch.Tensor], x: torch.Tensor, downs: int) -> torch.Tensor:
    """The generator's formula in eval mode, from the state dict alone."""
    down = lambda x, name: F.conv2d(x, state[f"{name}.weight"], None, 2, 1)
    up = lambda x, name: F.conv_transpose2d(F.relu(x), state[f"{name}.weight"], state.get(f"{name}.bias"), 2, 1)
    norm = lambda x, name: F.batch_norm(x, *(state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias")))

    def block(x: torch.Tensor, name: str, left: int) -> torch.Tensor:
        y = down(F.leaky_relu(x, 0.2), f"{name}.1")
        if left:
            y = norm(up(block(norm(y, f"{name}.2"), f"{name}.3.model", left - 1), f"{name}.5"), f"{name}.6")
        else:
            y = norm(up(y, f"{name}.3"), f"{name}.4")
        return torch.cat([x, y], 1)

    return torch.tanh(up(block(down(x, "model.model.0"), "model.model.1.model", downs - 2), "model.model.3"))


@pytest.mark.parametrize("downs", [5, 7])
def test_a_generator_s_state_dict_loads_and_means_the_same(downs):
    state = standing_in(generator_layout(2, downs))
    network = UnetGenerator(downs=downs, width=2).eval()  # with dropout, as they are published
    load_published(network, state)
    x = torch.randn(2, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    made = network(x)
    assert made.std() > 0.05
    torch.testing.assert_close(made, by_hand(state, x, downs))


def test_the_published_layout():
    """unet_128 and unet_256, and the 70x70 PatchGAN, at an eighth of their width."""
    for downs in (7, 8):
        own = {key: tuple(value.shape) for key, value in UnetGenerator(downs=downs, width=8).state_dict().items()}
        assert own == generator_layout(8, downs)
    own = {key: tuple(value.shape) for key, value in PairDiscriminator(6, 8, norm="batch").state_dict().items()}
    assert own == discriminator_layout(8)


def test_input_comes_before_output_in_the_discriminator():
    state = standing_in(discriminator_layout(4))
    network = PairDiscriminator(6, 4, norm="batch").eval()
    load_published(network, state)
    given, images = torch.randn(2, 1, 3, 64, 64).unbind(0)
    first = F.conv2d(torch.cat([given, images], 1), state["model.0.weight"], state["model.0.bias"], 2, 1)
    torch.testing.assert_close(network(images, given), network.model[1:](first))


def test_with_instance_norm_all_convolutions_have_a_bias():
    own = UnetGenerator(downs=5, width=4, norm="instance").state_dict()
    assert {key.rpartition(".")[0] for key in own if key.endswith("bias")} == {key.rpartition(".")[0] for key in own}


def test_old_files_count_no_batches():
    state = {key: value for key, value in standing_in(generator_layout(2, 5)).items() if not key.endswith("num_batches_tracked")}
    network = UnetGenerator(downs=5, width=2)
    load_published(network, {f"module.{key}": value for key, value in state.items()})
    assert all(torch.equal(network.state_dict()[key], value) for key, value in state.items())


def test_training_begins_with_published_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(pix2pix, "PEOPLE", {"train": 8, "test": 2})
    options = Options(weights=str(tmp_path), crop_size=32, netG="unet_32", ngf=2, ndf=4, netD="basic", fused=False)
    with pytest.raises(ValueError, match=r"pix2pix: weights .* has no latest_net_G\.pth"):
        SYSTEM.trainer(options)
    files = {"generator": generator_layout(2, 5), "discriminator": discriminator_layout(4)}
    held = {name: standing_in(layout) for name, layout in files.items()}
    for name, state in held.items():
        torch.save(state, tmp_path / f"latest_net_{name[0].upper()}.pth")
        trainer = SYSTEM.trainer(options)  # the discriminator's may be missing
        assert all(torch.equal(trainer.networks[name].state_dict()[key], value) for key, value in state.items()), name
    torch.save(standing_in(generator_layout(2, 6)), tmp_path / "latest_net_G.pth")
    with pytest.raises(ValueError, match=r"pix2pix: the state dict .*another netG"):
        SYSTEM.trainer(options)
    (tmp_path / "latest_net_G.pth").write_bytes(b"no state dict")
    with pytest.raises(ValueError, match=r"pix2pix: .* cannot be read as a state dict"):
        SYSTEM.trainer(options)
