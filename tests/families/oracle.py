"""Everything a network computes, and how far an accelerated one may be from the untouched one's float64 run.

The rule is that of `ganfast.testing`: at most twice the error of the untouched network at that dtype, plus a floor. It is applied
to what a network gives as a whole: the errors of a module's tensors are measured in units of their own size, and the untouched
network's worst module of the same kind (outputs, buffers, gradients, second-order gradients) sets the budget of all. The gradient
of one bias may come out right by luck; sixty of them do not.
"""

import contextlib
import functools
import warnings
from collections.abc import Callable, Iterator
from unittest import mock

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from ganfast import accelerate
from ganfast.ops.conv_transpose_act.torch_faults import HALF, wrong_in
from ganfast.testing import FLOORS
from tests.families.family import Family

Results = dict[str, dict[str, Tensor | None]]  # kind -> name -> tensor

# Beyond this the untouched network itself is too far from float64 for its error to judge another's: such a row needs other
# inputs. The rows reach 7e-6 and 0.47.
ILL = {torch.float32: 3e-5, torch.bfloat16: 0.55, torch.float16: 0.3}
# Modules of fewer numbers, a PReLU's slope, have the common budget and their own, and set no one else's if there are others.
FEW = 16

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_CONVOLUTIONS = {torch.conv1d, torch.conv2d, torch.conv3d, torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d}
_KINKED = {"relu", "relu_", "leaky_relu", "leaky_relu_", "elu", "elu_", "_prelu_kernel"}


@torch.no_grad()
def liven(model: nn.Module) -> nn.Module:
    """Values as training leaves them: no norm at its identity, activations where they bend, weights that keep the scale."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            if module.weight is not None:
                module.weight.uniform_(0.6, 1.4)
                module.bias.normal_(0, 0.3)
            if module.running_mean is not None:
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
        elif isinstance(module, _CONVS) and isinstance(dict(module.named_parameters(recurse=False)).get("weight"), Tensor):
            weight = module.weight
            taps = weight.shape[0] * weight[0, 0].numel() / weight[0, 0].dim() if module.transposed else weight[0].numel()
            weight.normal_(0, (1.5 / taps) ** 0.5)
            if module.bias is not None:
                module.bias.normal_(0, 0.2)
        elif isinstance(getattr(module, "alpha", None), nn.Parameter):
            module.alpha.add_(torch.rand_like(module.alpha) * 0.5)
        elif not type(module).__module__.startswith("torch."):
            _liven_own(module)
    return model


def _liven_own(module: nn.Module) -> None:
    """A user's own layer: biases, strengths and means that begin at zero, variances that begin at one."""
    for parameter in module.parameters(recurse=False):
        if not parameter.any():
            parameter.normal_(0, 0.2)
    for buffer in module.buffers(recurse=False):
        if not buffer.any():
            buffer.normal_(0, 0.3)
        elif (buffer == 1).all():
            buffer.uniform_(0.5, 2)


