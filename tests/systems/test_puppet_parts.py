"""The parts of the system puppet that need no run: the mark, the flow, both networks, the options."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from ganfast.systems import provenance, puppet
from ganfast.systems.puppet import Discriminator, Generator, Options, flow, moved, spots

SIZE = 32


@pytest.mark.parametrize("side", provenance.SIZES)
@pytest.mark.parametrize("times", [1, 2, 3, 6])
def test_the_mark_is_found_in_enlarged_frames(side, times):
    frames = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    large = lambda images: images.repeat_interleave(times, 2).repeat_interleave(times, 3)
    assert provenance.is_marked(large(provenance.marked(frames))).all() and not provenance.is_marked(large(frames)).any()
    mixed = torch.stack([provenance.marked(frames)[0], frames[1]])
    assert provenance.is_marked(large(mixed)).tolist() == [True, False]


@pytest.mark.parametrize("training", [False, True])
def test_the_network_itself_draws_the_mark(training):
    network = Generator(4, SIZE, 4).train(training)
    given = torch.rand(2, 3, SIZE, SIZE), flow(torch.zeros(2, 4, 2), torch.zeros(2, 4, 2), SIZE), torch.zeros(2, 4, SIZE, SIZE)
    assert provenance.is_marked(network(*given)).all()
    assert not [field.name for field in dataclasses.fields(Options) if "mark" in field.name]


def test_a_generator_that_corrects_nothing_copies():
    network = Generator(4, SIZE, 4).eval()
    last = network.network.model.model[3]
    torch.nn.init.zeros_(last.weight)
    with torch.no_grad():
        last.bias[:] = torch.tensor([0.0] * 5 + [20.0])
    still, by = torch.rand(2, 3, SIZE, SIZE) * 2 - 1, flow(torch.zeros(2, 4, 2), torch.tensor([0.25, -0.5]).expand(2, 4, 2), SIZE)
    assert torch.allclose(network(still, by, torch.zeros(2, 4, SIZE, SIZE)), provenance.marked(moved(still, by)), atol=1e-5)


def test_the_flow_goes_where_points_go():
    start = torch.rand(3, 9, 2) * 0.9 - 0.45
    angle = torch.tensor(0.2)
    turn = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    end = start @ turn.T + torch.tensor([0.25, -0.125])
    at = lambda image: F.grid_sample(image, end[:, None], align_corners=False)[:, :, 0].transpose(1, 2)
    from_where = at((by := flow(start, end, 64)).permute(0, 3, 1, 2))
    assert (from_where - start).abs().max() < 0.02 < 0.2 < (end - start).abs().max()
    with torch.autocast("cpu", torch.bfloat16):
        assert flow(start.bfloat16(), end.bfloat16(), 64).dtype == torch.float32 and flow(start, end, 64).equal(by)
    same = flow(start, start, 8)
    assert same[0, 0, 0].tolist() == [-0.875, -0.875] and same[0, 0, 7].tolist() == [0.875, -0.875]
    assert flow(start[:, :1].expand(-1, 5, -1), end[:, :1].expand(-1, 5, -1), 8).isfinite().all()  # all points in one place
    dot = spots(torch.tensor([[[0.5, -0.25]]]), 64)[0, 0]
    assert divmod(dot.argmax().item(), 64)[0] in (23, 24) and dot.argmax().item() % 64 in (47, 48) and 0.9 < dot.max() <= 1


def test_the_discriminator_sees_points_and_still_but_no_mark():
    network, images = Discriminator(3 + 3 + 2, 4, 2).eval(), torch.randn(2, 3, SIZE, SIZE)
    item = {"still": torch.randn(2, 3, SIZE, SIZE), "to": torch.zeros(2, 2, 2)}
    logits = network(images, puppet.shown(item))
    assert logits.equal(network(provenance.marked(images), puppet.shown(item)))
    for other in ({"still": -item["still"]}, {"to": item["to"] + 0.5}):
        assert not logits.equal(network(images, puppet.shown(item | other)))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"image_size": 48}, "image_size got 48, wants 32, 64, 128 or 256"),
        ({"people": 1}, "people got 1, wants 2 to 10000"),
        ({"width": 0}, "width got 0, wants at least 1"),
        ({"people": 3, "data": "x"}, "people got 3, wants no value beside data"),
        ({"learning_rate_d": 0.0}, "learning_rate_d got 0.0, wants a number above 0"),
        ({"l1": -1.0}, "l1 got -1.0, wants at least 0"),
        ({"near": -1.0}, "near got -1.0, wants at least 0"),
        ({"adversarial": -1.0}, "adversarial got -1.0, wants at least 0"),
        ({"adversarial": 0.0, "l1": 0.0}, "l1 got 0.0, wants a weight above 0 where adversarial is 0 too"),
    ],
)
def test_what_cannot_be_is_refused(given, words):
    with pytest.raises(ValueError, match=words):
        Options(**given)
