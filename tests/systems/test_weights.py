"""Files of weights that are none, in words; where a run was begun with some, it goes on without them."""

import pytest
import torch
from torch import nn

from ganfast.models.cyclegan import PatchDiscriminator, load_published
from ganfast.models.pix2pix import PairDiscriminator
from ganfast.systems.sources.weights import state_dict

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.mark.parametrize(
    ("held", "words"),
    [
        (b"\n<!DOCTYPE html><html>", "it is a web page, download the file itself"),
        (LFS, "it is a pointer of git-lfs"),
        (b"", "it is empty"),
        (b"x", "torch wrote no such file, it begins with b'x'"),
        (b"\x80\x02nothing", "it is cut off, or holds more than tensors"),
    ],
)
def test_a_file_that_is_no_state_dict(tmp_path, held, words):
    (tmp_path / "w.pth").write_bytes(held)
    with pytest.raises(ValueError, match=f"pix2pix: .*w.pth cannot be read as a state dict: {words}") as told:
        state_dict("pix2pix", tmp_path / "w.pth")
    assert "weights_only" not in str(told.value)


def test_what_holds_something_else(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="cannot be read as a state dict: it holds a list"):
        state_dict("pix2pix", tmp_path / "list.pth")
    torch.save(nn.Linear(1, 1), tmp_path / "network.pth")
    with pytest.raises(ValueError, match=r"holds more than tensors; wants what torch\.save"):
        state_dict("pix2pix", tmp_path / "network.pth")
    with pytest.raises(ValueError, match="cyclegan: the weights' file holds 'epoch', which is no tensor"):
        load_published(PatchDiscriminator(width=2), {"epoch": 3})


def test_a_path_may_begin_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    torch.save({"a": torch.ones(1)}, tmp_path / "w.pth")
    assert state_dict("pix2pix", "~/w.pth")["a"] == 1


def test_without_a_norm_the_discriminators_convolutions_have_no_bias():
    """As in that project, where those before an instance norm alone have one; the first and the last always do."""
    biases = lambda norm: [key for key in PairDiscriminator(6, 4, 2, norm).state_dict() if key.endswith("bias")]
    assert biases("none") == ["model.0.bias", "model.8.bias"]
    assert biases("instance") == ["model.0.bias", "model.2.bias", "model.5.bias", "model.8.bias"]
