"""The vocoder's networks: against a port and published formulas, as plain torch and accelerated; what they refuse."""

import copy
import math

import pytest
import scipy.signal
import torch
import torch.nn.functional as F

import ganfast
from ganfast.models import BigVGANGenerator, MultiPeriodDiscriminator, MultiResolutionDiscriminator
from ganfast.models.vocoder import Activation1d, Snake, kaiser_sinc
from tests.families.bigvgan import BigVGAN, SnakeBeta
from tests.families.bigvgan import Snake as PortedSnake
from tests.families.bigvgan_filters import filtered


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def moved(network):
    """With parameters of which none is at a value that hides others."""
    with torch.no_grad():
        for p in network.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return network


def test_the_filter_is_a_windowed_sinc():
    taps = kaiser_sinc(0.25, 0.3, 12)
    beta = scipy.signal.kaiser_beta(2.285 * 5 * math.pi * 1.2 + 7.95)
    want = torch.from_numpy(scipy.signal.firwin(12, 0.5, window=("kaiser", beta)))
    torch.testing.assert_close(taps, want.float(), rtol=1e-5, atol=1e-6)
    assert scipy.signal.kaiser_beta(30) != 0 and kaiser_sinc(0.25, 0.05, 12).sum() == pytest.approx(1)


def test_it_is_a_port_of_bigvgan_key_by_key():
    for act, ported in (("snake_beta", SnakeBeta), ("snake", PortedSnake)):
        ours = moved(BigVGANGenerator(8, 16, (4, 2), (8, 4), (3, 5), (1, 3), act))
        theirs = BigVGAN(8, 16, (4, 2), (8, 4), (3, 5), (1, 3), True, filtered(ported))
        theirs.load_state_dict(ours.state_dict())
        mel = torch.randn(2, 8, 6)
        torch.testing.assert_close(ours(mel), theirs(mel), rtol=1e-5, atol=1e-6)


def test_snake():
    layer, x = Snake(2), torch.randn(3, 2, 5)
    with torch.no_grad():
        layer.alpha[:], layer.beta[:] = torch.tensor([0.3, -0.2]), torch.tensor([0.1, 0.5])
    a, b = (p.exp().view(1, 2, 1) for p in (layer.alpha, layer.beta))
    torch.testing.assert_close(layer(x), x + (a * x).sin() ** 2 / b)
    assert [name for name, _ in Snake(2, "snake").named_parameters()] == ["alpha"]


def test_an_activation_between_filters_folds_little_back():
    """Of a tone at 0.35 of the sample rate the sine makes one at 0.7, which without filters is heard at 0.3."""
    layer, time = Activation1d(1, "snake"), torch.arange(400.0)
    tone = torch.sin(2 * math.pi * 0.35 * time)[None, None]
    at = lambda y: torch.fft.rfft(y[0, 0, 100:300] * torch.hann_window(200)).abs()[60].item()
    assert at(layer(tone)) < 0.3 * at(layer.act(tone))


@pytest.mark.parametrize(("rates", "kernels", "hop"), [((2,), (4,), 2), ((4, 2), (8, 4), 8), ((3, 2), (5, 2), 6)])
def test_lengths(rates, kernels, hop):
    network = BigVGANGenerator(4, 8, rates, kernels, (3,), (1,))
    wave = network(torch.randn(2, 4, 5))
    assert network.hop == hop and wave.shape == (2, 1, 5 * hop) and wave.abs().max() <= 1
    assert BigVGANGenerator(4, 8, rates, kernels, (3,), (1,), bias=False).conv_post.bias is None


