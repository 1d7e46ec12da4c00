"""The dynamo backend: a graph's groups run as one where that pays. It takes the graph as dynamo hands it on, without AOTAutograd, so
autograd stays eager's, and second derivatives are right.

    torch.compile(model, backend="ganfast")
"""

import contextlib
import functools
import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx
from torch.autograd import forward_ad

from ganfast import _backends
from ganfast._autograd import here
from ganfast._memo import Memo
from ganfast.dropin.around import leave_backwards, refuse_in_recording, watching
from ganfast.dropin.graphs import opaque, second_derivatives
from ganfast.dropin.groups import Found, Group, replaced
from ganfast.dropin.nodes import Names, has_fixed_sizes, is_pure, storages, tensor, version, written
from ganfast.dropin.pays import fused_pays, together_pays, whole_pays
from ganfast.dropin.weights import Together, together


class Graph:
    """What runs in place of one of dynamo's graphs. Which groups run as one is settled at the first call of each size, on that call's
    tensors; after that a call costs no more than the graph's own nodes.

    groups: what can run as one; batches: weights that can be made together; left: (layer, reason) of the others.
    """

    def __init__(
        self, module: fx.GraphModule, inputs: list[Any], root: torch.nn.Module | None = None, recompute: bool = False, path: str = ""
    ) -> None:
        leave_backwards()
        second_derivatives(module)
        self.module, self.plain = module, module.forward
        called = Names(module.graph, root, path).of
        found = None if opaque(module) else Found(module.graph, called, recompute)
        self.groups: list[Group] = found.groups if found else []
        taken = {node for group in self.groups for node in group.nodes}
        self.batches: list[Together] = together(module.graph, taken, called) if found else []
        inputs_at = {node: i for i, node in enumerate(node for node in module.graph.nodes if node.op == "placeholder")}
        self._operands = [[inputs_at[node] for node in batch.operands] for batch in self.batches]  # their places among the arguments
        self.left: list[tuple[str, str]] = found.left if found else []
        self._writes, self._pure = _written_inputs(module.graph), all(map(is_pure, module.graph.nodes))
        for node in module.graph.nodes:  # fake tensors, of which a large graph has thousands
            node.meta.pop("example_value", None)
        # Sizes that dynamo does not guard: those of tensors that have one without a number.
        self._sized = [i for i, t in enumerate(inputs) if isinstance(t, Tensor) and not has_fixed_sizes(t)]
        self._settings: tuple | None = None  # of the calls that run
        self._plans = Memo()  # (settings, sizes) -> the graph's forward with the groups that pay
        self._made: dict[tuple[bool, ...], Callable] = {}  # which groups run as one, which weights are made together -> the forward
        self._settling_ones: dict[tuple[bool, ...], Callable] = {}  # which weights are made together -> the first call's forward
        self._kept: set[tuple[bool, ...]] = set()  # of these, those that calls run, not a trial alone
        self._answers: dict[int, tuple[bool, bool]] = {}

    def __call__(self, *args: Any) -> Any:
        """Plainly where ganfast's ops do not work: under dispatch modes, functorch's levels, tracers, forward-mode AD. Written out, as a
        call of a Python function costs a microsecond here, where dynamo looks at every frame."""
        if (
            not (self.groups or self.batches)
            or torch._C._len_torch_dispatch_stack()
            or torch._C._functorch.peek_interpreter_stack() is not None
            or torch._C._get_tracing_state() is not None
            or forward_ad._current_level >= 0
        ):
            return self.plain(*args)
        settings = (
            _backends._chosen,
            torch.get_num_threads(),
            torch._C._get_deterministic_algorithms(),
            torch._C._get_cudnn_deterministic(),
            here.twice,
        )
        if settings != self._settings:
            self._settings = settings
            for part in (*self.groups, *self.batches):
                part.settings = settings
        look = (settings, *[args[i].shape for i in self._sized])
        plan = self._plans.get(look) or functools.partial(self._settle, look)
        return self._watched(plan, args) if getattr(watching, "modes", None) else plan(*args)

    def _watched(self, plan: Callable, args: tuple) -> Any:
        with contextlib.ExitStack() as stack:
            for mode in watching.modes:
                stack.enter_context(mode)
            return plan(*args)

    def _settle(self, look: tuple, *args: Any) -> Any:
        refuse_in_recording("kernels are chosen")
        self._answers = {}
        before = _Before(self._writes, args)
        weights = [together_pays(batch, [args[i] for i in places]) for batch, places in zip(self.batches, self._operands)]
        result = self._first(tuple(pays for pays, _ in weights))(*args)
        answers = [*(self._answers.get(i, (True, False)) for i in range(len(self.groups))), *weights]
        if all(final for _, final in answers):
            pays = tuple(pays for pays, _ in answers)
            fused = [part for part, pays_alone in zip((*self.groups, *self.batches), pays) if pays_alone]
            # One that was not measured must run as it does: torch may be wrong there.
            measured = bool(fused) and all(part.question for part in fused)
            # Under saved-tensor hooks, checkpointing's, the next run must keep what this one kept.
            hooked = torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
            if measured and self._pure and not hooked and not self._pays_as_a_whole(pays, args):
                pays = (False,) * len(pays)
                for group in self.groups:
                    group.ran, group.outvoted = ("eager",), True
                for batch in self.batches:
                    batch.ran = "eager"
                if before.put_back(args):  # as all later calls: a resumed run makes its first call where another makes its third
                    result = self._with(pays)(*args)
            self._kept.add(pays)
            self._plans[look] = self._with(pays)
        return result

    def _pays_as_a_whole(self, pays: tuple[bool, ...], args: tuple) -> bool:
        questions = [part.question for part in (*self.groups, *self.batches)]
        about = questions, pays, self.module.code, [t.requires_grad for t in args if isinstance(t, Tensor)]
        graph = f"graph of {len(pays)} groups, {sum(pays)} fused, {hashlib.sha256(repr(about).encode()).hexdigest()[:16]}"
        family = f"graph {hashlib.sha256(repr((pays, self.module.code, about[3])).encode()).hexdigest()[:16]}"
        return whole_pays(graph, family, self._with(pays), self.plain, args, self._writes)

    @property
    def fuses(self) -> bool:
        """Whether a group runs as one, or weights are made together, for any size."""
        return any(map(any, self._kept)) if self._kept else bool(self.groups or self.batches)

    def _with(self, pays: tuple[bool, ...]) -> Callable:
        if pays not in self._made:
            calls = [group if pays_alone else None for group, pays_alone in zip(self.groups, pays)]
            self._made[pays] = replaced(self.module, self.groups, calls, self._chosen(pays[len(self.groups) :]))
        return self._made[pays]

    def _chosen(self, pays: tuple[bool, ...]) -> list[Together]:
        return [batch for batch, pays_alone in zip(self.batches, pays) if pays_alone]

    def _first(self, weights: tuple[bool, ...]) -> Callable:
        """The graph's forward that settles each group as it comes to it, with these weights made together."""
        if weights not in self._settling_ones:
            calls = [self._settling(i) for i in range(len(self.groups))]
            self._settling_ones[weights] = replaced(self.module, self.groups, calls, self._chosen(weights))
        return self._settling_ones[weights]

    def _settling(self, i: int) -> Callable[..., Tensor]:
        group = self.groups[i]

        def settle(x: Tensor, *operands: Tensor) -> Tensor:
            self._answers[i], group.outvoted = fused_pays(group, x, operands), False
            if not self._answers[i][0]:
                group.ran = ("eager",)
                return group.plain(x, *operands)
            y = group(x, *operands)
            group.note_backends()
            return y

        return settle


class _Before:
    """What a call of a graph changes, so that it can be made once more: the arguments that it writes to, such as running statistics, and
    torch's random numbers."""

    def __init__(self, writes: set[int], args: tuple) -> None:
        written = {i: args[i] for i in writes}
        self.whole = not any(t.requires_grad or t.is_inference() for t in written.values())  # else autograd saw the write
        self.kept = {i: t.clone() for i, t in written.items()} if self.whole else {}
        self.random = torch.get_rng_state()

    def put_back(self, args: tuple) -> bool:
        """False where that cannot be."""
        if self.whole:
            torch.set_rng_state(self.random)
            for i, t in self.kept.items():
                args[i].data.copy_(t)  # a write that autograd does not count: what an earlier call saved is as it was
        return self.whole


def _written_inputs(graph: fx.Graph) -> set[int]:
    """The places of the arguments that the graph writes to."""
    places = [node for node in graph.nodes if node.op == "placeholder"]
    memory = set().union(*(written(node) for node in graph.nodes))
    return {i for i, node in enumerate(places) if tensor(node) is not None and (version(node) or storages(node) & memory)}


def ganfast(module: fx.GraphModule, inputs: list[Any], **_: Any) -> Callable:
    """The backend by name."""
    return Graph(module, inputs)
