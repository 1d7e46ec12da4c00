"""The activation table in torch against torch's own modules, and csrc/common/activations.h against the table in torch."""

import importlib.util
import math
import platform
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ganfast._activations import ACTIVATIONS, act_alpha_grad, act_fwd, act_grad, activate, saves_y
from ganfast.testing import assert_close_to_reference

CSRC = Path(__file__).parents[1] / "csrc"

# act -> torch's own module; snake has none, so its definition (Ziyin 2020).
MODULES = {
    "linear": lambda a: nn.Identity(),
    "relu": lambda a: nn.ReLU(),
    "leaky_relu": nn.LeakyReLU,
    "prelu": lambda a: nn.PReLU(init=a, dtype=torch.float64),
    "tanh": lambda a: nn.Tanh(),
    "sigmoid": lambda a: nn.Sigmoid(),
    "elu": nn.ELU,
    "selu": lambda a: nn.SELU(),
    "softplus": nn.Softplus,
    "silu": lambda a: nn.SiLU(),
    "gelu": lambda a: nn.GELU(),
    "snake": lambda a: lambda z: z + torch.sin(a * z) ** 2 / a,
}
DEFAULTS = {"leaky_relu": 0.01, "prelu": 0.25, "elu": 1.0, "softplus": 1.0, "snake": 1.0}
# act -> f(z, a) in smooth pieces whose derivative in `a` autograd gets right, written apart from the table
BY_ALPHA = {
    "leaky_relu": lambda z, a: z.clamp(min=0) + a * z.clamp(max=0),
    "prelu": lambda z, a: z.clamp(min=0) + a * z.clamp(max=0),
    "elu": lambda z, a: z.clamp(min=0) + a * (z.clamp(max=0).exp() - 1),
    "softplus": lambda z, a: torch.logaddexp(a * z, torch.zeros_like(z)) / a,
    "snake": lambda z, a: z + (1 - torch.cos(2 * a * z)) / (2 * a),
}
ALPHAS = [(act, alpha) for act, entry in ACTIVATIONS.items() for alpha in ([0.0] if entry.default_alpha is None else [0.3, 1.0, 2.5])]


def points() -> torch.Tensor:
    """[400, 1] of float64: random, tiny, large and zero."""
    scales = torch.tensor([1e-3, 1.0, 5.0, 60.0], dtype=torch.float64).repeat_interleave(99)
    return torch.cat([torch.randn(396, dtype=torch.float64) * scales, torch.tensor([0.0, -1e4, 1e4, 1e-300])]).view(-1, 1)


def close(got, want, act=""):
    # torch's softplus is z itself beyond a threshold, where the derivative formula still has exp(-20) = 2e-9 to go
    atol = 3e-9 if act == "softplus" else 1e-12
    torch.testing.assert_close(got, want, rtol=1e-12, atol=atol)


def test_the_twelve_and_their_defaults():
    assert list(ACTIVATIONS) == list(MODULES)
    assert {name: entry.default_alpha for name, entry in ACTIVATIONS.items() if entry.default_alpha is not None} == DEFAULTS
    assert nn.LeakyReLU().negative_slope == 0.01 and nn.PReLU().weight.item() == 0.25
    assert nn.ELU().alpha == 1.0 and nn.Softplus().beta == 1.0


@pytest.mark.parametrize(("act", "alpha"), ALPHAS)
def test_values_and_derivatives_are_those_of_torchs_module(act, alpha):
    z = points().requires_grad_()
    module = MODULES[act](alpha)
    want = module(z)
    (want_grad,) = torch.autograd.grad(want.sum(), z)
    close(act_fwd(z, act, None, alpha), want)
    close(act_grad(z, act, None, alpha, False), want_grad, act)
    if saves_y(act, None, alpha):
        close(act_grad(want, act, None, alpha, True), want_grad, act)


@pytest.mark.parametrize(("act", "alpha"), [(act, alpha) for act, alpha in ALPHAS if act in DEFAULTS])
def test_tensor_alpha_gives_the_same_and_its_derivative(act, alpha):
    z, a = points(), torch.tensor([alpha], dtype=torch.float64, requires_grad=True)
    assert not saves_y(act, a, 0.0)
    close(act_fwd(z, act, a, 7.0), act_fwd(z, act, None, alpha))
    close(act_grad(z, act, a, 7.0, False), act_grad(z, act, None, alpha, False))
    columns = a.expand(z.numel()).detach().requires_grad_()
    (want,) = torch.autograd.grad(BY_ALPHA[act](z[:, 0], columns).sum(), columns)
    # beyond softplus's threshold the table has 0 for up to 20 exp(-20) / alpha^2
    torch.testing.assert_close(act_alpha_grad(z, act, a)[:, 0], want, rtol=1e-9, atol=1e-6 if act == "softplus" else 1e-9)


