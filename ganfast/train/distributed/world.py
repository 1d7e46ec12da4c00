"""The processes of a run: one, or as many as torchrun started.

Gradients are averaged after each backward, as StyleGAN does it, and no network is wrapped in DistributedDataParallel: that averages in
hooks of a plain backward after one forward, and a GAN's step has penalties by torch.autograd.grad, networks that run twice or thrice
before a backward, and updates in which a network only passes gradients on. The cost: no communication while the backward still
runs. Every update adds one all-reduce of the network's gradients.
"""

import atexit
import contextlib
import datetime
import importlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ganfast.train.saving.signals import StopRequests

PATIENCE = 5.0  # seconds in which a process that is alive tells the others so
TIMEOUT = 1800.0  # seconds; the first process alone writes pictures and measures while the others wait


class Unreachable(RuntimeError):
    """A collective operation failed in this process, as happens when another process is gone."""


class Lost(RuntimeError):
    """Another process is gone, which ends the run. told: another process prints the message."""

    def __init__(self, message: str, told: bool) -> None:
        super().__init__(message)
        self.told = told


@contextlib.contextmanager
def _meeting() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # torch's DistError among them
        raise Unreachable(str(error)) from error


def summed(x: Tensor) -> Tensor:
    """Replaces x, contiguous, by its sum over the processes."""
    with _meeting():
        dist.all_reduce(x)
    return x


