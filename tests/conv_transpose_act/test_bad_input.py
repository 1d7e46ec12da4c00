"""One error per mistake, and it names the op, the argument, what came and what is wanted."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

import ganfast.functional as GF
from ganfast.testing import Case, named


@dataclass(frozen=True)
class Bad(Case):
    """`changes` over a good call: x [2, 3, 4, 4], weight [3, 5, 4, 4], bias [5]; `says`: what the message must contain."""

    changes: dict
    says: tuple[str, ...]
    error: type[Exception] = ValueError


ones, empty = torch.ones, torch.empty
ROWS = named(
    Bad("channels", {"x": ones(2, 4, 4, 4)}, ("weight", "Cin=3", "x has 4 channels", "[Cin, Cout/groups, ...]")),
    Bad("weight_of_a_convolution", {"weight": ones(5, 3, 4, 4)}, ("weight", "Cin=5", "x has 3", "Conv2d weights are stored [Cout, Cin")),
    Bad("unbatched_channels", {"x": ones(4, 4, 4)}, ("weight", "Cin=3", "4 channels")),
    Bad("bias_length", {"bias": ones(3)}, ("bias", "(3,)", "(5,)", "output channels")),
    Bad("bias_rank", {"bias": ones(1, 5)}, ("bias", "(1, 5)", "(5,)")),
    Bad("bias_length_in_groups", {"weight": ones(3, 2, 4, 4), "groups": 3, "bias": ones(2)}, ("bias", "(2,)", "(6,)")),
    Bad("alpha_length", {"act": "prelu", "alpha": ones(3)}, ("alpha", "(3,)", "(5,)")),
    Bad("alpha_rank", {"act": "prelu", "alpha": ones(5, 1)}, ("alpha", "(5, 1)", "(5,)")),
    Bad("alpha_integer", {"act": "prelu", "alpha": ones(5, dtype=torch.int64)}, ("alpha", "torch.int64", "float32"), TypeError),
    Bad("alpha_without_use", {"act": "relu", "alpha": 0.2}, ("alpha", "act='relu'", "leaky_relu, prelu, elu, softplus, snake")),
    Bad("alpha_of_softplus", {"act": "softplus", "alpha": 0.0}, ("alpha", "0.0", "softplus wants a positive one")),
    Bad("alpha_string", {"act": "prelu", "alpha": "0.2"}, ("alpha", "builtins.str"), TypeError),
    Bad("alpha_numpy", {"act": "prelu", "alpha": np.ones(5)}, ("alpha", "numpy.ndarray", "torch.from_numpy"), TypeError),
    Bad("alpha_bool", {"act": "prelu", "alpha": True}, ("alpha", "bool"), TypeError),
    Bad("rank_of_weight", {"weight": ones(3, 5)}, ("weight", "2 dimensions", "3, 4 or 5")),
    Bad("rank_of_weight_six", {"weight": ones(3, 5, 1, 1, 1, 1)}, ("weight", "6 dimensions", "3, 4 or 5")),
    Bad("rank_of_x", {"x": ones(3, 4)}, ("x", "2 dimensions", "4", "3 (unbatched)")),
    Bad("rank_of_x_five", {"x": ones(2, 3, 4, 4, 4)}, ("x", "5 dimensions", "4", "3 (unbatched)")),
    Bad("mixed_dtypes", {"x": ones(2, 3, 4, 4).half()}, ("weight", "torch.float32", "x has torch.float16", "autocast"), TypeError),
    Bad("mixed_dtypes_bias", {"bias": ones(5).double()}, ("bias", "torch.float64", "x has torch.float32"), TypeError),
    Bad("integers", {"x": ones(2, 3, 4, 4, dtype=torch.uint8)}, ("x", "torch.uint8", "float32", "scaling"), TypeError),
    Bad("complex", {"x": ones(2, 3, 4, 4, dtype=torch.complex64)}, ("x", "torch.complex64", "float32"), TypeError),
    Bad("integer_weight", {"weight": ones(3, 5, 4, 4, dtype=torch.int32)}, ("weight", "torch.int32", "torch.float32"), TypeError),
    Bad("another_device", {"weight": ones(3, 5, 4, 4, device="meta")}, ("weight", "meta", "x on cpu")),
    Bad("another_device_bias", {"bias": ones(5, device="meta")}, ("bias", "meta", "x on cpu")),
    Bad("another_device_alpha", {"act": "prelu", "alpha": ones(5, device="meta")}, ("alpha", "meta", "x on cpu")),
    Bad("zero_stride", {"stride": 0}, ("stride", "0", "positive")),
    Bad("zero_stride_of_one_axis", {"stride": (2, 0)}, ("stride", "(2, 0)", "positive")),
    Bad("zero_dilation", {"dilation": 0}, ("dilation", "0", "positive")),
    Bad("negative_padding", {"padding": -1}, ("padding", "-1", "no negative")),
    Bad("negative_output_padding", {"output_padding": (0, -1)}, ("output_padding", "(0, -1)", "no negative")),
    Bad("float_stride", {"stride": 2.0}, ("stride", "2.0", "an int or 2"), TypeError),
    Bad("float_in_padding", {"padding": (1, 0.5)}, ("padding", "(1, 0.5)", "integers"), TypeError),
    Bad("string_padding", {"padding": "same"}, ("padding", "'same'", "an int or 2"), TypeError),
    Bad("bool_stride", {"stride": True}, ("stride", "True", "an int or 2"), TypeError),
    Bad("three_strides", {"stride": (1, 1, 1)}, ("stride", "3 entries", "wants 2", "spatial dimension")),
    Bad("no_strides", {"stride": ()}, ("stride", "0 entries", "wants 2")),
    Bad("no_output_pixels", {"padding": 5}, ("output", "no pixels", "(-3, -3)", "(4, 4)", "padding is too large")),
    Bad("no_output_pixels_at_all", {"padding": (0, 4), "weight": ones(3, 5, 4, 1)}, ("output", "no pixels", "(7, -4)")),
    Bad("no_input_pixels", {"x": empty(2, 3, 0, 4)}, ("x has no pixels", "(2, 3, 0, 4)")),
    Bad("empty_weight", {"weight": empty(3, 5, 0, 4)}, ("weight", "(3, 5, 0, 4)", "empty")),
    Bad("no_output_channels", {"weight": empty(3, 0, 4, 4), "bias": None}, ("weight", "(3, 0, 4, 4)", "empty")),
    Bad("no_channels", {"x": empty(2, 0, 4, 4), "weight": empty(0, 5, 4, 4)}, ("weight", "(0, 5, 4, 4)", "empty")),
    Bad("output_padding", {"output_padding": 1}, ("output_padding", "(1, 1)", "smaller than max(stride, dilation) = 1")),
    Bad("output_padding_of_one_axis", {"stride": (3, 2), "output_padding": 2}, ("output_padding", "(2, 2)", "= 2")),
    Bad("output_padding_dilated", {"dilation": 3, "output_padding": 3}, ("output_padding", "(3, 3)", "= 3")),
    Bad("groups", {"groups": 2}, ("groups", "2", "divisor of Cin=3")),
    Bad("zero_groups", {"groups": 0}, ("groups", "0", "positive int")),
    Bad("negative_groups", {"groups": -3}, ("groups", "-3", "positive int")),
    Bad("float_groups", {"groups": 1.0}, ("groups", "1.0", "positive int")),
    Bad("act", {"act": "leaky_rellu"}, ("act", "'leaky_rellu'", "Did you mean 'leaky_relu'?", "snake")),
    Bad("act_capital", {"act": "ReLU"}, ("act", "'ReLU'", "relu")),
    Bad("act_far", {"act": "xyz"}, ("act", "'xyz'", "linear, relu, leaky_relu")),
    Bad("act_module", {"act": torch.nn.ReLU()}, ("act", "ReLU()", "linear, relu")),
    Bad("act_none", {"act": None}, ("act", "None", "linear, relu")),
    Bad("backend", {"backend": "cudda"}, ("backend", "'cudda'", "Did you mean 'cuda'?", "reference")),
    Bad("backend_not_there", {"backend": "cuda"}, ("backend 'cuda' cannot run", "x is on cpu"), RuntimeError),
    Bad("backend_not_there_triton", {"backend": "triton"}, ("backend 'triton' cannot run", "x is on cpu"), RuntimeError),
    Bad("numpy_x", {"x": np.ones((2, 3, 4, 4), np.float32)}, ("x", "numpy.ndarray", "torch.Tensor", "torch.from_numpy"), TypeError),
    Bad("numpy_weight", {"weight": np.ones((3, 5, 4, 4), np.float32)}, ("weight", "numpy.ndarray", "torch.from_numpy"), TypeError),
    Bad("numpy_bias", {"bias": np.ones(5, np.float32)}, ("bias", "numpy.ndarray", "torch.from_numpy"), TypeError),
    Bad("list_x", {"x": [1.0]}, ("x", "builtins.list", "torch.Tensor"), TypeError),
)


def call(changes: dict):
    given = {"x": torch.ones(2, 3, 4, 4), "weight": torch.ones(3, 5, 4, 4), "bias": torch.ones(5), **changes}
    return GF.conv_transpose_act(given.pop("x"), given.pop("weight"), given.pop("bias"), **given)


def test_the_good_call_is_good():
    assert call({}).shape == (2, 5, 7, 7)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_bad_input(row, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(row.error) as raised:
        call(row.changes)
    message = str(raised.value)
    assert type(raised.value) is row.error and message.startswith("conv_transpose_act: ") and message[-1] in ".?"
    missing = [words for words in row.says if words not in message]
    assert not missing, f"{missing} not in: {message}"


@pytest.mark.parametrize("backend", ["reference", "torch", "cpu"])
def test_a_named_backend_refuses_the_same(backend):
    for row in ROWS:
        if "backend" not in row.changes:
            with pytest.raises(row.error):
                call({**row.changes, "backend": backend})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"padding": "sane"}, "Did you mean 'same'"),
        ({"padding": "same", "stride": 2}, r"padding is 'same', stride \(2, 2\)"),
        ({"stride": 0}, "stride is 0, wants positive"),
        ({"padding": -1}, "padding is -1, wants no negative"),
        ({"dilation": 4}, r"no pixels: \(-3, -3\)"),
        ({"groups": 5}, "groups is 5, wants a divisor of Cout=6"),
        ({"act": "rely"}, "Did you mean 'relu'"),
        ({"bias": torch.randn(4)}, r"bias has shape \(4,\), wants \(6,\)"),
        ({"bias": torch.randn(6).bfloat16()}, "bias has dtype torch.bfloat16"),
        ({"backend": "triton"}, "triton"),
    ],
)  # fmt: skip
def test_bad_options_of_an_ordinary_convolution(options, words):
    with pytest.raises((TypeError, ValueError, RuntimeError), match=words):
        GF.conv_act(torch.randn(1, 4, 5, 5), torch.randn(6, 4, 3, 3), **options)


def test_bad_tensors_of_an_ordinary_convolution():
    weight = torch.randn(6, 4, 3, 3)
    with pytest.raises(ValueError, match=r"weight expects Cin=4, x has 6 channels. Transposed weights are stored"):
        GF.conv_act(torch.randn(1, 6, 5, 5), weight)
    with pytest.raises(TypeError, match=r"x is a builtins.list"):
        GF.conv_act([1.0], weight)
    with pytest.raises(ValueError, match="x has 5 dimensions"):
        GF.conv_act(torch.randn(1, 1, 4, 5, 5), weight)
    with pytest.raises(TypeError, match=r"weight has dtype torch.float32, x has torch.float64"):
        GF.conv_act(torch.randn(1, 4, 5, 5).double(), weight)
    with pytest.raises(ValueError, match="x has no pixels"):
        GF.conv_act(torch.randn(1, 4, 0, 5), weight)
