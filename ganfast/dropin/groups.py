"""Groups of a graph's nodes that run as one, and the graph with some of them replaced."""

import operator
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, fx

from ganfast import _backends
from ganfast._memo import Memo
from ganfast._tell import tell
from ganfast.dropin import arithmetic, nodes
from ganfast.dropin.graphs import alone
from ganfast.dropin.nodes import name_of, storages, tensor
from ganfast.dropin.steps import Step, single_use
from ganfast.dropin.table import ACTIVATIONS, ALONE, BEHIND_ALONE, STEPS
from ganfast.dropin.weights import Together
from ganfast.ops.bias_act.autograd import what_is_saved

Naming = Callable[[fx.Node, str], str]  # what the user calls a node that makes a call of a function
_OPERANDS = (
    "weight", "bias", "added", "mean", "var", "gain", "shift", "scale", "offset", "by", "more", "alpha", "residual", "beta", "filter",
    "down_filter", "style", "noise",
)  # fmt: skip
_MOST_LOOKS = 256  # of which a group keeps what was decided: a network may have a hundred groups
_SAVE_THEIR_OUTPUT = ("relu", "tanh", "sigmoid")


class Group:
    """Steps of one graph in a row. Called with x and the operands it gives what they give, by ganfast's ops; `plain` runs torch's own.

    layers: the user's names of what it stands for; ran: what ran last, a backend for each of ganfast's ops or "eager"; question: the
    tuner's, whose times it was decided by.
    """

    def __init__(self, steps: list[Step], spec: arithmetic.Spec, called: Naming) -> None:
        self.steps, self.spec = steps, spec
        self.__name__ = "_and_".join(spec.ops)  # what a graph's code calls it
        self.nodes = [node for step in steps for node in step.nodes]
        given = {name: node for step in steps for name, node in step.tensors.items()}
        self.operands = [given["x"]]
        self._at = [name for name in _OPERANDS if name in given]
        self.operands += [given[name] for name in self._at]
        self._sized = [i for i, node in enumerate(self.operands[1:]) if not nodes.has_fixed_sizes(tensor(node))]  # kernels cut by code
        self._none = dict.fromkeys(_OPERANDS)
        labels = [label for step in steps for label in _labels(step, called)]
        self.layers = tuple(label for i, label in enumerate(labels) if label.endswith("()") or i == 0 or label != labels[i - 1])
        self.plain = alone(self.nodes, self.operands)
        training = spec.norm is not None and spec.norm.get("training", False)
        self.writes = [i for i, name in enumerate(self._at, 1) if training and name in ("mean", "var")]  # operands that it writes to
        self.ran: tuple[str, ...] = ()
        self.question = ""
        self.settings: tuple = ()  # of the calls that run
        self._bounds = Memo()  # settings and the look of a call -> what the ops decided for it
        self._bounds.MOST = _MOST_LOOKS
        self.outvoted = False  # whether the graph as a whole was faster with torch's calls

    @property
    def lost_bias(self) -> int | None:
        """The place among x and the operands of a bias that a norm by the data's own statistics takes away again: its gradient is rounding
        alone, which no two ways share."""
        norm = self.spec.norm
        own = norm is not None and (norm["kind"] == "instance" or norm.get("training", False))
        return self._at.index("bias") + 1 if own and "bias" in self._at else None

    def __call__(self, x: Tensor, *operands: Tensor) -> Tensor:
        look = (self.settings, x.shape, x.stride())
        if x.is_cuda:  # a tile for TF32 is none for exact float32, one for aligned memory none for any other
            look = (*look, x.data_ptr() % 16, torch.backends.cudnn.conv.fp32_precision)
        if self._sized:
            look = (*look, *[(operands[i].shape, operands[i].stride()) for i in self._sized])
        bound = self._bounds.get(look)
        if bound is None:
            bound = self._bounds[look] = arithmetic.Bound()
        return arithmetic.run(self.spec, bound, x, {**self._none, **dict(zip(self._at, operands))})

    def note_backends(self) -> None:
        """What ran just now."""
        norms = "batch_norm_act_modulated" if self.spec.modulates else "batch_norm_act"
        kernels = {"batch_norm_act": norms, "instance_norm_act": norms}
        self.ran = tuple(_backends.ran.get(kernels.get(op, op), "") for op in self.spec.ops)

    @property
    def words(self) -> str:
        """What it is about, but for the size of x: the tuner's family."""
        options = {k: v for step in self.steps for k, v in step.options.items()}
        return f"{' + '.join(step.label for step in self.steps)} {options}"


