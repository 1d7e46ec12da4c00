"""What the tests of infinite gradients share: where torch's layers give a finite number, so does ganfast, and the same one."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ganfast._activations import ACTIVATIONS, act_fwd

# (act, alpha): a float, or the numbers of a tensor; slopes of zero and flat parts among them.
ACTS = [(act, entry.default_alpha) for act, entry in ACTIVATIONS.items()]
ACTS += [("leaky_relu", 0.0), ("prelu", (0.25, 0.0)), ("leaky_relu", (0.2, -0.5)), ("elu", (1.0, 0.7)), ("softplus", (1.0, 2.0))]
ACTS += [("snake", (1.0, 0.5))]
IDS = [f"{act}-{alpha}" for act, alpha in ACTS]


def alpha_of(alpha) -> Tensor | float | None:
    return torch.tensor(alpha, requires_grad=True) if isinstance(alpha, tuple) else alpha


def act_of_torch(z: Tensor, act: str, alpha: Tensor | float | None) -> Tensor:
    """As people write it in torch."""
    if isinstance(alpha, Tensor):
        return F.prelu(z, alpha) if act in ("prelu", "leaky_relu") else act_fwd(z, act, alpha)
    return act_fwd(z, act, None, alpha or 0.0)


def spread(shape, act: str) -> Tensor:
    """Values in both halves of every activation, saturated ones among them; for relu an exact zero, where others have no second
    derivative."""
    values = torch.tensor([-300.0, -30.0, -3.0, -1.0, -0.2, 0.0 if act == "relu" else 1e-3, 0.2, 1.0, 3.0, 30.0, 300.0])
    return values[torch.arange(torch.Size(shape).numel()) * 7 % len(values)].view(shape)


def upstreams(y: Tensor) -> dict[str, Tensor]:
    """Incoming gradients, by what is not finite in them; y of eager's says which elements are on."""
    plain = torch.randn(y.shape)
    low = y <= 0
    first_on = torch.zeros_like(low).view(-1).scatter_(0, (~low).view(-1).to(torch.uint8).argmax().view(1), True).view(y.shape)
    return {
        "infinite where off": plain.masked_fill(low, float("inf")),
        "NaN where off": plain.masked_fill(low, float("nan")),
        "one infinite where on": plain.masked_fill(first_on, float("-inf")),
        "one NaN where on": plain.masked_fill(first_on, float("nan")),
        "finite": plain,
    }


def same(got: dict, want: dict, what: str, exactly: bool) -> None:
    """Finite where torch's is, with its value; None where torch's is None. `exactly`: and nowhere else finite."""
    for name, w in want.items():
        g, place = got[name], f"{what}: {name}"
        assert (g is None) == (w is None), f"{place} is {g}, torch has {w}"
        if w is None:
            continue
        assert g.dtype == w.dtype and g.shape == w.shape, place
        finite = w.isfinite()
        assert g.isfinite()[finite].all(), f"{place}: {int((~g.isfinite() & finite).sum())} elements are not finite and torch's are"
        scale = max(1.0, w[finite].abs().max().item() if finite.any() else 1.0)
        error = (g[finite] - w[finite]).abs()
        assert not (error > 2e-4 * scale).any(), f"{place}: off by {error.max():.3g}: {g.flatten().tolist()} and {w.flatten().tolist()}"
        assert not exactly or not g.isfinite()[~finite].any(), f"{place}: finite where torch's is not"


def gradients(call, leaves: dict[str, Tensor], gy: Tensor, u: dict[str, Tensor] | None) -> dict[str, Tensor | None]:
    """The first order of call(**leaves), or with `u`, what the first order's tensors are multiplied by, the second."""
    names, tensors = zip(*leaves.items())
    y = call(**leaves)
    if u is None:
        return dict(zip(names, torch.autograd.grad(y, tensors, gy, allow_unused=True)))
    gy = gy.clone().requires_grad_()
    first = torch.autograd.grad(y, tensors, gy, create_graph=True, allow_unused=True)
    pairs = [(g, u[name]) for name, g in zip(names, first) if name in u and g is not None]
    second = torch.autograd.grad([g for g, _ in pairs], (gy, *tensors), [v for _, v in pairs], allow_unused=True)
    return dict(zip(("gy", *names), second))


def compare(eager, fast, leaves: dict[str, Tensor], backend: str) -> None:
    """Both calls' gradients of the first and second order, for every kind of infinity in what comes in. Interpreted kernels are slow,
    and have no part in the second order."""
    with torch.no_grad():
        y = eager(**leaves)
    kinds = upstreams(y)
    for kind, gy in kinds.items():
        same(gradients(fast, leaves, gy, None), gradients(eager, leaves, gy, None), f"first order, {kind}", True)
        if backend == "triton":
            continue
        one = {name: torch.randn(t.shape) for name, t in leaves.items()}
        for u in ({"x": one["x"]}, one):
            same(gradients(fast, leaves, gy, u), gradients(eager, leaves, gy, u), f"second order of {list(u)}, {kind}", False)
    if y.shape == leaves["x"].shape and backend != "triton":
        for kind, u in kinds.items():
            u, gy = {"x": u}, kinds["finite"]
            same(gradients(fast, leaves, gy, u), gradients(eager, leaves, gy, u), f"second order, cotangent {kind}", False)
