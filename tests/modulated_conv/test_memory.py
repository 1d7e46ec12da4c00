"""The passes called directly, with vectors and weights that lie as autograd may hand them on, and what the compiled ones refuse."""

import pytest
import torch

from ganfast.ops.modulated_conv import kernels, reference

BACKENDS = ["reference", "torch", "cpu"]
NUMBERS = ("silu", 0.0, 1.3, 1.5, False)
close = torch.testing.assert_close


def draw(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def apart(t):
    """The same numbers with others between them, the last dimension outermost."""
    return torch.stack([t, t + 9], -1).movedim(-2, 0).contiguous().movedim(0, -2)[..., 0]


def close_all(found, wanted):
    for got, want in zip(found, wanted, strict=True):
        close(got, want.to(got.dtype), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_vectors_that_lie_apart(backend):
    x, g, style, noise, bias = draw(2, 5, 3, 4), draw(2, 5, 3, 4, seed=1), draw(2, 5, seed=2), draw(2, 1, 3, 4, seed=3), draw(5, seed=4)
    apart_ones = [apart(v) for v in (style, noise, bias)]
    assert not any(v.is_contiguous() for v in apart_ones)
    close(kernels.scale_fwd(x, apart(style), False, backend), reference.scaled(x, style))
    close_all(kernels.scale_bwd(g, x, apart(style), False, backend), reference.scale_gradients(g, x, style))
    want = reference.finished(x, style, noise, bias, None, *NUMBERS[:4])
    close(kernels.finish_fwd(x, *apart_ones, None, *NUMBERS, backend), want)
    close(kernels.finish_fwd_(x.clone(), *apart_ones, None, *NUMBERS, backend), want)
    found = kernels.finish_bwd(g, x, *apart_ones, None, *NUMBERS, backend)
    close_all(found[:4], reference.finish_gradients(g, x, style, noise, bias, None, *NUMBERS[:4])[:4])


@pytest.mark.parametrize("form", [(False, False), (True, False), (False, True), (True, True)], ids=["kept", "transposed", "turned", "both"])
@pytest.mark.parametrize("scaled", [False, True], ids=["raw", "scaled"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_form_of_a_channels_last_weight(backend, scaled, form):
    """With either gradient alone and with both, whose memory lies apart."""
    weight, gq = draw(4, 5, 3, 2), draw(4, 5, seed=1)
    scale = draw(4, seed=2).abs() + 0.1 if scaled else None
    last = weight.contiguous(memory_format=torch.channels_last)
    want_w, want_q = reference.prepared(weight, scale, *form)
    w, q = kernels.prepare_fwd(last, None if scale is None else apart(scale), *form, torch.float32, backend)
    close_all((w if w.numel() else last, q), (want_w, want_q))
    gw = draw(*want_w.shape, seed=3)
    for given in ((gw, gq), (gw, None), (None, gq)):
        far = [None if v is None else apart(v) for v in (*given, scale)]
        got = kernels.prepare_bwd(last, far[0], far[1], far[2], *form, backend)
        close(got, reference.prepare_gradient(*given, weight, scale, *form), rtol=1e-4, atol=1e-5)
        assert got.stride() == last.stride()


@pytest.mark.parametrize("backend", ["cpu"])
def test_the_compiled_passes_refuse_what_lies_apart(backend):
    ops = torch.ops.ganfast
    x, style, noise, weight, vector = draw(2, 5, 3, 4), draw(2, 5), draw(2, 1, 3, 4), draw(4, 5, 3, 3), draw(4)
    last, q = weight.contiguous(memory_format=torch.channels_last), draw(4, 5)
    finish = lambda *vectors: lambda: ops.modulated_conv_finish_fwd_native(x, *vectors, "linear", 0.0, 1.0, None, False)
    refused = {
        "style": lambda: ops.modulated_conv_scale_fwd_native(x, apart(style), False),
        "style ": lambda: ops.modulated_conv_scale_bwd_native(x, x, apart(style), False),
        "d": finish(apart(style), None, None, None),
        "noise": finish(None, apart(noise), None, None),
        "bias": finish(None, None, apart(style[0]), None),
        "scale": lambda: ops.modulated_conv_prepare_fwd_native(weight, apart(vector), False, False, torch.float32),
        "gq": lambda: ops.modulated_conv_prepare_bwd_native(weight, None, apart(q), None, False, False),
        "a weight of another form": lambda: ops.modulated_conv_prepare_fwd_native(last, vector, False, False, torch.float32),
        "a weight of another form ": lambda: ops.modulated_conv_prepare_bwd_native(last, None, q, vector, False, False),
    }  # fmt: skip
    for name, call in refused.items():
        with pytest.raises(RuntimeError, match=f"modulated_conv: {name.strip()} has strides .* wants contiguous memory"):
            call()


@pytest.mark.parametrize("fmt", [torch.contiguous_format, torch.channels_last], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("backend", ["cpu"])
def test_the_last_passes_backward_without_noise(backend, fmt):
    """Several tiles an image: what would be the noise's gradient has a tile's room only."""
    t, gy = (draw(2, 9, 67, 71, seed=i).contiguous(memory_format=fmt) for i in (0, 1))
    vectors = draw(2, 9, seed=2), None, draw(9, seed=3), None
    gt, gd, gnoise, gbias, galpha = kernels.finish_bwd(gy, t, *vectors, *NUMBERS[:4], fmt == torch.channels_last, backend)
    exact = [None if v is None else v.double() for v in (gy, t, *vectors)]
    want = reference.finish_gradients(*exact, *NUMBERS[:4])
    for got, w in zip((gt, gd, gbias), (want[0], want[1], want[3]), strict=True):
        close(got.double(), w, rtol=1e-4, atol=1e-3)
    assert gnoise.numel() == galpha.numel() == 0
