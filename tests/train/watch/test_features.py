"""Features: their names, a user's network that is left as it was, Inception by torch-fidelity where it is at hand, else why not."""

import sys
import types

import pytest
import torch
from torch import nn

from ganfast.train.watch import features
from ganfast.train.watch.features import Features, features_of


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.drop, self.linear = nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Linear(12, 5)

    def forward(self, images):
        return self.linear(self.drop(self.norm(images)).mean(3).flatten(1))


def test_names():
    assert features_of(None).name == features_of("pixels8").name == "pixels8"
    assert features_of(Network()).name == "Network"
    assert features_of(features.pixels8).name == "pixels8"
    mine = Features("my features", Network())
    assert features_of(mine) is mine
    with pytest.raises(ValueError, match=r"name='pixel' is unknown; valid: pixels8, inception. Did you mean 'pixels8'"):
        features_of("pixel")
    for wrong in (3, Network):
        with pytest.raises(TypeError, match="wants a name, Features, or a function of images"):
            features_of(wrong)


def test_a_network_is_used_in_eval_mode_and_left_as_it_was():
    network, images = Network().train(), torch.randn(600, 3, 4, 4)
    network.drop.eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found = features_of(network)(images)
    assert [m.training for m in (network, network.norm, network.drop, network.linear)] == [True, True, False, True]
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not found.requires_grad
    torch.testing.assert_close(found, network.eval()(images))


def test_a_network_that_fails_gets_its_mode_back():
    network = Network().train()
    with pytest.raises(RuntimeError):
        features_of(network)(torch.randn(2, 4, 4, 4))
    assert network.training and network.norm.training


def test_many_images_come_in_parts():
    seen = []
    found = Features("mean", lambda images: seen.append(len(images)) or images.mean((2, 3)).half())(torch.randn(601, 3, 4, 4))
    assert seen == [250, 250, 101] and found.shape == (601, 3) and found.dtype == torch.float32


@pytest.mark.parametrize(
    ("function", "error", "words"),
    [
        (lambda x: x, ValueError, r"features f: the result has shape \[4, 3, 8, 8\], wants \[4, D\].*flatten"),
        (lambda x: x.mean((1, 2, 3)), ValueError, r"the result has shape \[4\], wants \[4, D\]"),
        (lambda x: x.flatten(1)[:2], ValueError, r"the result has shape \[2, 192\], wants \[4, D\]"),
        (lambda x: (x,), TypeError, "the result is a builtins.tuple"),
    ],
)
def test_what_is_no_features(function, error, words):
    with pytest.raises(error, match=words):
        Features("f", function)(torch.zeros(4, 3, 8, 8))


def test_points_have_no_pixels():
    with pytest.raises(ValueError, match=r"got shape \[9, 2\], wants images.*Evaluate's measure"):
        features_of(None)(torch.randn(9, 2))


class FakeInception(nn.Module):
    """The interface of torch-fidelity's network; it cannot be installed beside every torch."""

    def __init__(self, name, features_list, feature_extractor_weights_path=None):
        super().__init__()
        assert features_list == ["2048"]
        self.scale = nn.Parameter(torch.load(feature_extractor_weights_path, weights_only=True), requires_grad=False)

    def forward(self, x):
        assert x.dtype == torch.uint8 and x.shape[1] == 3
        return (x.float().mean((2, 3)) * self.scale,)


@pytest.fixture
def fidelity(monkeypatch, tmp_path):
    """A torch-fidelity, and a folder for its weights."""
    module = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3, module.URL_INCEPTION_V3 = FakeInception, "https://example.org/" + features._WEIGHTS
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", module)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints" / features._WEIGHTS


def test_inception_where_it_is_at_hand(fidelity):
    torch.save(torch.tensor(2.0), fidelity)
    grey = torch.tensor([-1.0, 0, 1])[:, None, None, None].expand(3, 1, 5, 5)
    found = features_of("inception")
    assert found.name == "inception"
    assert found(grey).tolist() == [[0.0] * 3, [256.0] * 3, [510.0] * 3]  # bytes 0, 128, 255, the one channel three times
    assert found(grey.expand(3, 3, 5, 5)).shape == (3, 3)
    with pytest.raises(ValueError, match="wants grey or RGB images"):
        found(torch.zeros(2, 4, 5, 5))


def test_inception_never_downloads(fidelity):
    with pytest.raises(ValueError, match=f"there are no weights at {fidelity}.*Nothing is downloaded unasked.*https://example.org"):
        features.inception()


@pytest.mark.parametrize(
    "error", [ImportError("No module named 'torch_fidelity'"), RuntimeError("operator torchvision::nms does not exist")]
)
def test_without_torch_fidelity(monkeypatch, error):
    class Finder:
        def find_spec(self, name, *_):
            if name.startswith("torch_fidelity"):
                raise error

    monkeypatch.setattr(sys, "meta_path", [Finder(), *sys.meta_path])
    with pytest.raises(ValueError, match=rf"torch-fidelity cannot be imported \({error}\). pip install torch-fidelity"):
        features.inception()
