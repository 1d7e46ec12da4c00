"""How many graphs a model's calls make, what the second size changes, and what happens past the limit."""

import contextlib
import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import ganfast
from ganfast import _tell
from ganfast.dropin import compiled, groups
from tests.dropin import small


def penalised_step(generator, critic, n: int, autocast: bool = False) -> None:
    """One turn of each network, R1 in the critic's, its gradients off in the generator's."""
    context = torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext()
    z, real = torch.randn(n, 8, 1, 1), small.images(n).requires_grad_()
    critic.requires_grad_(True)
    with context:
        verdict = critic(real)
        loss = F.softplus(-verdict).mean() + F.softplus(critic(generator(z).detach())).mean()
    (slope,) = torch.autograd.grad(verdict.float().sum(), real, create_graph=True)
    (loss + slope.square().sum()).backward()
    critic.requires_grad_(False)
    with context:
        F.softplus(-critic(generator(z))).mean().backward()


def both():
    return small.pair(small.generator)[1], small.pair(small.critic)[1]


def test_a_loop_at_one_size_makes_few_graphs():
    """The critic sees images that want gradients, images that want none, and parameters that want none."""
    generator, critic = both()
    penalised_step(generator, critic, 4)
    made = [ganfast.explain(m).graphs for m in (generator, critic)]
    for _ in range(3):
        penalised_step(generator, critic, 4)
    assert [ganfast.explain(m).graphs for m in (generator, critic)] == made
    assert made in ([1, 3], [1, 2])  # torch 2.11 takes two for the critic
    assert small.fallbacks(generator) == small.fallbacks(critic) == []


def test_a_loop_with_everything_mixed_in_stays_far_below_the_limit():
    generator, critic = both()
    for step in range(3):
        for n in (4, 4, 3):
            penalised_step(generator, critic, n, autocast=step == 1)
        for m in (generator, critic):
            m.eval()
        with torch.no_grad():
            for n in (4, 1):
                critic(generator(torch.randn(n, 8, 1, 1)))
        for m in (generator, critic):
            m.train()
        counts = [ganfast.explain(m).graphs for m in (generator, critic)]
        if step == 1:
            after = counts
    assert counts == after, "a third round of the same steps made graphs"
    assert counts[0] <= 8 and counts[1] <= 14 and compiled.MOST_GRAPHS == 64
    for m in (generator, critic):
        assert small.fallbacks(m) == [] and small.layers(m)


def test_models_of_one_class_do_not_share_a_limit(monkeypatch):
    limits = {"recompile_limit": 3, "accumulated_recompile_limit": 12}
    monkeypatch.setattr(compiled, "_OPTIONS", compiled._OPTIONS | limits)
    for _ in range(8):
        plain, model = small.pair(small.Blocks)
        for x in (small.images(2), small.images(3)):
            small.same(model, plain, x)
        assert small.fallbacks(model) == []


class Normed(nn.Module):
    def forward(self, x):
        return F.leaky_relu(F.instance_norm(x), 0.2)


def test_the_sizes_that_one_model_saw_change_do_not_change_in_another():
    """Channels that were one number here and another there would have no number in the third graph, which then had no groups."""
    for channels in (3, 4, 5):
        model = ganfast.accelerate(Normed())
        model(torch.randn(2, channels, 4, 4))
        assert small.layers(model) == [("instance_norm()", "leaky_relu()")]


