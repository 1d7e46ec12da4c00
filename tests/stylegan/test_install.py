"""Who sees ganfast's operations under the official names: before and after an import, beside other modules, with no package at all."""

import importlib
import subprocess
import sys

import pytest
import torch

import ganfast.stylegan
from tests.stylegan.conftest import STANDIN

NAMES = ["bias_act", "conv2d_gradfix", "conv2d_resample", "filtered_lrelu", "fma", "grid_sample_gradfix", "upfirdn2d"]
X = torch.ones(1, 2, 4, 4)


def full(name: str) -> str:
    return f"torch_utils.ops.{name}"


def test_the_standin_fails_without_it(standin):
    import networks_stylegan2

    with pytest.raises(RuntimeError, match="nvcc was not found"):
        networks_stylegan2.Generator()


def test_installed_before_the_import(standin):
    ganfast.stylegan.install()
    import networks_stylegan2

    assert networks_stylegan2.Generator()(torch.randn(2, 5)).shape == (2, 3, 8, 8)


@pytest.mark.parametrize("name", NAMES)
def test_every_way_to_import(standin, name):
    ganfast.stylegan.install()
    space = {}
    exec(f"import torch_utils.ops.{name}\nby_path = torch_utils.ops.{name}", space)
    exec(f"from torch_utils.ops import {name} as by_from\nimport torch_utils.ops.{name} as by_as", space)
    assert space["by_path"] is space["by_from"] is space["by_as"] is importlib.import_module(full(name)) is sys.modules[full(name)]
    assert space["by_path"].__name__ == full(name) and "standin" not in str(space["by_path"].__spec__)
    assert importlib.util.find_spec(full(name)) is space["by_path"].__spec__


def test_installed_after_a_networks_import(standin):
    import networks_stylegan2
    from torch_utils.ops import bias_act

    ganfast.stylegan.install()
    assert networks_stylegan2.bias_act is bias_act is sys.modules[full("bias_act")]
    assert networks_stylegan2.Generator()(torch.randn(2, 5)).shape == (2, 3, 8, 8)
    from torch_utils.ops import grid_sample_gradfix  # which nobody had imported

    assert grid_sample_gradfix.grid_sample(X, torch.zeros(1, 3, 3, 2)).shape == (1, 2, 3, 3)


def test_the_package_alone_was_imported(standin):
    import torch_utils.ops

    ganfast.stylegan.install()
    from torch_utils.ops import fma

    assert torch_utils.ops.fma is fma and fma.fma(X, X, X).sum() == 2 * X.sum()


def test_its_other_modules_are_those_on_the_disk(standin):
    ganfast.stylegan.install()
    from torch_utils import custom_ops, misc, persistence
    from torch_utils.ops import bias_act

    assert {module.__file__ for module in (custom_ops, misc, persistence)} == {
        str(STANDIN / "torch_utils" / f"{name}.py") for name in ("custom_ops", "misc", "persistence")
    }
    assert sys.modules["torch_utils"].__file__ == str(STANDIN / "torch_utils" / "__init__.py")
    assert sys.modules["torch_utils.ops"].__file__ == str(STANDIN / "torch_utils" / "ops" / "__init__.py")
    assert torch.equal(bias_act.bias_act(X, torch.ones(2)), X + 1)


def test_the_path_may_grow_later(clean):
    ganfast.stylegan.install()
    clean.syspath_prepend(str(STANDIN))
    from torch_utils import misc

    assert misc.__file__ == str(STANDIN / "torch_utils" / "misc.py")


def test_without_a_package(clean):
    ganfast.stylegan.install()
    for name in NAMES:
        importlib.import_module(full(name))
    import torch_utils

    assert torch.equal(torch_utils.ops.upfirdn2d.upfirdn2d(X, None), X)
    with pytest.raises(ModuleNotFoundError, match=r"torch_utils\.misc"):
        importlib.import_module("torch_utils.misc")
    ganfast.stylegan.uninstall()
    with pytest.raises(ModuleNotFoundError, match="torch_utils"):
        importlib.import_module("torch_utils")


def test_uninstall_puts_everything_back(standin):
    from torch_utils.ops import bias_act, conv2d_gradfix, upfirdn2d

    modules = [bias_act, conv2d_gradfix, upfirdn2d]
    vars_before, modules_before, path_before = [dict(vars(module)) for module in modules], dict(sys.modules), list(sys.meta_path)
    ganfast.stylegan.install()
    ganfast.stylegan.install()
    assert conv2d_gradfix.enabled and upfirdn2d._parse_padding(1) == (1, 1, 1, 1)
    made = importlib.import_module(full("fma"))
    ganfast.stylegan.uninstall()
    assert [vars(module) for module in modules] == vars_before and sys.meta_path == path_before
    assert {name: sys.modules[name] for name in sys.modules if name.startswith("torch_utils")} == {
        name: modules_before[name] for name in modules_before if name.startswith("torch_utils")
    }
    assert not hasattr(sys.modules["torch_utils.ops"], "fma")
    with pytest.raises(RuntimeError, match="nvcc was not found"):
        bias_act.bias_act(X)
    with pytest.raises(RuntimeError, match="nvcc was not found"):
        importlib.import_module(full("fma")).fma(X, X, X)
    assert made.fma(X, X, X).sum() == 2 * X.sum()
    ganfast.stylegan.uninstall()
    ganfast.stylegan.install()
    assert torch.equal(bias_act.bias_act(X), X)


def test_a_function_that_was_imported_by_itself_is_out_of_reach(standin):
    from torch_utils.ops.bias_act import bias_act

    ganfast.stylegan.install()
    with pytest.raises(RuntimeError, match="nvcc was not found"):
        bias_act(X)


@pytest.mark.parametrize("before", [True, False], ids=["a module of the disk", "one that is made"])
def test_the_flag_is_read_where_scripts_set_it(standin, before):
    if before:
        importlib.import_module(full("conv2d_gradfix"))
    ganfast.stylegan.install()
    from torch_utils.ops import conv2d_gradfix

    weight = torch.ones(1, 2, 1, 1, requires_grad=True)
    assert "ConvAct" in type(conv2d_gradfix.conv2d(X, weight).grad_fn).__name__
    conv2d_gradfix.enabled = False
    assert "ConvolutionBackward" in type(conv2d_gradfix.conv2d(X, weight).grad_fn).__name__
    assert ganfast.stylegan.conv2d_gradfix.enabled


FRESH = """
import sys
import ganfast
assert "ganfast.stylegan" not in sys.modules and "torch_utils" not in sys.modules
sys.path.insert(0, sys.argv[1])
ganfast.stylegan.install()
import torch
import networks_stylegan2 as networks
images = networks.Generator()(torch.randn(2, 5))
networks.DiscriminatorBlock(4)(images).mean().backward()
print(images.shape[2], sys.modules["torch_utils"].__file__, "triton" in sys.modules)
"""


def test_in_a_fresh_process():
    done = subprocess.run([sys.executable, "-c", FRESH, str(STANDIN)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["8", str(STANDIN / "torch_utils" / "__init__.py"), "False"]