def test_alpha_is_per_channel():
    z, a = torch.randn(3, 2, 4, dtype=torch.float64), torch.tensor([0.5, -2.0], dtype=torch.float64)
    close(act_fwd(z, "prelu", a), F.prelu(z, a))
    close(act_alpha_grad(z, "prelu", a), z.clamp(max=0))


def test_snake_at_alpha_zero_is_its_limit():
    z = points()[z_small := slice(0, 198)]
    zero, near = torch.zeros(1, dtype=torch.float64), torch.full((1,), 1e-7, dtype=torch.float64)
    assert z_small and torch.equal(act_fwd(z, "snake", None, 0.0), z) and torch.equal(act_fwd(z, "snake", zero), z)
    torch.testing.assert_close(act_alpha_grad(z, "snake", zero), act_alpha_grad(z, "snake", near), rtol=1e-3, atol=1e-5)
    a = zero.clone().requires_grad_()
    (by_autograd,) = torch.autograd.grad(act_fwd(z, "snake", a).sum(), a)
    close(by_autograd, (z * z).sum().view(1))


@pytest.mark.parametrize("act", ["elu", "softplus", "leaky_relu", "prelu"])
def test_an_alpha_that_is_not_positive_saves_z(act):
    assert saves_y(act, None, 0.5) and not saves_y(act, None, 0.0) and not saves_y(act, None, -0.5)


@pytest.mark.parametrize(("act", "alpha"), [(act, ACTIVATIONS[act].default_alpha or 0.0) for act in ACTIVATIONS])
def test_nan_stays_nan_and_its_derivative_is_nan_or_torchs(act, alpha):
    z = torch.full((1, 1), math.nan, dtype=torch.float64, requires_grad=True)
    y = MODULES[act](alpha)(z)
    assert y.isnan().all() and act_fwd(z, act, None, alpha).isnan().all()
    (want,) = torch.autograd.grad(y.sum(), z)
    for from_y in {False, saves_y(act, None, alpha)}:
        got = act_grad(z, act, None, alpha, from_y)
        assert got.isnan().all() or torch.equal(got, want)


@pytest.mark.parametrize(("act", "alpha"), ALPHAS)
def test_second_derivatives_follow_by_autograd(act, alpha):
    z = (torch.randn(60, 1, dtype=torch.float64) * 3).requires_grad_()
    (want,) = torch.autograd.grad(torch.autograd.grad(MODULES[act](alpha)(z).sum(), z, create_graph=True)[0].sum() + 0 * z.sum(), z)
    got = act_grad(z, act, None, alpha, False)
    (got,) = torch.autograd.grad(got.sum() + 0 * z.sum(), z)
    close(got, want, act)


PROGRAM = """
#include <cstdio>
#include <string>
#include "common/activations.h"
using namespace ganfast;
// Lines "act alpha saved from_y" in; "f(saved) f'(saved) df/dalpha" out, in type REAL.
int main() {
  char name[32];
  double alpha, saved;
  int from_y;
  while (std::scanf("%31s %lf %lf %d", name, &alpha, &saved, &from_y) == 4) {
    Act act;
    if (!act_from_name(name, &act)) return std::printf("unknown %s", name), 1;
    const REAL s = saved, a = alpha;
    const REAL f = act_fwd<REAL>(act, s, a), grad = act_grad<REAL>(act, s, a, from_y), by_alpha = act_alpha_grad<REAL>(act, s, a);
    std::printf("%.17g %.17g %.17g\\n", static_cast<double>(f), static_cast<double>(grad), static_cast<double>(by_alpha));
  }
  Act none;
  return act_from_name("tan", &none) || act_from_name("tanhh", &none) || act_from_name("", &none);
}
"""
REALS = {"float": torch.float32, "double": torch.float64}


def build_flags() -> list[str]:
    """Those of setup.py: they let the compiler reorder, and -march=native brings fused multiply-adds."""
    spec = importlib.util.spec_from_file_location("ganfast_setup_flags", CSRC.parent / "setup.py")
    source = Path(spec.origin).read_text()
    flags = [f for f in ("-O3", "-fno-math-errno", "-fno-trapping-math") if f'"{f}"' in source]
    return [*flags, "-march=native" if platform.machine() in ("x86_64", "AMD64") else "-mcpu=native"]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """real -> run(rows) -> [3, rows] float64 of that program."""
    if not CSRC.is_dir() or shutil.which("g++") is None:
        pytest.skip("needs g++ and csrc/")
    folder = tmp_path_factory.mktemp("activations")
    (folder / "table.cpp").write_text(PROGRAM)
    for real in REALS:
        command = ["g++", "-std=c++17", *build_flags(), f"-DREAL={real}", f"-I{CSRC}", str(folder / "table.cpp"), "-o", str(folder / real)]
        subprocess.run(command, check=True, capture_output=True, text=True)

    def run(real: str, rows) -> torch.Tensor:
        lines = "".join(f"{act} {alpha!r} {saved!r} {int(from_y)}\n" for act, alpha, saved, from_y in rows)
        done = subprocess.run([folder / real], input=lines, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-200:]
        return torch.tensor([[float(v) for v in line.split()] for line in done.stdout.splitlines()], dtype=torch.float64).t()

    return run


