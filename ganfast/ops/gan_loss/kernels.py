"""Registration of the pass: one signature for every backend, picked by the last argument."""

import torch
from torch import Tensor

from ganfast import _native
from ganfast.ops.gan_loss import reference

_FWD = "(Tensor? real, Tensor fake, str kind, bool generator, float smoothing{}) -> (Tensor, Tensor, Tensor, Tensor)"

_native.define("gan_loss_fwd_native" + _FWD.format(""))


def _fwd(real, fake, kind, generator, smoothing, backend):
    """real [N_real] or None, fake [N_fake], contiguous -> loss [], greal [N_real] or [0], gfake [N_fake], stats [5], all
    float32 (float64 for float64). The `torch` backend is no pass: torch's autograd differentiates the eager chain."""
    args = (real, fake, kind, generator, smoothing)
    if backend in ("cpu", "cuda"):
        return torch.ops.ganfast.gan_loss_fwd_native(*args)
    if backend == "triton":
        from ganfast.ops.gan_loss import triton

        return triton.gan_loss_fwd_triton(*args)
    return reference.gan_loss_fwd_reference(*args)


def _fwd_fake(real, fake, kind, generator, smoothing, backend):
    acc = torch.promote_types(fake.dtype, torch.float32)
    greal = fake.new_empty(0, dtype=acc) if real is None else torch.empty_like(real, dtype=acc)
    return fake.new_empty((), dtype=acc), greal, torch.empty_like(fake, dtype=acc), fake.new_empty(5, dtype=acc)


_call = _native.register("gan_loss_fwd" + _FWD.format(", str backend"), _fwd, _fwd_fake)


def forward_op(real: Tensor | None, fake: Tensor, kind: str, generator: bool, smoothing: float, backend: str):
    """(loss, greal, gfake, stats), the logits of any shape and strides; the gradients are flat."""
    real = None if real is None else _flat(real)
    return _call(real, _flat(fake), kind, generator, smoothing, backend)


def _flat(logits: Tensor) -> Tensor:
    # asked first, because on the usual [N] logits the two calls cost more than the question
    return logits if logits.dim() == 1 and logits.is_contiguous() else logits.reshape(-1).contiguous()