class Scaled(nn.Module):
    """A number of its own in the graph, which is compiled for each one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)

    def forward(self, x, flag: str):
        return torch.relu(self.conv(x)) * len(flag)


def test_past_the_limit_it_runs_as_written_and_says_so_once(monkeypatch, capfd):
    monkeypatch.setattr(_tell, "_told", set())
    monkeypatch.setattr(compiled, "MOST_GRAPHS", 3)
    monkeypatch.setattr(compiled, "_OPTIONS", compiled._OPTIONS | {"recompile_limit": 3})
    plain, model = small.pair(Scaled)
    x = small.images(2)
    for length in (*range(1, 9), 1, 5, 8):
        torch.testing.assert_close(model(x, "a" * length), plain(x, "a" * length))
    said = [line for line in capfd.readouterr().err.splitlines() if line.strip()]
    assert len(said) == 1 and "more than 3 graphs" in said[0] and "explain(model).breaks" in said[0]
    explained = ganfast.explain(model)
    assert explained.graphs == 3 + 1  # the convolution by itself has one
    gone = [b.reason for b in explained.breaks if b.kind == "runs as written"]
    assert len(gone) == 1 and gone[0].startswith("Scaled needed more than 3 graphs") and "'aaa'" in gone[0]
    assert ("conv",) in small.layers(model)
    assert sum(b.kind == "compiled anew" for b in explained.breaks) == 2
    small.same(lambda x: model(x, "a" * 9), lambda x: plain(x, "a" * 9), x)


@pytest.mark.parametrize("make", [small.critic, small.generator, small.Blocks], ids=["critic", "generator", "blocks"])
def test_batches_of_any_size(make):
    plain, model = small.pair(make)
    inputs = (lambda n: torch.randn(n, 8, 1, 1)) if make is small.generator else small.images
    groups = None
    for training in (True, False):
        for m in (plain, model):
            m.train(training)
        for n in (4, 3, 2 if make is small.generator and training else 1, 4, 7):
            small.same(model, plain, inputs(n))
            groups = groups or small.layers(model)
            assert small.layers(model) == groups
    assert small.fallbacks(model) == []
    assert ganfast.explain(model).graphs <= 6  # a fixed batch, any batch, a batch of one; each in both modes


def fully(width: int = 4) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, 2, 1), nn.LeakyReLU(0.2), nn.Upsample(scale_factor=2), nn.Conv2d(width, width, 3, padding=1),
        nn.BatchNorm2d(width), nn.ELU(), nn.ConvTranspose2d(width, 3, 4, 2, 1), nn.Sigmoid(),
    )  # fmt: skip


def test_images_of_any_size():
    plain, model = small.pair(fully)
    groups = None
    for n, size in ((2, 8), (2, 12), (3, 12), (1, 6), (2, 8), (2, 16)):
        small.same(model, plain, small.images(n, size))
        groups = groups or small.layers(model)
        assert small.layers(model) == groups
    assert groups == [("0", "1"), ("2", "3", "4", "5"), ("6", "7")]
    assert small.fallbacks(model) == [] and ganfast.explain(model).graphs <= 4


def test_what_the_user_set_of_dynamo_stays_as_it_was():
    from torch._dynamo import config

    before = copy.deepcopy({name: getattr(config, name) for name in compiled._OPTIONS})
    _, model = small.pair()
    model(small.images(2))
    assert {name: getattr(config, name) for name in compiled._OPTIONS} == before


def test_an_option_that_this_torch_has_not_is_left_out_and_named_once(monkeypatch, capfd):
    monkeypatch.setattr(_tell, "_told", set())
    monkeypatch.setattr(compiled, "_OPTIONS", compiled._OPTIONS | {"renamed": True})
    for _ in range(2):
        plain, model = small.pair()
        small.same(model, plain, small.images(2))
        assert small.layers(model) and small.fallbacks(model) == []
    assert len(said := capfd.readouterr().err.splitlines()) == 1 and "torch._dynamo.config.renamed" in said[0]


def test_graphs_that_do_not_tell_of_their_tensors_fuse_nothing_and_say_so_once(monkeypatch, capfd):
    monkeypatch.setattr(_tell, "_told", set())
    made = groups.Found.__init__

    def without(self, graph, *args):
        for node in graph.nodes:
            node.meta.pop("example_value", None)
        made(self, graph, *args)

    monkeypatch.setattr(groups.Found, "__init__", without)
    for _ in range(2):
        plain, model = small.pair()
        small.same(model, plain, small.images(2))
        assert small.layers(model) == [] and small.fallbacks(model) == []
    assert len(said := capfd.readouterr().err.splitlines()) == 1 and "example_value" in said[0]
