"""tools/triton_check.py has to reject what it is there to reject: planted kernels with the faults that cost a GEMM its speed."""

import sys
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton")
import triton.language as tl  # noqa: E402
from triton.tools.tensor_descriptor import TensorDescriptor  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))
import triton_check  # noqa: E402

from tests import triton_aot  # noqa: E402


@triton.jit
def planted_kernel(x, weight, y, taps, c, PLAIN_ORDER: tl.constexpr, NESTED: tl.constexpr, BLOCK: tl.constexpr, BLOCK_K: tl.constexpr):
    """A convolution along one axis, with the faults that conv_transpose_act_fwd_tma_kernel avoids."""
    acc = tl.zeros((BLOCK, BLOCK), tl.float32)
    if NESTED:
        for tap in range(taps):
            for k in range(0, c, BLOCK_K):
                a = x.load([tap, 0, k]).reshape(BLOCK, BLOCK_K)
                acc = tl.dot(tl.trans(weight.load([k, tap * BLOCK])), tl.trans(a), acc)
    else:
        for step in range(taps * (c // BLOCK_K)):
            tap = step // (c // BLOCK_K)
            k = step % (c // BLOCK_K) * BLOCK_K
            a = x.load([tap, 0, k]).reshape(BLOCK, BLOCK_K)
            b = weight.load([k, tap * BLOCK])
            if PLAIN_ORDER:
                acc = tl.dot(a, b, acc)
            else:
                acc = tl.dot(tl.trans(b), tl.trans(a), acc)
    y.store([0, 0], acc.to(y.dtype))


def planted(plain_order=False, nested=False):
    def describe(shape, box):
        return TensorDescriptor(torch.empty(shape, dtype=torch.bfloat16, device="meta"), shape, [*shape[1:], 1][: len(shape)], box)

    x = describe([64, 128, 512], [2, 64, 64])
    x.strides = [128 * 512, 512, 1]
    y, weight = describe([128, 128], [128, 128]), describe([512, 4 * 128], [64, 128])
    (launch,) = triton_aot.record(
        lambda: planted_kernel[(1,)](x, weight, y, 4, 512, plain_order, nested, 128, 64, num_warps=8, num_stages=3)
    )
    return launch


FAULTS = {"none": ({}, None), "order": ({"plain_order": True}, "ttg.local_load"), "nested": ({"nested": True}, "2 K loops")}


@pytest.mark.parametrize("name", FAULTS)
def test_rejects(name, monkeypatch, capsys):
    kwargs, complaint = FAULTS[name]
    monkeypatch.setattr(triton_check, "offers", lambda layer, arch: [("tma-planted", planted(**kwargs))])
    code = triton_check.main(["--jobs", "1", "--arch", "90", "--layer", "dcgan 8x8"])
    text = capsys.readouterr().out
    assert code == (0 if complaint is None else 1), text
    assert complaint is None or complaint in text
    assert "tma-planted" in text


def test_rejects_a_layer_that_the_copy_engine_is_not_offered(monkeypatch, capsys):
    plain = triton_check.offers
    monkeypatch.setattr(triton_check, "offers", lambda layer, arch: plain(layer, arch)[-1:])
    assert triton_check.main(["--jobs", "1", "--arch", "90", "--layer", "dcgan 8x8"]) == 1
    assert "not offered first" in capsys.readouterr().out
    monkeypatch.setattr(triton_check, "offers", lambda layer, arch: [])
    assert triton_check.main(["--jobs", "1", "--arch", "90", "--layer", "dcgan 8x8"]) == 1
    assert "nothing is offered" in capsys.readouterr().out


def test_says_what_is_missing(monkeypatch, capsys):
    assert triton_check.main(["--triton", "0.1"]) == 2
    assert "triton 0.1 was asked for" in capsys.readouterr().out
    monkeypatch.setattr(triton_aot, "CUOBJDUMP", "/nonexistent/cuobjdump")
    assert triton_check.main([]) == 2
    assert "no cuobjdump at /nonexistent" in capsys.readouterr().out


TTGIR = """
module attributes {"ttg.num-warps" = 8 : i32} {
  tt.func public @k(%x: !tt.ptr<f32> {tt.divisibility = 16 : i32} loc("{"(#loc))) attributes {noinline = false} {
    %a = scf.for %i = %c0 to %c1 step %c2 iter_args(%z = %0) -> (i32)  : i32 {
      %b = ttg.local_load %m : !ttg.memdesc<1xf32>
      scf.yield %b : i32
    } {tt.num_stages = 3 : i32}
    %c = scf.while (%z = %0) : (i32) -> i32 {
      scf.condition(%p) %z : i32
    } do {
      %d = scf.for %i = %c0 to %c1 step %c2 iter_args(%z = %0) -> (i32)  : i32 {
        %e = ttg.local_load %m : !ttg.memdesc<1xf32>
        %l = tt.load %p, %q : tensor<1x!tt.ptr<f32>>
        %f = ttng.warp_group_dot %e, %m, %z : i32
        scf.yield %f : i32
      }
      scf.yield %d : i32
    }
    %g = ttg.local_load %m : !ttg.memdesc<1xf32>
    tt.return
  }
}
"""


def test_counts_only_loops_with_a_product():
    assert triton_aot.k_loops(TTGIR) == (2, 1, 1)
    assert triton_aot.k_loops(TTGIR.replace("ttng.warp_group_dot", "ttng.tc_gen5_mma")) == (2, 1, 1)
    assert triton_aot.k_loops(TTGIR.replace("ttng.warp_group_dot", "arith.addf")) == (0, 0, 0)
