"""Gradient penalties: R1, R2, WGAN-GP of discriminators, path lengths of generators; `no_weight_gradients` for penalties of one's own."""

import contextlib
import math
import sys
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ganfast import _checks
from ganfast._autograd import autocast_dtype, differentiating_twice, no_autocast, no_weight_gradients

__all__ = ["gradient_penalty", "no_weight_gradients", "path_length_penalty", "r1_penalty", "r2_penalty"]

_FLOAT16_SCALE = 2.0**10

_SHARED = """
    Shapes: {images} [N, ...]; the discriminator gives [N], [N, 1], a map [N, 1, H, W] or [N, L] of logits an image, which are summed.
        ``args`` (labels, embeddings) go to the discriminator after the images. A scalar comes back, without a weight; with
        ``return_logits=True`` (penalty, logits), the logits of the same forward for the loss: a pass less than asking again.
    Dtypes: any floating images; gradients are squared in float32 (float64 for float64), and so is the result. The discriminator runs
        under the caller's autocast, its gradient as recorded. float16 loses small gradients: they are multiplied by ``scale`` on the
        way, by 1024 unless given, and divided in float32; larger ones than 65504/scale become inf, a step that GradScaler skips.
        Scale the sum of loss and penalty by GradScaler as usual.
    Layout: any; the images keep theirs.
    Grads: the discriminator's parameters, by the double backward; none for the images, which are detached. Parameters that the gradient
        does not depend on (the last bias) get None, as unused ones do: under DistributedDataParallel take penalty and loss in one
        backward. Without grad mode: the number, for a log.
    Raises: TypeError for what are no tensors or floats, for a discriminator that gives a tuple; ValueError for wrong sizes;
        RuntimeError for a compiled discriminator (torch has no double backward through a compiled region).
    Source: {source}
    """