def _labels(step: Step, called: Naming) -> list[str]:
    """What the user calls a step: of an op of its own the layers that it is spread over, where it has any."""
    names = [called(node, step.label) for node in (step.nodes if "op" in step.options else step.nodes[:1])]
    return [name for name in names if not name.endswith("()")] or names[:1]


class Found:
    """All groups of a graph, and why other layers were left: [(node's name for the user, reason)]."""

    def __init__(self, graph: fx.Graph, called: Naming, recompute: bool) -> None:
        self.recompute = recompute
        self._without_views_that_change_nothing(graph)
        self.nodes, self.regimes = list(graph.nodes), nodes.regimes(graph)
        self.order = {node: i for i, node in enumerate(self.nodes)}
        output = next(node for node in graph.nodes if node.op == "output")
        self.outputs = storages(*output.all_input_nodes)
        self.inputs = storages(*(node for node in graph.nodes if node.op == "placeholder"))
        if any(map(_known, self.nodes)) and not any("example_value" in node.meta for node in self.nodes):
            tell(f"torch {torch.__version__} does not say of its graphs' tensors what they look like (example_value): nothing runs as one")
        self.writers = [(node, to) for node in self.nodes if (to := nodes.written(node))]
        self.groups: list[Group] = []
        self.refused: dict[fx.Node, str] = {}
        taken: set[fx.Node] = set()
        for node in graph.nodes:
            if node not in taken and (steps := self._longest(node, taken)):
                self.groups.append(Group(steps, self._spec(steps), called))
                taken.update(self.groups[-1].nodes)
        self.left = [(called(node, name_of(node)), self._why(node)) for node in graph.nodes if node not in taken and _known(node)]

    @staticmethod
    def _without_views_that_change_nothing(graph: fx.Graph) -> None:
        """A codec's snake flattens what is flat already. What the caller gets, or had, stays an object of its own."""
        when = nodes.regimes(graph)
        for node in list(graph.nodes):
            same = nodes.is_same(node) and when[node] == when[node.args[0]] and node.args[0].op != "placeholder"
            if same and not any(user.op == "output" for user in node.users):
                node.replace_all_uses_with(node.args[0])
                graph.erase_node(node)

    def _longest(self, node: fx.Node, taken: set[fx.Node]) -> list[Step]:
        """From the node on, as far as it may go. A sum of two branches is that of the first."""
        steps = self._grown(node)
        steps = steps[: next((i for i, step in enumerate(steps) if not taken.isdisjoint(step.nodes)), len(steps))]
        while steps and (why := self._why_not(steps)):
            self.refused.setdefault(node, why)
            steps = steps[:-1]
        return steps

    def _grown(self, node: fx.Node) -> list[Step]:
        steps: list[Step] = []
        while True:
            role, value = (steps[-1].role, steps[-1].value) if steps else ("", None)
            user = (single_use(value) or (None,))[0] if steps else node
            alone = bool(steps) and steps[0].role in ALONE
            readers = [(name, after, reader) for name, (after, reader) in STEPS.items() if role in after]
            found = (reader(user if "" in after else value, steps) for name, after, reader in readers if not alone or name in BEHIND_ALONE)
            step = next(filter(None, found), None)
            if step is None:
                return steps
            if steps:
                step.tensors.pop("x", None)
            steps.append(step)

    def _why_not(self, steps: list[Step]) -> str:
        """Why these steps may not run as one; empty where they may."""
        return _one_pass(steps) or _unlike(steps) or self._keeps_more_than_eager(steps) or self._parted(steps)

    def _keeps_more_than_eager(self, steps: list[Step]) -> str:
        """Of a group that begins with a bias add: bias_act's backward may read what it adds up. Of a norm: what is added to it before an
        activation."""
        if not steps[0].options.get("eager_keeps", True) and self._reaches(steps[0].tensors["x"]):
            return "its backward would keep an input that may be changed"
        of, spec = {step.role: step for step in steps}, self._spec(steps)
        if "noise" in of and self._changes(of["noise"].tensors["noise"]):
            return "its backward would keep a summand that may be changed"
        added = [of["residual"].tensors["residual"]] if spec.residual == "first" else []
        if "modulation" in of and not nodes.per_image(of["modulation"].tensors["more"], tensor(steps[0].value)):
            added.append(of["modulation"].tensors["more"])
        if "norm" in of and any(map(self._changes, added)):
            return "its backward would keep a summand that may be changed"
        if steps[0].role != "bias" or not (self._reaches(steps[0].tensors["x"]) or any(map(self._changes, added))):
            return ""
        alpha = next((tensor(step.tensors["alpha"]) for step in steps if "alpha" in step.tensors), None)
        alpha_value = 1.0 if spec.alpha is None else spec.alpha
        kept = what_is_saved(spec.act, alpha, alpha_value, spec.gain, spec.clamp, spec.open_output, spec.residual, spec.factor)
        return "its backward would keep an input that may be changed" if kept == "x" else ""

    def _parted(self, steps: list[Step]) -> str:
        """What stands between their calls, or is switched there, that forbids to make them at one place."""
        parts = [node for step in steps for node in step.nodes]
        if any(self.regimes[node] != self.regimes[parts[-1]] for node in parts):
            return "grad mode or autocast is switched between its parts"
        reads = storages(*(node for step in steps for node in step.tensors.values()))
        writes = set().union(*(nodes.written(node) for node in parts if not nodes.works_in_place(node)))
        # What a step makes of its operands alone, the inverse of an alpha, may stand before the step that comes first.
        for node in self.nodes[min(self.order[node] for node in parts) : self.order[parts[-1]]]:
            if node in parts:
                continue
            if nodes.is_barrier(node):
                return f"{node.name} stands between its parts"
            if nodes.written(node) & reads or storages(*node.all_input_nodes) & writes:
                return f"{node.name} changes or reads, between its parts, what it works on"
        return ""

    def _reaches(self, node: fx.Node, own: int = 0) -> bool:
        """Whether somebody outside, or a later write, can get at the node's memory; own: how many writes are the group's."""
        return bool(storages(node) & (self.inputs | self.outputs)) or nodes.version(node) > own

    def _changes(self, summand: fx.Node) -> bool:
        """The same of a summand, which may have been made in place."""
        own = storages(summand)
        return self._reaches(summand, sum(bool(to & own) for node, to in self.writers if self.order[node] <= self.order[summand]))

    def _spec(self, steps: list[Step]) -> arithmetic.Spec:
        by_role = {step.role: step.options for step in steps}
        act = by_role.get("act", {"act": "linear", "alpha": None, "in_place": False})
        own = sum(nodes.works_in_place(node) for step in steps for node in step.nodes)
        kept_by_eager = (act["in_place"] or act["act"] in _SAVE_THEIR_OUTPUT) and steps[-1].role == "act"
        options, scale = by_role.get("conv"), by_role.get("upsample", {}).get("scale")
        if options is not None:
            takes = ("padding", "groups") if scale else options.keys() - {"transposed"}
            options = {k: v for k, v in options.items() if k in takes}
        return arithmetic.Spec(
            transposed="conv" in by_role and by_role["conv"]["transposed"], conv=options, scale=scale, norm=by_role.get("norm"),
            act=act["act"], alpha=act["alpha"], gain=by_role.get("gain", {}).get("gain", 1.0), clamp=by_role.get("clamp", {}).get("clamp"),
            modulated="modulation" in by_role, residual=_place_of_residual([step.role for step in steps]),
            factor=by_role.get("factor", {}).get("factor", 1.0), widens=_widens(steps),
            open_output=not kept_by_eager and self._reaches(steps[-1].value, own),
            whole=steps[0].options if "op" in steps[0].options else None, follows=len(steps) > 1,
            clones_x=scale is not None and self._reaches(steps[0].tensors["x"]), recompute=self.recompute,
        )  # fmt: skip

    def _why(self, node: fx.Node) -> str:
        if node in self.refused:
            return self.refused[node]
        if name_of(node).startswith(("conv", "batch_norm", "instance_norm", "group_norm", "interpolate")):
            if not nodes.is_floating(tensor(node)):
                return "its input is no real floating tensor"
            if name_of(node) == "interpolate":
                return "no nearest upsampling by whole factors right before a convolution with stride 1 and zero padding"
            return "options that ganfast's op has not: statistics of its own, a size that changes, an input without a batch"
        return "what it follows is no convolution, norm or bias add, or is read elsewhere too"


