"""One rival's training step: its networks, optimizers and the way it is run. Calling it is one step."""

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

import ganfast
from benchmarks.machine import DEVICE
from benchmarks.rivals import DEFAULT, layouts
from benchmarks.steps.cases import StepCase
from benchmarks.steps.losses import Fused, Plain


class How(NamedTuple):
    """What makes a rival. `frozen`: the discriminators want no gradients while the generators learn. `compiled`: torch.compile's
    options. `tuned`: fused Adam, cudnn.benchmark. `graphs`: its own CUDA graphs, of whose memory the allocator tells nothing."""

    dtype: torch.dtype
    fmt: torch.memory_format
    fused: bool = False
    frozen: bool = False
    captured: bool = False
    compiled: dict | None = None
    tuned: bool = True
    graphs: bool = False


def rivals(case: StepCase, dtype: torch.dtype, who: tuple[str, ...], device: str = DEVICE) -> dict[str, How]:
    """By name. `eager` is the best of torch without a compiler: channels_last, fused Adam, cudnn.benchmark, and bf16 by autocast;
    `default` is eager as it comes. Beside eager, the two things a user may do by hand: freezing, and ganfast.capture."""
    layout, formats = case.game.layout, layouts(2)
    best, gpu = How(dtype, formats[layout]), device == "cuda"
    found = {}
    if "eager" in who:
        if gpu or (case.cpu_default and dtype == torch.bfloat16):  # the same in both dtypes' rows, and seconds long on a CPU
            found[f"{DEFAULT}-nchw"] = How(torch.float32, formats["nchw"], tuned=False)
        found[f"eager-{layout}"] = best
        if "G" in case.game.order:
            found[f"eager-frozen-{layout}"] = best._replace(frozen=True)
        if gpu:
            found[f"eager-captured-{layout}"] = best._replace(captured=True)
    if "compile" in who:
        found[f"compile-{layout}"] = best._replace(compiled={})
    if "max-autotune" in who:
        found[f"max-autotune-{layout}"] = best._replace(compiled={"mode": "max-autotune"}, graphs=gpu)
    found[f"ganfast-{layout}"] = best._replace(fused=True, frozen=True, captured=gpu)
    return found