class World:
    """`rank` of `size` processes that share every batch; one process unless said otherwise, for which all of this costs nothing."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size
        self._own = self._over = False  # _own: this World joined the group and must leave it; _over: the run has ended here
        if size > 1:
            self.group, self._store = dist.group.WORLD, dist.distributed_c10d._get_default_store()
            # Numbers on the host are exchanged by gloo, which does not wait for the device.
            by_gloo = "cpu:gloo" in dist.get_backend_config()
            self._host = self.group if by_gloo else dist.new_group(backend="gloo", timeout=_timeout())

    @classmethod
    def from_environment(cls, device: str = "auto") -> "World":
        """The default process group, if there is one, which stays its maker's; else one of the processes that torchrun started (RANK,
        WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT), left when Python ends; else one process. On GPUs "cuda" is cuda:LOCAL_RANK
        from here on.

        Raises: ValueError where the environment says too little, or asks for more processes than there are GPUs.
        """
        global _joined
        if dist.is_available() and dist.is_initialized():
            if _joined is None or _joined.group is not dist.group.WORLD:
                size = dist.get_world_size()
                _joined = cls(dist.get_rank(), size) if size > 1 else None
            return _joined or cls()
        if int(os.environ.get("WORLD_SIZE", "1")) < 2:
            return cls()
        if missing := [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
            raise ValueError(f"train: WORLD_SIZE is {os.environ['WORLD_SIZE']}, {missing[0]} is not set; torchrun sets both.")
        gpus = device in ("auto", "cuda") and torch.cuda.is_available()
        if gpus:
            local, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
            if local >= count:
                raise ValueError(f"train: LOCAL_RANK is {local}, this machine has {count} GPUs; start as many processes as there are GPUs.")
            torch.cuda.set_device(local)
        # Imported later, by torch._dynamo, it would hold the group by its functions' defaults, and the connections would outlive `close`.
        importlib.import_module("torch.distributed.nn.functional")
        dist.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=_timeout())
        _joined = cls(dist.get_rank(), dist.get_world_size())
        _joined._own = True
        atexit.register(_joined.close)
        return _joined

    def close(self, abort: bool = False) -> None:
        """Leaves the processes that `from_environment` joined; whoever still waits for this one learns it at once. abort: without waiting
        for what is under way on a GPU."""
        if self._own:
            self._own, self.group, self._host = False, None, None
            atexit.unregister(self.close)
            leave = dist.distributed_c10d._abort_process_group if abort else dist.destroy_process_group
            leave()

    @torch.no_grad()
    def average(self, parameters: list[nn.Parameter]) -> None:
        """Gradients become their means over the processes. A parameter that has none in some of them counts as 0 there; one that has
        none in any stays without, so that the optimizer leaves it alone as in one process."""
        if self.size == 1 or not parameters:
            return
        kinds: dict[torch.dtype, list[nn.Parameter]] = {}
        for p in parameters:
            kinds.setdefault(p.dtype, []).append(p)
        held = torch.tensor([float(p.grad is not None) for p in parameters])
        rides = parameters[0].device.type == "cpu"  # sent with the gradients; on a GPU, reading it back would wait for them
        with _meeting():
            asked = None if rides else dist.all_reduce(held, group=self._host, async_op=True)
        flats = []
        for kind, some in kinds.items():
            parts = [(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in some]
            parts += [held.to(kind)] if rides and not flats else []
            flats.append(summed(torch.cat(parts).div_(self.size)))
        with _meeting():
            held = flats[0][-len(held) :] if asked is None else asked.wait() and held
        anywhere = {p for p, share in zip(parameters, held.tolist()) if share}
        for some, flat in zip(kinds.values(), flats):
            sizes = [p.numel() for p in some]
            pairs = [(p, part) for p, part in zip(some, flat[: sum(sizes)].split(sizes)) if p in anywhere]
            for p, _ in pairs:
                p.grad = torch.empty_like(p) if p.grad is None else p.grad
            if pairs:
                torch._foreach_copy_([p.grad for p, _ in pairs], [part.view(p.shape) for p, part in pairs])

    def mean(self, values: Tensor) -> Tensor:
        return values if self.size == 1 else summed(values / self.size)

    def largest(self, *values: float) -> list[float]:
        """The largest value of each number over the processes, exchanged on the host."""
        if self.size == 1:
            return list(values)
        numbers = torch.tensor(values, dtype=torch.float64)
        with _meeting():
            dist.all_reduce(numbers, dist.ReduceOp.MAX, group=self._host)
        return numbers.tolist()

    @torch.no_grad()
    def broadcast(self, *modules: nn.Module) -> None:
        """Copies the parameters and buffers of rank 0 to all processes."""
        if self.size == 1:
            return
        tensors = [t for module in modules for t in (*module.parameters(), *module.buffers())]
        tensors = [t for t in tensors if 0 not in t.stride() or t.is_contiguous()]  # an expanded one cannot be written to
        flat = torch.cat([t.contiguous().view(-1).view(torch.uint8) for t in tensors])
        self.agree("bytes in the networks", flat.numel())
        with _meeting():
            dist.broadcast(flat, 0)
        for t, part in zip(tensors, flat.split([t.numel() * t.element_size() for t in tensors])):
            t.copy_(part.clone().view(t.dtype).view(t.shape))  # a clone: each begins at an address that fits its dtype

    def agree(self, what: str, number: int) -> None:
        """Raises: ValueError if `number` differs between the processes."""
        least, most = self.largest(-number, number)
        if -least != most:
            raise ValueError(f"train: {what}: {-least:.0f} in one process, {most:.0f} in another, wants the same in all.")

    def first(self, function: Callable[[], Any], *, share: bool = False) -> Any:
        """What `function` gives in rank 0, which alone calls it: for all if `share`, else None for the others. Its error is all
        processes' error."""
        if self.size == 1:
            return function()
        made = error = None
        if self.rank == 0:
            try:
                made = function()
            except Exception as raised:
                error = raised
        kind = ValueError if isinstance(error, ValueError) else RuntimeError  # its own may not survive the journey
        sent = [made if share else None, None if error is None else kind(str(error))]
        with _meeting():
            dist.broadcast_object_list(sent, 0, group=self._host, device=torch.device("cpu"))
        if sent[1] is not None:
            raise error or sent[1]
        return made if self.rank == 0 else sent[0]

    @contextlib.contextmanager
    def together(self, where: Callable[[], str] = str) -> Iterator[None]:
        """Around what all processes do. Where one fails, is killed or hangs, all end: one of them with a message that names it and goes on
        with `where()`, or with the error itself; in the others the error's `told` is True."""
        try:
            yield
        except BaseException as error:
            if self.size > 1 and not self._over:
                self._over = True
                with StopRequests():  # torchrun ends those that are left by SIGTERM: not before the reason is found
                    self._find_out(error, where)
            raise

    def _find_out(self, error: BaseException, where: Callable[[], str]) -> None:
        unreachable = isinstance(error, Unreachable)
        mine = "" if unreachable else f"{type(error).__name__}: {error}"
        said = self._say(mine, wait=isinstance(error, Exception))
        teller = min(said)
        if not unreachable:
            error.told = teller != self.rank and said[teller] in ("", mine)
            return
        failed, silent = [r for r in said if said[r]], [r for r in range(self.size) if r not in said]
        if failed:
            reason = f"process {failed[0]} of {self.size} ended with {said[failed[0]].rstrip('.')}"
        elif silent:
            names = " and ".join(map(str, silent))
            reason = f"process {names} of {self.size} no longer answers: killed, hung, or its machine is gone"
        else:
            reason = f"the processes cannot reach each other: {(str(error).splitlines() or [''])[0]}"
        raise Lost(f"train: {reason}{where()}.", teller != self.rank) from error

    def _say(self, mine: str, wait: bool) -> dict[int, str]:
        """What processes that ended say about why, by rank: their own error, "" where they only lost touch with the others."""
        said, until, key = {self.rank: mine}, time.monotonic() + PATIENCE, "ganfast/ended/{}".format
        with contextlib.suppress(RuntimeError):  # the store goes with the process that keeps it
            self._store.set(key(self.rank), "=" + mine)
            self.close(abort=True)
            while wait and len(said) < self.size and time.monotonic() < until:
                for rank in range(self.size):
                    if rank not in said and self._store.check([key(rank)]):
                        said[rank] = self._store.get(key(rank)).decode()[1:]
                time.sleep(0.02)
        return dict(sorted(said.items()))


_joined: World | None = None


def _timeout() -> datetime.timedelta:
    """The time after which a process that hangs counts as lost. A dead one is noticed at once."""
    given = os.environ.get("GANFAST_TIMEOUT", str(TIMEOUT))
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e8:
        raise ValueError(f"train: GANFAST_TIMEOUT is {given!r}, wants seconds.")
    return datetime.timedelta(seconds=seconds)