def r1_penalty(
    discriminator: Callable[..., Tensor], real: Tensor, *args, return_logits: bool = False, scale: float | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    return _squared("r1_penalty", "real", discriminator, real, args, return_logits, scale)


r1_penalty.__doc__ = "E |d D(x) / dx|^2 over the real images. Usual: ``loss + gamma / 2 * r1_penalty(D, real)``.\n" + _SHARED.format(
    images="real", source="Mescheder, Geiger & Nowozin 2018, equation 9 without gamma / 2."
)


def r2_penalty(
    discriminator: Callable[..., Tensor], fake: Tensor, *args, return_logits: bool = False, scale: float | None = None
) -> Tensor | tuple[Tensor, Tensor]:
    return _squared("r2_penalty", "fake", discriminator, fake, args, return_logits, scale)


r2_penalty.__doc__ = "E |d D(x) / dx|^2 over the generated images.\n" + _SHARED.format(
    images="fake", source="Mescheder, Geiger & Nowozin 2018, equation 10 without gamma / 2."
)


def gradient_penalty(
    discriminator: Callable[..., Tensor],
    real: Tensor,
    fake: Tensor,
    *args,
    generator: torch.Generator | None = None,
    epsilon: Tensor | None = None,
    return_logits: bool = False,
    scale: float | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    op = "gradient_penalty"
    _check_images(op, "real", real)
    _check_images(op, "fake", fake)
    if real.shape != fake.shape:
        cause = "Draw as many fake images as the batch has real ones; the last batch of a loader is often smaller"
        _checks.fail(op, f"fake has shape {tuple(fake.shape)}, real {tuple(real.shape)}; both must be the same", cause)
    _checks.check_device(op, "fake", fake, real, "real")
    with torch.no_grad():
        if epsilon is None:
            device = real.device if generator is None else generator.device
            epsilon = torch.rand(len(real), generator=generator, device=device)
        elif epsilon.shape != real.shape[:1]:
            _checks.fail(op, f"epsilon has shape {tuple(epsilon.shape)}, wants one number for each image: ({len(real)},)")
        epsilon = epsilon.to(real.device).view(-1, *[1] * (real.dim() - 1))
        acc = torch.promote_types(real.dtype, torch.float32)
        images = torch.lerp(fake.to(acc), real.to(acc), epsilon.to(acc)).to(real.dtype)
    gradient, logits = _image_gradient(op, discriminator, images, args, scale)
    penalty = (torch.linalg.vector_norm(gradient.flatten(1), dim=1) - 1).square().mean()
    return (penalty, logits) if return_logits else penalty


gradient_penalty.__doc__ = """E (|d D(x) / dx| - 1)^2 at x = epsilon real + (1 - epsilon) fake, one epsilon for each image, uniform in
    [0, 1], drawn by ``generator`` or torch's own, or given as ``epsilon`` [N]. Usual: ``loss + 10 * gradient_penalty(D, real, fake)``.
    The discriminator wants no batch norm, which mixes the images.
""" + _SHARED.format(images="real and fake, of equal shapes,", source="Gulrajani et al. 2017, equation 3 without lambda.")


def path_length_penalty(
    synthesis: Callable[..., Tensor],
    styles: Tensor,
    mean: Tensor,
    *args,
    memory: float | Tensor = 0.99,
    draw: Callable[[Tensor], Tensor] | None = None,
    scale: float | None = None,
    over: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """E (|J^T y| - a)^2 and the lengths |J^T y|: J the derivative of ``synthesis(styles, *args)`` by the styles, y an image of noise, a the
    mean of the lengths so far. A step of fixed length in the styles then changes images about equally everywhere. ``mean``, a, 0-d
    float32, is moved in place first: mean = memory * mean + (1 - memory) * the lengths' mean; memory a number, or a 0-d tensor. Usual, on
    half of a batch, every fourth step, four times as heavy: ``loss + 4 * 2 * path_length_penalty(G.synthesis, G.mapping(z), mean)[0]``.

    Shapes: styles [N, D], or [N, L, D], one for each of L layers, whose squared lengths are averaged; images [N, C, H, W] -> a scalar,
        lengths [N]. ``draw(images)`` gives the noise before it is divided by sqrt(H W), as torch.randn_like does. Of several processes,
        ``over`` gives the mean of a tensor over them all.
    Dtypes: the synthesis runs under the caller's autocast, its gradient as recorded; lengths in float32 (float64 for float64). float16
        loses small gradients: they are multiplied by ``scale`` on the way, by 1024 unless given.
    Layout: any.
    Grads: all that makes the styles, and the synthesis' parameters, by the double backward. Without grad mode: the numbers, for a log.
    Raises: TypeError for what are no tensors; ValueError for wrong sizes; RuntimeError for a compiled synthesis, or one that does not
        depend on the styles.
    Source: Karras et al. 2020, "Analyzing and improving the image quality of StyleGAN", section 3.2 and appendix B.
    """
    op = "path_length_penalty"
    _check_images(op, "styles", styles)
    if styles.dim() > 3:
        _checks.fail(op, f"styles has shape {tuple(styles.shape)}, wants [N, D] or [N, layers, D]")
    if not isinstance(mean, Tensor) or mean.dim() or not mean.is_floating_point():
        _checks.fail(op, f"mean is {mean!r}, wants a 0-d floating tensor", "torch.zeros((), device=...), kept from step to step", TypeError)
    _refuse_compiled(op, "synthesis", synthesis)
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        styles = styles if styles.requires_grad and differentiable else styles.detach().requires_grad_()
        with differentiating_twice() if differentiable else contextlib.nullcontext():
            images = synthesis(styles, *args)
        _checks.check_tensor(op, "what synthesis gives", images)
        if images.dim() != 4 or len(images) != len(styles):
            _checks.fail(op, f"synthesis gives shape {tuple(images.shape)}, wants [N, C, H, W] with N={len(styles)}")
        if not images.requires_grad:
            _checks.fail(op, "the images do not depend on the styles differentiably", "The synthesis runs under no_grad", RuntimeError)
        scale = _scale(images, styles) if scale is None else scale
        noise = (draw or torch.randn_like)(images.detach()) * (scale / math.sqrt(images.shape[2] * images.shape[3]))
        with no_autocast(images):
            (gradient,) = torch.autograd.grad(images, styles, noise, create_graph=differentiable)
    gradient = gradient.to(torch.promote_types(gradient.dtype, torch.float32)) / scale
    squares = gradient.square().sum(-1)
    lengths = (squares.mean(1) if squares.dim() == 2 else squares).sqrt()
    with torch.no_grad():
        now = lengths.mean().to(mean.dtype)
        mean.lerp_(now if over is None else over(now), 1 - memory)
    return (lengths - mean.clone()).square().mean(), lengths


def _squared(op, argument, discriminator, images, args, return_logits, scale):
    _check_images(op, argument, images)
    gradient, logits = _image_gradient(op, discriminator, images, args, scale)
    penalty = gradient.square().sum() / len(images)
    return (penalty, logits) if return_logits else penalty


def _check_images(op: str, argument: str, images: object) -> None:
    _checks.check_tensor(op, argument, images)
    _checks.check_floating(op, argument, images)
    if images.dim() < 2 or images.shape[0] == 0:
        _checks.fail(op, f"{argument} has shape {tuple(images.shape)}, wants [N, ...] with at least one image")


def _image_gradient(op: str, discriminator, images: Tensor, args: tuple, scale: float | None) -> tuple[Tensor, Tensor]:
    """(d sum(logits) / d images in float32 or float64, logits), both differentiable where grad mode is on."""
    _refuse_compiled(op, "discriminator", discriminator)
    differentiable = torch.is_grad_enabled()
    with torch.enable_grad():
        images = images.detach().requires_grad_()
        with differentiating_twice() if differentiable else contextlib.nullcontext():
            logits = discriminator(images, *args)
        _check_logits(op, logits, images)
        scale = _scale(logits, images) if scale is None else scale
        # Under autocast the recorded graph would be differentiated in other dtypes than it was made.
        with no_autocast(images):
            (gradient,) = torch.autograd.grad(logits, images, torch.full_like(logits, scale), create_graph=differentiable)
    images.requires_grad_(False)  # the loss's backward comes by here, and nobody wants its gradient
    gradient = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
    return (gradient if scale == 1 else gradient / scale), (logits if differentiable else logits.detach())


def _scale(made: Tensor, of: Tensor) -> float:
    return _FLOAT16_SCALE if torch.float16 in (made.dtype, of.dtype, autocast_dtype(of)) else 1.0


def _check_logits(op: str, logits: object, images: Tensor) -> None:
    if isinstance(logits, (tuple, list, dict)):
        cause = "Wrap it: lambda images, *args: discriminator(images, *args)[0] gives the logits alone"
        _checks.fail(op, f"the discriminator gives a {type(logits).__name__}, wants a tensor of logits", cause, TypeError)
    _checks.check_tensor(op, "the discriminator's result", logits)
    if logits.dim() == 0 or logits.shape[0] != images.shape[0]:
        cause = "Logits of single images are wanted, before any mean"
        _checks.fail(op, f"the discriminator gives shape {tuple(logits.shape)}, wants [N, ...] with N={images.shape[0]}", cause)
    if not logits.requires_grad:
        _checks.fail(op, "the logits do not depend on the images differentiably", "The discriminator runs under no_grad or detaches")


def _refuse_compiled(op: str, name: str, module: object) -> None:
    if _is_compiled(module):
        cause = "Pass the module that was compiled, which shares its parameters (compiled._orig_mod), and compile what needs no penalty"
        _checks.fail(op, f"the {name} is compiled, and torch has no double backward through a compiled region", cause, RuntimeError)


def _is_compiled(discriminator: object) -> bool:
    """True for what torch.compile gave, or a module that holds such a part. Asks without importing torch's compiler."""
    if isinstance(discriminator, nn.Module):
        dynamo = sys.modules.get("torch._dynamo.eval_frame")
        optimized = () if dynamo is None else (dynamo.OptimizedModule,)
        compiled = lambda call: call is not None and not getattr(call, "keeps_autograd", False)  # accelerated models' own does
        return any(isinstance(m, optimized) or compiled(m._compiled_call_impl) for m in discriminator.modules())
    return hasattr(discriminator, "_torchdynamo_orig_callable")
