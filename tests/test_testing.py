"""The oracle passes plain torch and rejects planted errors."""

import pytest
import torch

from ganfast import testing
from ganfast.testing import Case, assert_close_to_reference, check, nan_filled

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def result(dtype):
    """(another order of summation, plain torch, float64 reference) of one product with a sum of 96 terms."""
    a, b = torch.randn(24, 96).to(dtype), torch.randn(96, 40).to(dtype)
    other = (a[:, :48] @ b[:48]).float() + (a[:, 48:] @ b[48:]).float()
    return other.to(dtype), a @ b, a.double() @ b.double()


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_honest_result_passes(dtype):
    got, plain, reference = result(dtype)
    report = check("y", got, plain, reference)
    assert report.passed and 0 < report.error <= report.allowed, report
    assert check("y", plain, plain, reference).passed


def test_float64_is_judged_against_itself():
    reference = torch.randn(50, dtype=torch.float64)
    assert check("y", reference * (1 + 2e-16), reference, reference).passed
    assert not check("y", reference * (1 + 1e-14), reference, reference).passed


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [0, 1])
def test_a_shift_by_one_is_rejected(dtype, dim):
    got, plain, reference = result(dtype)
    assert not check("y", got.roll(1, dim), plain, reference).passed


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wrong", [0.0, float("nan"), float("inf")])
def test_one_wrong_element_is_rejected_and_found(dtype, wrong):
    got, plain, reference = result(dtype)
    got[3, 5] = wrong
    report = check("gweight", got, plain, reference)
    assert not report.passed and "gweight" in str(report) and "[3, 5]" in str(report) and "1 of 960" in str(report)


def test_a_scale_error_of_one_percent_is_rejected_in_float32():
    got, plain, reference = result(torch.float32)
    assert not check("y", got * 1.01, plain, reference).passed


def test_a_bfloat16_result_dressed_as_float32_is_rejected():
    got, plain, reference = result(torch.float32)
    assert not check("y", got.bfloat16().float(), plain, reference).passed
    assert not check("y", got.half().float(), plain, reference).passed


def test_wrong_dtype_and_shape_are_rejected():
    got, plain, reference = result(torch.float32)
    assert "dtype torch.float64" in str(check("y", got.double(), plain, reference))
    assert "shape (40, 24)" in str(check("y", got.t(), plain, reference))


def test_nan_and_infinities_pass_only_where_the_reference_has_them():
    reference = torch.tensor([1.0, float("nan"), float("inf"), -float("inf")], dtype=torch.float64)
    got = reference.float()
    assert check("y", got, got, reference).passed
    for wrong in (0.0, float("nan"), -float("inf")):
        other = got.clone()
        other[2] = wrong
        assert not check("y", other, got, reference).passed
    other = got.clone()
    other[1] = 0.0
    assert not check("y", other, got, reference).passed


def test_where_the_reference_is_zero_nothing_else_passes():
    zero = torch.zeros(3)
    assert check("y", zero, zero, zero.double()).passed
    assert not check("y", zero + 1e-30, zero, zero.double()).passed


def test_plain_torch_failing_lends_no_budget():
    got, plain, reference = result(torch.float32)
    plain[0, 0] = float("nan")
    assert check("y", got, plain, reference).passed
    assert not check("y", got * 1.01, plain, reference).passed


def test_the_reference_must_be_float64():
    got, plain, reference = result(torch.float32)
    with pytest.raises(TypeError, match="float64"):
        check("y", got, plain, reference.float())


def test_the_assertion_names_every_tensor_that_fails():
    got, plain, reference = result(torch.float32)
    with pytest.raises(AssertionError) as raised:
        assert_close_to_reference(("y", got, plain, reference), ("gx", got + 1, plain, reference), ("gbias", got * 2, plain, reference))
    lines = str(raised.value).splitlines()
    assert [line.split(":")[0] for line in lines] == ["gx", "gbias"]
    assert all("allowed" in line and "plain torch" in line for line in lines)


def test_rows_of_one_name_are_refused():
    assert [str(row) for row in testing.named(Case("a"), Case("b"))] == ["a", "b"]
    with pytest.raises(ValueError, match="same name: a"):
        testing.named(Case("a"), Case("b"), Case("a"))


def test_fresh_tensors_are_nan_filled_in_python_and_in_cpp():
    fill_before = torch.utils.deterministic.fill_uninitialized_memory
    with nan_filled():
        assert torch.empty(9).isnan().all() and torch.empty(2, 3, dtype=torch.bfloat16).isnan().all()
        # aten's own functions are C++ that calls at::empty, as csrc does
        assert torch.ops.aten.empty_like(torch.ones(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)).isnan().all()
        assert torch.ops.aten.resize_(torch.ones(2), [4])[2:].isnan().all()
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory == fill_before
    with pytest.raises(KeyError), nan_filled():
        raise KeyError
    assert not torch.are_deterministic_algorithms_enabled()