def network(row: Family, training: bool, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The same values at every call. float64: those of the network that people run in float32."""
    model = row.build()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        liven(model)
    return model.to(dtype).train(training)


@contextlib.contextmanager
def same_noise() -> Iterator[None]:
    """torch draws other numbers in float64 than in float32; inside, every dtype gets the same ones, rounded."""
    draw = lambda x: torch.empty_like(x, dtype=torch.float64).normal_().to(x.dtype)
    with mock.patch.object(torch, "randn_like", draw):
        yield


def tensors(value) -> Iterator[Tensor]:
    """Of nested tuples, lists and dicts, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from tensors(part)


def to(inputs: tuple[Tensor, ...], dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Floating ones at dtype, as leaves that want a gradient."""
    return tuple(x.detach().to(dtype, copy=True).requires_grad_() if x.is_floating_point() else x for x in inputs)


def run(model: nn.Module, inputs: tuple[Tensor, ...], *, autocast: bool = False, second: bool = True) -> Results:
    """One forward; gradients of a weighted sum of the outputs; gradients of the squared norm of the outputs' sum's gradient at
    the inputs, as in R1."""
    targets = {name: p for name, p in model.named_parameters() if p.requires_grad}
    sources = {f"input{i}": x for i, x in enumerate(inputs) if x.requires_grad}
    targets |= sources
    torch.manual_seed(7)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        outputs = list(tensors(model(*inputs)))
    results: Results = {"output": {f"output{i}": y.detach().clone() for i, y in enumerate(outputs)}}
    results["buffer"] = {name: b.clone() for name, b in model.named_buffers()}
    learning = [y for y in outputs if y.requires_grad]
    generator = torch.Generator().manual_seed(3)
    weights = [torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype) for y in learning]
    total = sum((y * w).sum(dtype=torch.promote_types(y.dtype, torch.float32)) for y, w in zip(learning, weights))
    first = torch.autograd.grad(total, list(targets.values()), retain_graph=second, allow_unused=True)
    results["gradient"] = dict(zip(targets, first))
    if second:
        slopes = torch.autograd.grad(sum(y.sum() for y in learning), list(sources.values()), create_graph=True, allow_unused=True)
        squares = [g.square().sum() for g in slopes if g is not None]
        seconds = torch.autograd.grad(sum(squares), list(targets.values()), allow_unused=True) if squares else [None] * len(targets)
        results["second"] = dict(zip(targets, seconds))
    return results


class _RightConvolutions(TorchFunctionMode):
    """torch's 16-bit convolutions as they should be, in float32 and rounded, and whether torch's own were anything else: on some
    processors they are (ganfast/ops/conv_transpose_act/torch_faults.py), and an untouched network is then no measure of another."""

    def __init__(self, autocast: bool):
        super().__init__()
        self.autocast, self.wrong = autocast, False

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func not in _CONVOLUTIONS:
            return func(*args, **(kwargs or {}))
        own = lambda t: t.bfloat16() if self.autocast and isinstance(t, Tensor) else t
        args, kwargs = [own(t) for t in args], {name: own(t) for name, t in (kwargs or {}).items()}
        if (dtype := args[0].dtype) not in HALF:
            return func(*args, **kwargs)
        wide = lambda t: t.float() if isinstance(t, Tensor) else t
        wider, named = [wide(t) for t in args], {name: wide(t) for name, t in kwargs.items()}
        with torch.autocast("cpu", enabled=False):
            pairs = zip(self._both(func, args, kwargs), self._both(func, wider, named))
            self.wrong |= any(not (own.float() - right).abs().max() < 0.05 * right.abs().max() for own, right in pairs)
            return func(*wider, **named).to(dtype)

    @staticmethod
    def _both(func, args, kwargs) -> tuple[Tensor, Tensor]:
        """(the output, the data gradient): HiFi-GAN's is wrong in the second alone."""
        x, *rest = [t.detach() if isinstance(t, Tensor) else t for t in args]
        with torch.enable_grad():
            x.requires_grad_()
            y = func(x, *rest, **kwargs)
            weights = torch.arange(y.numel()).mul(0.7).sin().view(y.shape)
        return y.detach(), torch.autograd.grad(y, x, weights.to(y.dtype))[0]


class _Margin(TorchDispatchMode):
    """The least distance of a pre-activation from its function's kink, in units of the layer's root mean square."""

    def __init__(self):
        super().__init__()
        self.least = float("inf")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket.__name__ in _KINKED:
            z = args[0]
            self.least = min(self.least, (z.abs().min() / z.square().mean().sqrt()).item())
        return func(*args, **(kwargs or {}))


@functools.cache
def seed(row: Family, training: bool) -> int:
    """Inputs on which no rounding of float32 decides the side of a kink, or the best of some: there a derivative jumps, and
    two right answers differ."""
    model = network(row, training, torch.float64)
    state = {name: t.clone() for name, t in model.state_dict().items()}
    margins = {}
    for candidate in range(24):
        model.load_state_dict(state)
        with torch.no_grad(), _Margin() as margin:
            torch.manual_seed(7)
            model(*(x.double() if x.is_floating_point() else x for x in row.example(candidate)))
        margins[candidate] = margin.least
        if margin.least > 3e-5:
            break
    return max(margins, key=margins.get)


def how(row: Family, dtype: torch.dtype) -> tuple[torch.dtype, dict[str, bool]]:
    """(the dtype of the parameters, options of `run`). Second order is asked for in float32 alone."""
    autocast = dtype == torch.bfloat16 and row.half == "autocast"
    return torch.float32 if autocast else dtype, {"autocast": autocast, "second": dtype == torch.float32}


@functools.lru_cache(maxsize=4)
def untouched(row: Family, training: bool, dtype: torch.dtype) -> tuple[Results, Results, dict[str, float]]:
    """The network without ganfast: (its results at dtype, its results in float64 from the same values, the worst module's distance
    between the two for each kind of result).

    Where torch's own convolutions are wrong at that dtype, the results at dtype come from right ones. Rounding to 16 bits moves some
    pre-activations across their activation's kink, and how many depends on the input: the worst module is then that of several inputs."""
    stored, options = how(row, dtype)
    first = seed(row, training)
    runs = []
    worst: dict[str, float] = {}
    convolutions = _RightConvolutions(options["autocast"])
    for candidate in range(first, first + (1 if dtype == torch.float32 else 6)):
        x = to(row.example(candidate), stored)
        if dtype in HALF and wrong_in(dtype):
            with convolutions:
                plain = run(network(row, training, stored), x, **options)
        else:
            plain = run(network(row, training, stored), x, **options)
        reference = run(network(row, training, stored).double(), to(x, torch.float64), second=options["second"])
        runs.append((plain, reference))
        for kind in reference:
            worst[kind] = max(worst.get(kind, 0.0), worst_module(plain[kind], reference[kind]))
    if convolutions.wrong:
        warnings.warn(f"{row}: torch's own {dtype} convolutions are wrong here; compared with float64 alone", stacklevel=1)
    return *runs[0], worst


def worst_module(plain: dict, reference: dict) -> float:
    """The largest distance of one kind's owners that hold enough numbers to judge by."""
    own, count = distances(plain, reference)
    return max((own[group] for group in own if count[group] >= FEW), default=max(own.values(), default=0.0))


def owner(name: str) -> str:
    """The module whose values are measured together: a bias's gradient that vanishes before a norm has its weight's scale."""
    return name.partition(".parametrizations")[0] if ".parametrizations" in name else name.rpartition(".")[0] or name


def distances(got: dict, reference: dict) -> tuple[dict[str, float], dict[str, int]]:
    """Per owner, the root of the squared errors' sum in units of the reference's, and how many numbers that are. What is less
    than a thousandth of the largest owner's is measured by that."""
    wrong: dict[str, float] = {}
    right: dict[str, float] = {}
    count: dict[str, int] = {}
    for name, want in reference.items():
        if want is not None and not want.is_floating_point():
            continue
        want = torch.zeros(1, dtype=torch.float64) if want is None else want.double()
        have = torch.zeros_like(want) if got[name] is None else got[name].double()
        group = owner(name)
        wrong[group] = wrong.get(group, 0.0) + (have - want).square().sum().item()
        right[group] = right.get(group, 0.0) + want.square().sum().item()
        count[group] = count.get(group, 0) + want.numel()
    least = max(1e-6 * max(right.values(), default=0.0), 1e-300)
    return {group: (wrong[group] / max(right[group], least)) ** 0.5 for group in wrong}, count


def unlike(kind: str, got: dict, plain: dict) -> list[str]:
    """What is there, of which dtype and shape, and every whole number."""
    found = []
    for name, want in plain.items():
        have = got.get(name)
        if have is None or want is None:
            if kind != "second" and (have is None) != (want is None):  # a second derivative of zero may be none
                found.append(f"{kind} {name}: {'none' if have is None else 'one'}, untouched {'none' if want is None else 'one'}")
        elif (have.dtype, have.shape) != (want.dtype, want.shape):
            found.append(f"{kind} {name}: {have.dtype} {list(have.shape)}, untouched {want.dtype} {list(want.shape)}")
        elif not want.is_floating_point() and not torch.equal(have, want):
            found.append(f"{kind} {name}: {have.tolist()}, untouched {want.tolist()}")
    return found


def judge(row: Family, training: bool, dtype: torch.dtype, change: Callable[[nn.Module], nn.Module] = accelerate) -> list[str]:
    """What is wrong with the row's network after `change`; nothing for a pass."""
    plain, reference, worst = untouched(row, training, dtype)
    for kind, error in worst.items():
        assert error < ILL[dtype], f"{kind}: the untouched network is {error:.2g} off its float64 run; choose other inputs"
    stored, options = how(row, dtype)
    got = run(change(network(row, training, stored)), to(row.example(seed(row, training)), stored), **options)
    return beyond(got, plain, reference, worst, dict.fromkeys(reference, dtype))


def beyond(got: Results, plain: Results, reference: Results, worst: dict[str, float], dtypes: dict[str, torch.dtype]) -> list[str]:
    """What of `got` is not as `plain` is, or further from the reference than the worst of plain's modules allows; `dtypes`: the
    precision of each kind of result."""
    if found := [line for kind in plain for line in unlike(kind, got[kind], plain[kind])]:
        return found
    for kind, expected in reference.items():
        dtype = dtypes[kind]
        own, _ = distances(plain[kind], expected)
        wrong, _ = distances(got[kind], expected)
        for group in own:
            allowed = 2 * max(own[group], worst[kind]) + FLOORS[dtype] * torch.finfo(dtype).eps
            if not wrong[group] <= allowed:
                found.append(f"{kind} {group}: off by {wrong[group]:.3g} of its size, allowed {allowed:.3g}, untouched {own[group]:.3g}")
    return found
