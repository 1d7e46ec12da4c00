"""What autoencoders give, which layer is their last, and how unlike two images are."""

from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

import ganfast
from ganfast.train.reconstruction import perceptual
from ganfast.train.reconstruction.given import given_by, kl, last_weight, named_weight, reconstructed


def test_the_divergence_is_the_formula():
    mean, logvar = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    of = torch.distributions.Normal(mean, (logvar / 2).exp()), torch.distributions.Normal(0.0, 1.0)
    wanted = torch.distributions.kl_divergence(*of).sum((1, 2, 3)).mean()
    torch.testing.assert_close(kl(mean, logvar), wanted)
    torch.testing.assert_close(kl(mean.bfloat16(), logvar.bfloat16()), wanted, rtol=0.01, atol=0)
    assert kl(torch.zeros(2, 3), torch.zeros(2, 3)) == 0


class Output(OrderedDict):
    """A library's own: its parts are attributes too."""

    __getattr__ = OrderedDict.__getitem__


Y, MEAN, LOGVAR, LOSS = torch.rand(2, 1, 4, 4), torch.rand(2, 3), torch.rand(2, 3), torch.tensor(0.3)
KL = {"kl": kl(MEAN, LOGVAR)}


@pytest.mark.parametrize(
    ("output", "losses"),
    [
        (Y, {}),
        ((Y,), {}),
        ([Y, MEAN, LOGVAR], KL),
        ((Y, LOSS), {"codebook": LOSS}),
        ((Y, LOSS[None], (1, torch.arange(3))), {"codebook": LOSS}),
        ((Y, SimpleNamespace(mean=MEAN, logvar=LOGVAR)), KL),
        ((Y, {"kl": LOSS, "entropy": 2 * LOSS}), {"kl": LOSS, "entropy": 2 * LOSS}),
        (SimpleNamespace(sample=Y), {}),
        ({"sample": Y, "commit_loss": LOSS}, {"codebook": LOSS}),
        (Output(sample=Y), {}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_forms_of_outputs(output, losses):
    if isinstance(output, Output):
        output = SimpleNamespace(sample=Y, commit_loss=None)
    made, found = given_by(output)
    assert made is Y and found.keys() == losses.keys()
    assert all(found[name].dim() == 0 and torch.equal(found[name], losses[name]) for name in losses)


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("an image", "gives a str; wants the reconstruction"),
        ((Y, Y, MEAN, LOGVAR), r"gives a tensor \[2, 1, 4, 4\], a tensor \[2, 1, 4, 4\], a tensor \[2, 3\]"),
        ((Y, MEAN, LOGVAR[:1]), "gives a tensor"),
        ((), "gives ; wants"),
        (torch.distributions.Normal(0.0, 1.0), "gives a Normal"),
        ((Y, {"kl": MEAN}), r"the autoencoder's loss 'kl' is a tensor \[2, 3\], wants a 0-d tensor"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_outputs_are_refused(output, words):
    with pytest.raises(TypeError, match=words):
        given_by(output)


class Posterior:
    def __init__(self, mean):
        self.mean, self.logvar = mean, torch.zeros_like(mean)

    def sample(self):
        return self.mean + 1

    def mode(self):
        return self.mean


class InParts(nn.Module):
    """As diffusers writes them."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(1, 1, 1)

    def encode(self, x):
        return SimpleNamespace(latent_dist=Posterior(x))

    def decode(self, z):
        return SimpleNamespace(sample=self.layer(z))

    def forward(self, sample, sample_posterior=False, return_dict=True):
        raise AssertionError("what it gives is without its posterior")


def test_one_that_hides_its_posterior_is_called_in_its_parts():
    network, x = InParts(), torch.rand(2, 1, 4, 4)
    for module in (network, torch.compile(network, backend="eager")):
        made, losses = reconstructed(module, x)
        assert torch.equal(made, network.layer(x + 1)) and torch.equal(losses["kl"], kl(x, torch.zeros_like(x)))
        made, _ = reconstructed(module.eval(), x)
        assert torch.equal(made, network.layer(x))
        module.train()


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.scale, self.last = nn.Conv2d(1, 4, 3, 1, 1), nn.Parameter(torch.ones(1)), nn.Conv2d(4, 1, 3, 1, 1)

    def forward(self, x):
        return x + self.scale * self.last(F.silu(self.first(x)))


LASTS = {
    "plain": (lambda: nn.Sequential(nn.Conv2d(1, 4, 3, 1, 1), nn.SiLU(), nn.Conv2d(4, 1, 3, 1, 1)), "2.weight"),
    "unused after": (lambda: nn.Sequential(OrderedDict(b=nn.Conv2d(1, 1, 1), a=nn.Conv2d(1, 1, 1))), "a.weight"),
    "tanh": (lambda: nn.Sequential(nn.Conv2d(1, 4, 3, 1, 1), nn.ConvTranspose2d(4, 1, 3, 1, 1), nn.BatchNorm2d(1), nn.Tanh()), "1.weight"),
    "residual": (Residual, "last.weight"),
    "weight norm": (lambda: nn.Sequential(nn.Conv2d(1, 4, 1), parametrizations.weight_norm(nn.Conv2d(4, 1, 1))), "original1"),
    "spectral norm": (lambda: nn.Sequential(nn.Conv2d(1, 4, 1), nn.SiLU(), parametrizations.spectral_norm(nn.Conv2d(4, 1, 1))), "original"),
    "linear": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.Unflatten(1, (1, 4, 4))), "1.weight"),
}


@pytest.mark.parametrize("name", LASTS)
def test_the_last_layer_is_found_in_the_graph(name):
    build, wanted = LASTS[name]
    network, x = build(), torch.rand(2, 1, 4, 4)
    names = {p: name for name, p in network.named_parameters()}
    assert names[last_weight(network(x), network)].endswith(wanted)
    if name in ("plain", "tanh"):
        ganfast.accelerate(network)
        assert names[last_weight(network(x), network)].endswith(wanted)


NORMS = {"weight norm": (parametrizations.weight_norm, "original1"), "spectral norm": (parametrizations.spectral_norm, "original")}


@pytest.mark.parametrize("norm", NORMS)
def test_the_last_layer_is_found_among_weights_that_are_made_together(norm):
    make, wanted = NORMS[norm]
    network = nn.Sequential(*(layer for _ in range(3) for layer in (make(nn.Conv2d(2, 2, 3, 1, 1)), nn.SiLU())))
    names = {p: name for name, p in network.named_parameters()}
    with ganfast.use_backend("cpu"):
        y = ganfast.accelerate(network)(torch.rand(2, 2, 4, 4))
        assert ganfast.explain(network).weights
        assert names[last_weight(y, network)] == f"4.parametrizations.weight.{wanted}"


def test_a_last_layer_that_is_not_one():
    a, b = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)
    both, x = nn.ModuleDict({"a": a, "b": b}), torch.rand(2, 1, 4, 4)
    with pytest.raises(ValueError, match=r"looks for the autoencoder's last layer, and a.weight, b.weight are as near. Name one"):
        last_weight(a(x) + b(x), both)
    with pytest.raises(ValueError, match="finds no weight of the autoencoder"):
        last_weight(a(x), b)
    with pytest.raises(ValueError, match="finds no weight of the autoencoder"):
        last_weight(x, a)
    assert all(named_weight(given, both) is a.weight for given in ("a", "a.weight", a, a.weight))
    with pytest.raises(ValueError, match="last_layer='c' is unknown; valid: a, b, "):
        named_weight("c", both)
    for given in (nn.Conv2d(1, 1, 1), b.weight, 3):
        with pytest.raises(TypeError, match="none of the autoencoder's; wants a layer of the autoencoder"):
            named_weight(given, a)
    with pytest.raises(ValueError, match="a SiLU, which has no weight"):
        named_weight("1", nn.Sequential(a, nn.SiLU()))
    with pytest.raises(ValueError, match="which does not learn"):
        named_weight("0", nn.Sequential(b.requires_grad_(False)))


def test_the_laplacian_is_that_of_two_pyramids():
    one, other = torch.rand(2, 3, 16, 24), torch.rand(2, 3, 16, 24)
    kernel = torch.tensor([1.0, 4, 6, 4, 1]) / 16
    kernel = (kernel[:, None] * kernel).expand(3, 1, 5, 5)

    def pyramid(x):
        bands = []
        while min(x.shape[2:]) >= 4 and len(bands) < 4:
            smooth = F.conv2d(F.pad(x, (2,) * 4, mode="replicate"), kernel, groups=3)
            bands, x = [*bands, x - smooth], smooth[:, :, ::2, ::2]
        return [*bands, x]

    wanted = sum((a - b).abs().mean() for a, b in zip(pyramid(one), pyramid(other), strict=True))
    assert len(pyramid(one)) == 4 and perceptual.laplacian(one, one) == 0
    torch.testing.assert_close(perceptual.laplacian(one, other), wanted)
    torch.testing.assert_close(perceptual.laplacian(one[..., :3, :3], other[..., :3, :3]), F.l1_loss(one[..., :3, :3], other[..., :3, :3]))
    with pytest.raises(ValueError, match=r'perceptual="laplacian" got shape \[2, 3, 16\], wants images'):
        perceptual.laplacian(one[..., 0], other[..., 0])


def test_random_features_are_the_same_everywhere_and_follow_what_is_seen():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    features = perceptual.RandomFeatures(1)
    torch.manual_seed(4)
    x = torch.rand(4, 1, 16, 16)
    assert all(torch.equal(a, b) for a, b in zip(features(x), perceptual.RandomFeatures(1)(x), strict=True))
    assert [list(f.shape) for f in features(x)] == [[4, 16, 16, 16], [4, 32, 8, 8], [4, 64, 4, 4], [4, 64, 2, 2]]
    loss = perceptual.loss_of("random", 1, torch.device("cpu"))
    near, far = loss(x + 0.02 * torch.randn_like(x), x), loss(F.avg_pool2d(x, 3, 1, 1), x)
    assert loss(x, x) == 0 and 0 < near < far
    assert before.numel() and features(x[..., :1, :1])[-1].shape == (4, 64, 1, 1)


def test_features_are_compared_by_their_directions():
    one, other = torch.rand(2, 3, 4, 4), torch.rand(2, 3, 4, 4, requires_grad=True)
    network = nn.Sequential(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5), nn.Dropout()).train()
    loss = perceptual.loss_of(network, 3, torch.device("cpu"))
    assert not network.training and not any(p.requires_grad for p in network.parameters())
    wanted = (F.normalize(network(one), dim=1) - F.normalize(network(other), dim=1)).square().sum(1).mean()
    torch.testing.assert_close(loss(other, one), wanted)
    torch.testing.assert_close(perceptual.loss_of(lambda x: [network(x), network(x)], 3, None)(other, one), 2 * wanted)
    blank = perceptual.loss_of(lambda x: 0 * x, 3, None)(other, one)
    blank.backward()
    assert blank == 0 and other.grad.isfinite().all()
    each = lambda a, b: (a - b).abs().flatten(1).mean(1)
    torch.testing.assert_close(perceptual.loss_of(each, 3, None)(one, other), (one - other).abs().mean())
    with pytest.raises(TypeError, match=r"perceptual gives a tensor \[2\] for 2 images, wants features"):
        perceptual.loss_of(lambda x: x.flatten(1).mean(1), 3, None)(one, other)
    with pytest.raises(TypeError, match="perceptual gives a float, wants a tensor"):
        perceptual.loss_of(lambda a, b: 1.0, 3, None)(one, other)