def test_periods_see_columns_that_do_not_touch():
    network = MultiPeriodDiscriminator((3,), 2)
    wave = torch.randn(1, 1, 30)
    other = wave.clone()
    other[..., 1::3] += 1  # the second of three columns
    (logits, features), (changed, _) = network(wave)[0], network(other)[0]
    assert len(features) == 6 and features[0].shape == (1, 2, 4, 3) and features[-1].flatten(1).equal(logits)
    assert [one.equal(two) for one, two in zip(logits.view(-1, 3).T, changed.view(-1, 3).T)] == [True, False, True]
    assert network(torch.randn(1, 1, 31))[0][1][0].shape == (1, 2, 4, 3)  # mirrored at the end


def test_resolutions_see_magnitudes():
    network, wave = MultiResolutionDiscriminator(((64, 8, 32), (128, 16, 64)), 2), torch.randn(2, 1, 256)
    first = network.discriminators[0].magnitudes(wave)
    assert first.shape == (2, 1, 32, 33)
    framed = F.pad(wave, (28, 28), mode="reflect")[0, 0, 8 * 5 : 8 * 5 + 64]
    window = F.pad(torch.hann_window(32), (16, 16))
    torch.testing.assert_close(first[0, 0, 5], torch.fft.rfft(framed * window).abs(), rtol=1e-4, atol=1e-5)
    judged = network(wave)
    assert [features[1].shape for _, features in judged] == [(2, 2, 32, 17), (2, 2, 16, 33)]
    assert all(len(features) == 6 and logits.shape[0] == 2 for logits, features in judged)


def test_accelerate_finds_every_activation():
    network = BigVGANGenerator(8, 16, (4, 2), (8, 4), (3, 5), (1, 3))
    fast = ganfast.accelerate(copy.deepcopy(network))
    mel = torch.randn(2, 8, 6)
    torch.testing.assert_close(fast(mel), network(mel), rtol=1e-4, atol=1e-5)
    rows = [line for line in str(ganfast.explain(fast)).splitlines() if ".downsample.lowpass " in line and " filtered_act " in line]
    assert len(rows) == sum(isinstance(m, Activation1d) for m in network.modules()) == 17


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: BigVGANGenerator(8, 16, (4, 2), (8,)), r"kernels got 1 numbers, wants 2, one for each of rates"),
        (lambda: BigVGANGenerator(8, 18, (4, 2), (8, 4)), r"width got 18, wants a multiple of 4. Each of 2 steps halves it"),
        (lambda: BigVGANGenerator(8, 16, (4,), (7,)), r"kernels got 7 for the rate 4, wants 4 or an even number more"),
        (lambda: BigVGANGenerator(8, 16, (4,), (8,), (4,)), r"block_kernels got 4, wants odd numbers"),
        (lambda: BigVGANGenerator(8, 16, (4,), (8,), act="snakebeta"), r"act='snakebeta' is unknown.*Did you mean 'snake_beta'"),
        (lambda: BigVGANGenerator(0), r"mels got 0, wants whole numbers of at least 1"),
        (lambda: BigVGANGenerator(8, 16, ()), r"rates got \(\), wants whole numbers"),
        (lambda: BigVGANGenerator(8, 16, (4,), (8,))(torch.randn(2, 7, 5)), r"mel got \[2, 7, 5\], wants \[N, 8, T\]"),
        (lambda: MultiPeriodDiscriminator((2, 0)), r"periods got \(2, 0\), wants whole numbers of at least 1"),
        (lambda: MultiPeriodDiscriminator((2, 5), 2)(torch.randn(1, 1, 4)), r"wave got \[1, 1, 4\], wants \[N, 1, T\], T of at least 5"),
        (lambda: MultiResolutionDiscriminator(((64, 80, 32),)), r"resolutions got \(64, 80, 32\), wants \(points, hop, window\)"),
        (lambda: MultiResolutionDiscriminator(()), r"resolutions got \(\), wants"),
        (lambda: MultiResolutionDiscriminator(((64, 8, 32),), 2)(torch.randn(1, 2, 90)), r"wave got \[1, 2, 90\], wants \[N, 1, T\]"),
    ],
)
def test_what_cannot_be_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