def _place_of_residual(roles: list[str]) -> str:
    """Without an activation "last": of that nothing is kept."""
    return "" if "residual" not in roles else "first" if "act" in roles[roles.index("residual") :] else "last"


_KNOWN = ("batch_norm", "instance_norm", "group_norm", "interpolate", *ACTIVATIONS)


def _known(node: fx.Node) -> bool:
    """Whether a user may ask why it is no part of a group."""
    name = name_of(node).rstrip("_")
    return name in _KNOWN or (name.startswith("conv") and name[-2:] in ("1d", "2d", "3d"))


def _one_pass(steps: list[Step]) -> str:
    roles = {step.role for step in steps}
    return "" if roles & {"conv", "norm", *ALONE} or roles >= {"bias", "act"} or roles >= {"bias", "residual"} else "one pass already"


def _widens(steps: list[Step]) -> bool:
    """Whether autocast takes a group norm's x as float32, as it does on a GPU."""
    step = steps[0]
    return step.options.get("kind") == "group" and tensor(step.tensors["x"]).itemsize < tensor(step.value).itemsize


def _unlike(steps: list[Step]) -> str:
    x, values = tensor(steps[0].tensors["x"]), [tensor(node) for step in steps for node in step.nodes]
    casts = any(step.role == "conv" for step in steps) or _widens(steps)  # autocast casts x before a convolution
    alike = len({t.dtype for t in (values if casts else [x, *values])}) == 1
    return "" if alike and all(type(t) is type(x) and t.device == x.device for t in values) else "its values differ in dtype"


def replaced(module: fx.GraphModule, groups: list[Group], calls: list[Callable | None], batches: Sequence[Together] = ()) -> Callable:
    """The graph's forward with each group as its call, None: torch's own nodes stay; and with these weights made together."""
    graph, new = fx.Graph(), {}
    ends = {group.nodes[-1]: (group, call) for group, call in zip(groups, calls) if call is not None}
    inside = {node for group, call in ends.values() for node in group.nodes}.union(*(batch.nodes for batch in batches))
    starts = {batch.start: batch for batch in batches}
    for node in module.graph.nodes:
        if (batch := starts.get(node)) is not None:
            made = graph.call_function(batch, tuple(new[operand] for operand in batch.operands))
            new.update({value: graph.call_function(operator.getitem, (made, i)) for i, value in enumerate(batch.values)})
            new.update({same: new[operand] for same, operand in batch.same.items()})
        if node in ends:
            group, call = ends[node]
            new[node] = graph.call_function(call, tuple(new[operand] for operand in group.operands))
        elif node not in inside:
            new[node] = graph.node_copy(node, lambda n: new[n])
    graph.lint()
    return fx.GraphModule(module, graph).forward
