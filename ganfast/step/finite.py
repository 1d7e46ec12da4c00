"""A step whose gradients are not finite leaves no trace: decided and done on the device, before the host looks."""

import weakref
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ganfast.step.ema import EMA, check_decay

_Place = tuple[dict, str, Tensor]  # a module's table of buffers, the name in it, the buffer on entering


class FiniteGuard:
    """Around the body of a training step: skips the updates of one whose gradients are inf or NaN, without a wait for the device.

        guard = ganfast.FiniteGuard(generator, discriminator)
        with guard:
            ...
            loss_d.backward()
            norm = guard.step(optimizer_d)
            ...
            loss_g.backward()
            guard.step(optimizer_g, ema=ema, decay=0.999)

    Name every network of the step, and update through guard.step alone. From the first update whose gradients are not finite to the end
    of the block, optimizers and EMAs stand still; on leaving, the modules' buffers (batch norm's statistics) are as they were on
    entering. An update that came before in the block stays. Works under `ganfast.capture`. Entering and leaving copy the buffers, an
    update reads the gradients once more. With a GradScaler: scaler.unscale_(optimizer) before, scaler.update() after
    guard.step(optimizer), which stands for scaler.step. An exception leaves the block with what it did.

    Fields: skipped, a 0-d int64 tensor: blocks in which something was skipped; bad, a 0-d float32 tensor: 1 in and after such a block.
    Dtypes: gradients of any floating dtype; their norm is float32, and one above some 1e19, whose square is beyond its range, counts as not
        finite.
    Shapes: any. Raises: TypeError for what is no module, optimizer or EMA; ValueError for modules on several devices, for an optimizer of
        another network, for a decay outside of 0 to 1; RuntimeError outside of the block, for an optimizer that cannot be skipped on
        the device (torch's Adam, AdamW, SGD and Adagrad with fused=True can), and for SGD's first step with dampening.
    Source: found_inf, as torch.amp.GradScaler hands it to fused optimizers.
    """

    def __init__(self, *modules: nn.Module) -> None:
        for module in modules:
            if not isinstance(module, nn.Module):
                raise TypeError(f"FiniteGuard: modules expects torch.nn.Modules, got {type(module).__name__}.")
        devices = {t.device for m in modules for t in (*m.parameters(), *m.buffers())}
        if len(devices) != 1:
            raise ValueError(f"FiniteGuard: modules expects networks on one device, got {sorted(map(str, devices)) or 'no parameters'}.")
        self.modules, device = modules, devices.pop()
        self.bad, self.skipped = torch.zeros((), device=device), torch.zeros((), dtype=torch.int64, device=device)
        self._before: list[tuple[list[_Place], Tensor]] | None = None
        self._known: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()  # whose parameters were looked at

    def _all(self) -> dict[nn.Module, None]:
        return dict.fromkeys(m for module in self.modules for m in module.modules())

    @torch.no_grad()
    def __enter__(self) -> "FiniteGuard":
        if self._before is not None:
            raise RuntimeError("FiniteGuard: entered twice; each guard is for one step at a time.")
        groups: dict[torch.dtype, list[_Place]] = {}
        for table, name in {id(b): (m._buffers, n) for m in self._all() for n, b in m._buffers.items() if b is not None}.values():
            if 0 not in table[name].stride() or table[name].is_contiguous():  # an expanded one cannot be written to
                groups.setdefault(table[name].dtype, []).append((table, name, table[name]))
        self._before = [(places, _flat([b for *_, b in places])) for places in groups.values()]
        self.bad.zero_()
        return self

    @torch.no_grad()
    def __exit__(self, kind: type | None, *_: object) -> None:
        before, self._before = self._before, None
        if kind is not None:  # a trial of capture, or a mistake: the buffers tell how far it came
            return
        for places, flat in before:
            now = [table[name] for table, name, _ in places]  # a forward may have put another tensor there
            kept = torch.where(self.bad.bool(), flat, _flat(now))
            torch._foreach_copy_(now, [part.view(b.shape) for part, b in zip(kept.split([b.numel() for b in now]), now)])
        self.skipped += self.bad.long()

    @torch.no_grad()
    def step(
        self, *optimizers: torch.optim.Optimizer, ema: EMA | Sequence[EMA] | None = None, decay: float | Tensor | None = None
    ) -> Tensor:
        """The optimizers' steps, then ema.update(decay) of each average, all skipped where a gradient of any of them is not finite. Returns
        the norm of all their gradients, 0-d float32."""
        if self._before is None:
            raise RuntimeError("FiniteGuard: step is for use inside of `with guard:`.")
        if not optimizers:
            raise TypeError("FiniteGuard: step expects a torch.optim.Optimizer, got none.")
        for optimizer in optimizers:
            self._check(optimizer)
        if (ema is None) != (decay is None):
            raise ValueError("FiniteGuard: step expects ema and decay together.")
        averages = () if ema is None else tuple(ema) if isinstance(ema, Sequence) else (ema,)
        for average in averages:
            if not isinstance(average, EMA):
                raise TypeError(f"FiniteGuard: ema expects a ganfast.EMA, got {type(average).__name__}.")
            check_decay(decay)
        gradients = [p.grad for o in optimizers for group in o.param_groups for p in group["params"] if p.grad is not None]
        wide = torch.float64 if any(g.dtype == torch.float64 for g in gradients) else torch.float32
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients, 2.0, wide))).float() if gradients else self.bad * 0
        for optimizer in optimizers:
            _begin_momentum(optimizer)
        self.bad.copy_(torch.maximum(self.bad, (~norm.isfinite()).float()))
        for optimizer in optimizers:
            optimizer.grad_scale, optimizer.found_inf = None, self.bad
            try:
                optimizer.step()
            finally:
                del optimizer.grad_scale, optimizer.found_inf
        for average in averages:
            average.update(decay, skip=self.bad)
        return norm

    def _check(self, optimizer: object) -> None:
        """Raises: TypeError, RuntimeError, ValueError for what cannot be skipped on the device, or is of another network."""
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"FiniteGuard: step expects a torch.optim.Optimizer, got {type(optimizer).__name__}.")
        if not getattr(optimizer, "_step_supports_amp_scaling", False):
            raise RuntimeError(
                f"FiniteGuard: step expects an optimizer that can be skipped on the device, got {type(optimizer).__name__} without fused: "
                "make it with fused=True (Adam, AdamW, SGD, Adagrad)."
            )
        if optimizer not in self._known:
            mine = {id(p) for module in self.modules for p in module.parameters()}
            if not any(id(p) in mine for group in optimizer.param_groups for p in group["params"]):
                remedy = "name every network of the step, FiniteGuard(g, d)"
                raise ValueError(f"FiniteGuard: step got an optimizer of another network: {remedy}.")
            self._known.add(optimizer)


def _begin_momentum(optimizer: torch.optim.Optimizer) -> None:
    """torch's fused SGD makes momentum at its first step, and where that is skipped leaves it as the memory was."""
    for group in optimizer.param_groups:
        if not (isinstance(optimizer, torch.optim.SGD) and group["momentum"]):
            continue
        for p in group["params"]:
            if p.grad is not None and optimizer.state[p].get("momentum_buffer") is None:
                if group["dampening"]:
                    raise RuntimeError(
                        "FiniteGuard: the first step of SGD with dampening is unlike the others: take one without the guard."
                    )
                optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])
