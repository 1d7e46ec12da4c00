"""Norms whose affine comes from outside, and with a residual, as plain torch: what the tests of all norms share."""

from dataclasses import dataclass

import torch

from ganfast._activations import act_fwd

FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


def laid_out(t: torch.Tensor, channels_last: bool) -> torch.Tensor:
    return t.contiguous(memory_format=FORMATS[t.dim()]) if channels_last else t


@dataclass(frozen=True)
class Outside:
    """scale and shift: "", "vectors" [N, C] or "maps" of x's shape. residual: "", "first" or "last"."""

    affine: str = ""
    residual: str = ""
    factor: float = 1.0

    def tensors(self, x: torch.Tensor, vector: torch.dtype) -> list[torch.Tensor | None]:
        """scale, shift, residual for x"""
        shape, dtype = (x.shape[:2], vector) if self.affine == "vectors" else (x.shape, x.dtype)
        scale, shift = ((torch.randn(shape) + 1).to(dtype), torch.randn(shape).to(dtype)) if self.affine else (None, None)
        return [scale, shift, torch.randn(x.shape).to(x.dtype) if self.residual else None]

    def options(self) -> dict:
        return {"residual_first": self.residual == "first", "factor": self.factor}


NOTHING = Outside()


def formula(z, act, alpha, scale, shift, residual, outside: Outside) -> torch.Tensor:
    """From the normalised z on, in z's dtype."""
    ones = [1] * (z.dim() - 2)
    if scale is not None:
        scale, shift = (t.to(z.dtype) if t.dim() == z.dim() else t.to(z.dtype).view(*t.shape, *ones) for t in (scale, shift))
        z = z * scale + shift
    z = z + residual if outside.residual == "first" else z
    tensor = alpha if isinstance(alpha, torch.Tensor) else None
    y = act_fwd(z, act, tensor, 0.0 if alpha is None or tensor is not None else alpha)
    y = y + residual if outside.residual == "last" else y
    return y if outside.factor == 1 else y * outside.factor
