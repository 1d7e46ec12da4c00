"""State dicts as users of pytorch-CycleGAN-and-pix2pix have them. The stand-ins are written here from the layout of the published ones."""

import pytest
import torch
import torch.nn.functional as F

from ganfast.models.cyclegan import PatchDiscriminator, ResnetGenerator, load_published


def generator_layout(ngf: int, blocks: int, channels: int = 3, *, bias: bool = True) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of a ResNet generator's convolutions. The numbers count the reflection, norm and ReLU layers between them."""
    last = 10 + blocks
    shapes = {"model.1": (ngf, channels, 7, 7), "model.4": (2 * ngf, ngf, 3, 3), "model.7": (4 * ngf, 2 * ngf, 3, 3)}
    for i in range(10, last):
        shapes |= {f"model.{i}.conv_block.1": (4 * ngf, 4 * ngf, 3, 3), f"model.{i}.conv_block.5": (4 * ngf, 4 * ngf, 3, 3)}
    transposed = {f"model.{last}": (4 * ngf, 2 * ngf, 3, 3), f"model.{last + 3}": (2 * ngf, ngf, 3, 3)}
    shapes |= transposed | {f"model.{last + 7}": (channels, ngf, 7, 7)}
    layout = {}
    for name, shape in shapes.items():
        layout[f"{name}.weight"] = shape
        if bias or name == f"model.{last + 7}":
            layout[f"{name}.bias"] = (shape[1] if name in transposed else shape[0],)
    return layout


def discriminator_layout(ndf: int, channels: int = 3) -> dict[str, tuple[int, ...]]:
    """Of the 70x70 PatchGAN."""
    widths = [channels, ndf, 2 * ndf, 4 * ndf, 8 * ndf, 1]
    layout = {}
    for place, c_in, c_out in zip((0, 2, 5, 8, 11), widths, widths[1:]):
        layout |= {f"model.{place}.weight": (c_out, c_in, 4, 4), f"model.{place}.bias": (c_out,)}
    return layout


def standing_in(layout: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    return {key: 0.1 * torch.randn(shape, generator=source) for key, shape in layout.items()}


def by_hand(state: dict[str, torch.Tensor], x: torch.Tensor, blocks: int) -> torch.Tensor:
    """The generator's formula from the state dict alone."""
    conv = lambda x, name, **how: F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], **how)
    up = lambda x, name: F.conv_transpose2d(x, state[f"{name}.weight"], state[f"{name}.bias"], 2, 1, 1)
    reflected = lambda x, width: F.pad(x, (width,) * 4, mode="reflect")
    act = lambda x: F.relu(F.instance_norm(x))
    x = act(conv(reflected(x, 3), "model.1"))
    x = act(conv(x, "model.4", stride=2, padding=1))
    x = act(conv(x, "model.7", stride=2, padding=1))
    for i in range(10, 10 + blocks):
        y = act(conv(reflected(x, 1), f"model.{i}.conv_block.1"))
        x = x + F.instance_norm(conv(reflected(y, 1), f"model.{i}.conv_block.5"))
    x = act(up(act(up(x, f"model.{10 + blocks}")), f"model.{13 + blocks}"))
    return torch.tanh(conv(reflected(x, 3), f"model.{17 + blocks}"))


@pytest.mark.parametrize("blocks", [6, 9])
def test_a_generator_s_state_dict_loads_and_means_the_same(blocks):
    state = standing_in(generator_layout(4, blocks))
    network = ResnetGenerator(width=4, blocks=blocks).eval()
    load_published(network, state)
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(network(x), by_hand(state, x, blocks))


def test_the_published_sizes():
    for blocks in (6, 9):
        own = {key: tuple(value.shape) for key, value in ResnetGenerator(blocks=blocks).state_dict().items()}
        assert own == generator_layout(64, blocks)
    assert {key: tuple(value.shape) for key, value in PatchDiscriminator().state_dict().items()} == discriminator_layout(64)


def test_a_discriminator_s_state_dict_loads():
    state = standing_in(discriminator_layout(4))
    network = PatchDiscriminator(width=4)
    load_published(network, state)
    logits = network(torch.randn(2, 3, 70, 70))
    assert logits.shape == (2, 1, 6, 6)
    assert torch.equal(network.model[11].weight, state["model.11.weight"])


def test_with_dropout_the_second_convolution_is_one_further():
    state = {key.replace("block.5", "block.6"): value for key, value in standing_in(generator_layout(4, 2)).items()}
    load_published(ResnetGenerator(width=4, blocks=2, dropout=True), state)


def test_with_batch_norm_the_convolutions_have_no_bias():
    own = ResnetGenerator(width=4, blocks=2, norm="batch").state_dict()
    convolutions = {key for key, value in own.items() if value.dim() == 4 or key == "model.19.bias"}
    assert convolutions == generator_layout(4, 2, bias=False).keys()
    assert {"model.2.weight", "model.2.running_mean", "model.10.conv_block.6.running_var", "model.13.weight"} <= own.keys()


def test_what_old_files_hold_beside_it_is_left_out():
    state = standing_in(generator_layout(4, 2))
    for name, width in (("model.2", 4), ("model.5", 8), ("model.10.conv_block.2", 16)):
        state |= {f"{name}.running_mean": torch.zeros(width), f"{name}.running_var": torch.ones(width)}
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)
    network = ResnetGenerator(width=4, blocks=2)
    load_published(network, {f"module.{key}": value for key, value in state.items()})
    assert torch.equal(network.model[1].weight, state["model.1.weight"])


def test_another_network_s_state_dict_is_refused_and_nothing_is_loaded():
    network = ResnetGenerator(width=4, blocks=6)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(ValueError, match=r"cyclegan: the state dict .*'model\."):
        load_published(network, standing_in(generator_layout(4, 9)))
    with pytest.raises(ValueError, match=r"cyclegan: 'model\..*wants \[.*ngf"):
        load_published(network, standing_in(generator_layout(8, 6)))
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