class Step:
    """One update of either side (one forward where the game has none). Built from the same seed, every rival has equal parameters
    and inputs. Returns the losses and what else a user would look at, on the device."""

    def __init__(self, case: StepCase, how: How, device: str = DEVICE, change: Callable[[nn.Module], nn.Module] = ganfast.accelerate,
                 **options) -> None:  # fmt: skip
        self.how, self.device, self.game = how, device, case.play(**options)
        self.by = Fused() if how.fused else Plain()
        torch.manual_seed(0)
        parameters = torch.float64 if how.dtype == torch.float64 else torch.float32
        self.modules = {name: net.to(device, parameters, memory_format=how.fmt) for name, net in self.game.networks().items()}
        if how.fused:
            self.modules = {name: change(net) for name, net in self.modules.items()}
        self.nets = self.modules | self._compiled()
        torch.manual_seed(1)
        self.data, self.inputs = self._arranged(self.game.data()), tuple(self._arranged(t) for t in self.game.inputs(case.batch))
        self.players = {"D": self._side("d"), "G": self._side("g")}
        self.optimizers = {side: self._optimizer(nets) for side, nets in self.players.items() if side in self.game.order}
        self.averages, self.sources = [], []
        if self.game.average is not None:
            self.sources = [t for net in self.players["G"] for t in net.state_dict().values() if t.is_floating_point()]
            self.averages = [t.detach().clone() for t in self.sources]
        self.run = None if how.captured else self.step  # captured at the first call: where it fails, that is the rival's result

    def _side(self, letter: str) -> list[nn.Module]:
        return [net for name, net in self.modules.items() if name.startswith(letter)]

    def _compiled(self) -> dict[str, nn.Module]:
        """torch has no double backward through a compiled region: there the generator alone is compiled."""
        how = self.how
        if how.compiled is None:
            return {}
        chosen = {name: net for name, net in self.modules.items() if name.startswith("g") or not self.game.double_backward}
        return {name: torch.compile(net, dynamic=False, **how.compiled) for name, net in chosen.items()}

    def _arranged(self, t: Tensor | None) -> Tensor | None:
        if t is None:
            return None
        if t.is_floating_point() and self.how.dtype == torch.float64:
            t = t.double()
        fmt = self.how.fmt if t.dim() == 4 else torch.contiguous_format
        return t.to(self.device).contiguous(memory_format=fmt)

    def _optimizer(self, nets: list[nn.Module]) -> torch.optim.Optimizer:
        parameters = [p for net in nets for p in net.parameters()]
        fast = {"fused": True} if self.how.tuned else {}
        capturable = {"capturable": True} if self.how.captured else {}
        return self.game.optimizer(parameters, self.game.rate, self.game.betas, **fast, **capturable)

    def capture(self) -> Callable:
        state = (*self.modules.values(), *self.optimizers.values(), *self.averages)
        return ganfast.capture(self.step, *self.inputs, state=state)

    def _autocast(self):
        on = self.how.dtype == torch.bfloat16
        return torch.autocast(self.device, torch.bfloat16) if on else contextlib.nullcontext()

    @contextlib.contextmanager
    def _opponents(self, side: str) -> Iterator[None]:
        mine, others = ({p for net in self.players[who] for p in net.parameters()} for who in ("G", "D"))
        frozen = others - mine if side == "G" and self.how.frozen else set()  # what both hold learns in both turns
        for p in frozen:
            p.requires_grad_(False)
        try:
            yield
        finally:
            for p in frozen:
                p.requires_grad_(True)

    def forward(self, *inputs: Tensor) -> dict[str, Tensor]:
        with self._autocast(), torch.set_grad_enabled(bool(self.game.order)):
            return self.game.forward(self.nets, self.by, self.data, inputs)

    def loss(self, side: str, made: dict[str, Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        with self._autocast():
            if side == "D":
                return self.game.d_loss(self.nets, self.by, made)
            return self.game.g_loss(self.nets, self.by, made), ()

    def average(self) -> None:
        torch._foreach_lerp_(self.averages, self.sources, 1 - self.game.average)

    def step(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        made = self.forward(*inputs)
        if not self.game.order:
            return (made["fake"],)
        results: tuple[Tensor, ...] = ()
        for side in self.game.order:
            with self._opponents(side):
                loss, watched = self.loss(side, made)
                self.optimizers[side].zero_grad(set_to_none=True)
                loss.backward()
                self.optimizers[side].step()
            results += (loss.detach(), *watched)
        if self.averages:
            self.average()
        return results

    def __call__(self) -> tuple[Tensor, ...]:
        if self.device == "cuda":
            torch.backends.cudnn.benchmark = self.how.tuned
            if self.how.graphs:
                torch.compiler.cudagraph_mark_step_begin()
        self.run = self.run or self.capture()
        return self.run(*self.inputs)

    def first(self) -> dict[str, dict[str, Tensor]]:
        """Losses, images and all gradients of the first step's networks by kind, before an update: Adam's first one is a sign, which
        nothing small survives. Dropout, whose masks follow the layout, is off, other random numbers are the same for every rival."""
        dropouts = [m for net in self.modules.values() for m in net.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]
        for module in dropouts:
            module.eval()
        torch.manual_seed(2)
        made = self.forward(*self.inputs)
        found = {"image": {name: t.detach().to(self.how.dtype) for name, t in made.items()}, "loss": {}, "gradient": {}}
        for side in self.game.order:
            with self._opponents(side):
                loss, _ = self.loss(side, made)
                named = self._parameters(side)
                gradients = torch.autograd.grad(loss, list(named.values()), retain_graph=side != self.game.order[-1])
            found["loss"][side] = loss.detach()
            found["gradient"] |= dict(zip(named, gradients))
        for module in dropouts:
            module.train()
        return found

    def _parameters(self, side: str) -> dict[str, Tensor]:
        chosen = {name: net for name, net in self.modules.items() if name.startswith(side.lower())}
        return {f"{net}.{name}": p for net, module in chosen.items() for name, p in module.named_parameters()}
