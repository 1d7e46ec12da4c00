"""torch's tools that replace layers by their class: they keep the activation of ganfast's layers, or refuse."""

import copy
import pickle
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

import ganfast.nn as gnn

X = torch.randn(2, 3, 6, 6)
SYNCHRONISE = r"ganfast\.train\.distributed\.sync_batch_norm\.synchronise\(module\)"


def fused() -> nn.Sequential:
    return nn.Sequential(gnn.ConvAct2d(3, 4, 3, act="leaky_relu", alpha=0.2), gnn.BatchNormAct2d(4, act="relu")).eval()


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_convert_sync_batchnorm_refuses_by_name(dims):
    norm = getattr(gnn, f"BatchNormAct{dims}d")(4, act="relu")
    for module in (norm, nn.Sequential(nn.ReLU(), nn.Sequential(norm))):
        with pytest.raises(RuntimeError, match=rf"convert_sync_batchnorm: got a BatchNormAct{dims}d with act='relu'.*" + SYNCHRONISE):
            nn.SyncBatchNorm.convert_sync_batchnorm(module)
    assert norm.eps == 1e-5 and f"{norm}".endswith("act=relu)")


def test_a_linear_layer_is_converted_and_fused_as_torchs():
    norm, conv = gnn.BatchNormAct2d(4).eval(), gnn.UpsampleConvAct2d(3, 4).eval()
    with torch.no_grad():
        norm.running_mean.normal_()
    assert type(nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(norm))) is nn.SyncBatchNorm
    torch.testing.assert_close(fuse_conv_bn_eval(conv, norm)(X), norm(conv(X)), rtol=1e-4, atol=1e-4)


def test_fusing_convolutions_and_norms_refuses():
    conv, norm = fused()
    with pytest.raises(RuntimeError, match="fuse_conv_bn_eval: got a BatchNormAct2d with act='relu'"):
        fuse_conv_bn_eval(nn.Conv2d(3, 4, 3).eval(), norm)
    for layer, kind in ((conv, "ConvAct2d"), (gnn.ConvTransposeAct2d(3, 4, 3, act="tanh").eval(), "ConvTransposeAct2d")):
        with pytest.raises(RuntimeError, match=f"fuse_conv_bn_eval: got a {kind} with act="):
            fuse_conv_bn_eval(layer, nn.BatchNorm2d(4).eval(), transpose=isinstance(layer, nn.ConvTranspose2d))
    with pytest.raises(RuntimeError, match="fuse_linear_bn_eval: got a BatchNormAct1d with act='tanh'"):
        fuse_linear_bn_eval(nn.Linear(3, 4).eval(), gnn.BatchNormAct1d(4, act="tanh").eval())


@pytest.mark.filterwarnings("ignore")  # torch.jit is deprecated, says torch of its own tool
def test_to_mkldnn_refuses():
    from torch.utils.mkldnn import to_mkldnn

    for layer in (*fused(), gnn.UpsampleConvAct2d(3, 4)):
        with pytest.raises(RuntimeError, match=f"to_mkldnn: got a {type(layer).__name__} with (act|scale_factor)="):
            to_mkldnn(layer.eval())


@pytest.mark.filterwarnings("ignore")
def test_tools_that_work_in_place_or_go_by_the_exact_class_keep_it():
    net = fused()
    want = net(X)
    torch.testing.assert_close(nn.utils.convert_conv2d_weight_memory_format(copy.deepcopy(net), torch.channels_last)(X), want)
    with pytest.raises(AssertionError, match="did not find fuser method"):
        torch.ao.quantization.fuse_modules(copy.deepcopy(net), [["0", "1"]])
    prepared = copy.deepcopy(net)
    prepared.qconfig = torch.ao.quantization.default_qconfig
    torch.ao.quantization.prepare(prepared, inplace=True)
    assert type(prepared[0]) is gnn.ConvAct2d and prepared(X).min() >= 0
    without = torch.func.replace_all_batch_norm_modules_(copy.deepcopy(net))
    assert without[1].running_mean is None and without(X).min() >= 0
    torch.optim.swa_utils.update_bn([X, X], net.train())
    assert net(X).min() >= 0


def test_copies_pickles_and_calls_are_as_ever():
    net = fused()
    want = net(X)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), copy.copy(net)):
        assert torch.equal(other(X), want) and other[1].eps == net[1].eps and other[0].dilation == (1, 1)
    assert torch.equal(functional_call(net, dict(net.state_dict()), (X,)), want)
    net[1].eps = 0.1
    assert net[1].eps == 0.1 and vars(net[1])["eps"] == 0.1 and not torch.equal(net(X), want)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.equal(torch.compile(net, fullgraph=True, backend="eager")(X), net(X))


# Every way to copy a layer, at a script's top level and as all that a thread runs: C code has no frame, so few or none lie above.
SHALLOW = """
import _thread, copy, io, pickle, sys, time, torch
import ganfast.nn as gnn
layer, done, errors = gnn.ConvAct2d(2, 2, 1, act="relu"), [], []
assert pickle.loads(pickle.dumps(layer)).act == copy.deepcopy(layer).act == copy.copy(layer).act == "relu"
torch.save(layer, io.BytesIO())
sys.unraisablehook = errors.append
for calls in (map(pickle.dumps, [layer]), map(copy.deepcopy, [layer]), map(torch.save, [layer], [io.BytesIO()])):
    _thread.start_new_thread(done.extend, (calls,))
while len(done) + len(errors) < 3:
    time.sleep(0.01)
assert not errors, errors
"""


def test_copies_from_where_few_frames_lie_above():
    done = subprocess.run([sys.executable, "-c", SHALLOW], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