@pytest.mark.parametrize("real", REALS)
@pytest.mark.parametrize("reach", [0.05, 1.0, 8.0, 100.0, 1e4])
def test_the_cpp_table_has_the_values_of_the_torch_table(compiled, real, reach):
    dtype = REALS[real]
    z = torch.cat([(torch.rand(60, dtype=torch.float64) * 2 - 1) * reach, torch.tensor([0.0, reach, -reach])]).to(dtype).view(-1, 1)
    sinusoid = {"snake"} if reach > 100 else set()  # sin of an argument that float32 itself rounds by a radian
    results = []
    for act, alpha in ALPHAS:
        if act in sinusoid and dtype == torch.float32:
            continue
        alpha = torch.tensor(alpha, dtype=dtype).item()
        tensor = torch.tensor([alpha], dtype=dtype)
        y = act_fwd(z, act, None, alpha)
        f, grad, by_alpha = compiled(real, [(act, alpha, v, False) for v in z.flatten().tolist()])
        label = f"{act} alpha {alpha:.2g}"
        wide = z.double()
        results += [
            (f"f, {label}", f.to(dtype), y[:, 0], act_fwd(wide, act, None, alpha)[:, 0]),
            (f"f', {label}", grad.to(dtype), act_grad(z, act, None, alpha, False)[:, 0], act_grad(wide, act, None, alpha, False)[:, 0]),
        ]
        if act in DEFAULTS:
            want = act_alpha_grad(wide, act, tensor.double()).flatten()
            results.append((f"df/dalpha, {label}", by_alpha.to(dtype), act_alpha_grad(z, act, tensor).flatten(), want))
        else:
            assert not by_alpha.any()
        if saves_y(act, None, alpha):
            _, from_y, _ = compiled(real, [(act, alpha, v, True) for v in y.flatten().tolist()])
            want = act_grad(y.double(), act, None, alpha, True).flatten()
            results.append((f"f' from y, {label}", from_y.to(dtype), act_grad(y, act, None, alpha, True).flatten(), want))
    if dtype == torch.float32:
        assert_close_to_reference(*results)
    for name, got, _, want in results:  # float64 has no better reference: the two formulas differ by a few roundings
        assert torch.allclose(got.double(), want, rtol=1e-11, atol=1e-11) or dtype == torch.float32, name


@pytest.mark.parametrize("real", REALS)
def test_the_cpp_table_passes_nan_and_infinities(compiled, real):
    for act, entry in ACTIVATIONS.items():
        alpha = entry.default_alpha or 0.0
        for special in (math.nan, math.inf, -math.inf):
            z = torch.full((1, 1), special, dtype=torch.float64)
            ((f,), (grad,), _) = compiled(real, [(act, alpha, special, False)])
            want, want_grad = act_fwd(z, act, None, alpha)[0, 0], act_grad(z, act, None, alpha, False)[0, 0]
            assert torch.allclose(f, want, equal_nan=True), f"f of {act} at {special}: {f} and {want}"
            assert torch.allclose(grad, want_grad, equal_nan=True), f"f' of {act} at {special}: {grad} and {want_grad}"


@pytest.mark.parametrize("real", REALS)
def test_the_cpp_table_at_alpha_zero(compiled, real):
    f, grad, by_alpha = compiled(real, [("snake", 0.0, v, False) for v in (0.5, -2.0)])
    assert f.tolist() == [0.5, -2.0] and grad.tolist() == [1, 1] and by_alpha.tolist() == [0.25, 4.0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_snakes_short_form_is_the_formula_at_zero_frequency_too(dtype):
    z = torch.randn(2, 3, 5, dtype=torch.float64).to(dtype)
    alpha = torch.tensor([0.0, 0.7, -1.3], dtype=dtype)
    want = act_fwd(z.double(), "snake", alpha.double())
    got = activate(z, "snake", alpha, 0.0)
    assert got.dtype == dtype and torch.equal(got[:, 0], z[:, 0])
    torch.testing.assert_close(got.double(), want, rtol=4 * torch.finfo(dtype).eps, atol=8 * torch.finfo(dtype).eps)
