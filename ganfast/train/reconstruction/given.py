"""What an autoencoder gives: its reconstruction, and the losses that it brings with it."""

import inspect
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from ganfast import _checks

Reconstruction = tuple[Tensor, dict[str, Tensor]]  # and losses by name, 0-d tensors


def kl(mean: Tensor, logvar: Tensor) -> Tensor:
    """KL divergence of N(mean, exp(logvar)) from N(0, 1): summed over an image's latents, averaged over images; in float32.

    Source: Kingma & Welling 2014, "Auto-encoding variational Bayes", appendix B.
    """
    mean, logvar = mean.float(), logvar.float()
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum() / len(mean)


def reconstructed(autoencoder: nn.Module, *images: Tensor) -> Reconstruction:
    """autoencoder(image). One that hides its posterior behind `sample_posterior` and `return_dict`, as diffusers' AutoencoderKL does, is
    called in its parts: encode(image).latent_dist, a sample of it in training, its mode in eval mode, and decode."""
    plain = getattr(autoencoder, "_orig_mod", autoencoder)  # of what torch.compile gave
    if hasattr(plain, "decode") and {"sample_posterior", "return_dict"} <= inspect.signature(plain.forward).parameters.keys():
        posterior = autoencoder.encode(*images).latent_dist
        latent = posterior.sample() if autoencoder.training else posterior.mode()
        return given_by(autoencoder.decode(latent))[0], _of_posterior(posterior)
    return given_by(autoencoder(*images))


def given_by(output: object) -> Reconstruction:
    """An output in one of the forms that `autoencoding` names. Raises: TypeError for others."""
    if isinstance(output, Tensor):
        return output, {}
    if isinstance(output, (tuple, list)):
        found = _beside(*output[1:]) if output and isinstance(output[0], Tensor) else None
        return _refused(output) if found is None else (output[0], found)
    part = output.get if isinstance(output, Mapping) else lambda name: getattr(output, name, None)
    made, commitment = part("sample"), part("commit_loss")
    if not isinstance(made, Tensor):
        return _refused(output)
    return made, {} if commitment is None else {"codebook": commitment.float().mean()}


def _beside(*others: object) -> dict[str, Tensor] | None:
    """The losses in what stands beside a reconstruction; None where that is of no known form."""
    if not others:
        return {}
    first, one = others[0], len(others) == 1
    if isinstance(first, Mapping) and one:
        return {name: _number(name, loss) for name, loss in first.items()}
    if isinstance(first, Tensor) and first.numel() == 1:  # of a codebook, and whatever else follows
        return {"codebook": first.float().reshape(())}
    if len(others) == 2 and all(isinstance(other, Tensor) for other in others) and first.shape == others[1].shape and first.dim() > 1:
        return {"kl": kl(*others)}
    return _of_posterior(first) if one and hasattr(first, "mean") and not isinstance(first, Tensor) else None


def _of_posterior(posterior: object) -> dict[str, Tensor]:
    """Some have no spread, and so no divergence."""
    mean, logvar = getattr(posterior, "mean", None), getattr(posterior, "logvar", None)
    return {"kl": kl(mean, logvar)} if isinstance(mean, Tensor) and isinstance(logvar, Tensor) else {}


def _number(name: str, loss: object) -> Tensor:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = f"a tensor {list(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        _checks.fail("train", f"the autoencoder's loss {name!r} is {got}, wants a 0-d tensor", error=TypeError)
    return loss.float().reshape(())


def _refused(output: object) -> Reconstruction:
    parts = output if isinstance(output, (tuple, list)) else [output]
    kinds = ", ".join(f"a tensor {list(part.shape)}" if isinstance(part, Tensor) else f"a {type(part).__name__}" for part in parts)
    wants = "the reconstruction, or a tuple of it with (mean, logvar), a codebook's loss, or losses by name"
    cause = "autoencoding(reconstruct=) takes a function (autoencoder, image) that gives (reconstruction, {name: loss})"
    _checks.fail("train", f"the autoencoder gives {kinds}; wants {wants}", cause, TypeError)


def levels(tensor: Tensor) -> Iterator[list]:
    """The nodes of a tensor's graph, by how many operations they are away from it. From one of several weights that were made together the
    way goes on to what it was made of alone."""
    level, met = [(tensor.grad_fn, tensor.output_nr)] if tensor.requires_grad else [], set()
    while level:
        yield list(dict.fromkeys(node for node, _ in level))
        nearer = dict.fromkeys(before for node, output in level for before in _made_of(node, output))
        level = [place for place in nearer if place[0] is not None and place not in met]
        met.update(level)


def _made_of(node, output: int) -> tuple:
    """What lies before that output of a node, as (node, output) each."""
    lists = getattr(getattr(type(node), "_forward_cls", None), "lists", 0)
    if not lists:
        return node.next_functions
    count = len(node.next_functions) // lists
    return node.next_functions[output::count]


def last_weight(reconstruction: Tensor, network: nn.Module) -> Tensor:
    """The weight that a reconstruction met last, of a convolution or a linear layer: the parameter of two dimensions or more that is the
    fewest operations away from it in its graph. Of several parameters that one layer's weight is made of, the largest.

    Raises: ValueError where there is none, or several layers are as near.
    """
    owner = {p: name for name, p in network.named_parameters() if p.dim() > 1}
    for level in levels(reconstruction):
        found = dict.fromkeys(p for node in level if (p := getattr(node, "variable", None)) is not None and p in owner)
        made = {p for p in found if _is_made_of(owner[p])}  # one operation further away than its layer's weight, and so first
        layers = {_layer(owner[p]) for p in made or found}
        if len(layers) == 1:
            return max(made or found, key=Tensor.numel)
        if found:
            names = ", ".join(sorted(owner[p] for p in found))
            cause = "Name one: autoencoding(last_layer='decoder.conv_out')"
            _checks.fail("train", f"the adaptive weight looks for the autoencoder's last layer, and {names} are as near", cause)
    cause = "Name it: autoencoding(last_layer=), or leave adaptive off"
    _checks.fail("train", "the adaptive weight finds no weight of the autoencoder in the reconstruction's graph", cause)


def _is_made_of(name: str) -> bool:
    """Whether a layer's weight is made of this parameter, as weight norm and spectral norm do."""
    return ".parametrizations." in f".{name}" or name.endswith(("weight_g", "weight_v", "weight_orig"))


def _layer(name: str) -> str:
    """Of a parameter."""
    layer, made, _ = f".{name}".partition(".parametrizations.")
    return layer[1:] if made else name.rpartition(".")[0]


def named_weight(last_layer: object, network: nn.Module) -> nn.Parameter:
    """The weight that `last_layer` leads to: a name or a module of the network, or a parameter of it.

    Raises: TypeError, ValueError for what is none of these.
    """
    parameters, modules = dict(network.named_parameters()), dict(network.named_modules())
    found = last_layer
    if isinstance(last_layer, str):
        found = parameters.get(last_layer, modules.get(last_layer) if last_layer else None)
        if found is None:
            _checks.nearest("autoencoding", "last_layer", last_layer, [*filter(None, modules), *parameters])
    if isinstance(found, nn.Module) and any(found is module for module in modules.values()):
        weights = [p for p in found.parameters() if p.dim() > 1]
        if not weights:
            _checks.fail("autoencoding", f"last_layer is a {type(found).__name__}, which has no weight of two dimensions or more")
        found = max(weights, key=torch.numel)
    if not isinstance(found, nn.Parameter) or not any(found is p for p in parameters.values()):
        got = f"a {type(last_layer).__name__}"
        wants = "a layer of the autoencoder, or its name or weight"
        _checks.fail("autoencoding", f"last_layer is {got}, and none of the autoencoder's; wants {wants}", error=TypeError)
    if not found.requires_grad:
        _checks.fail("autoencoding", f"last_layer is {last_layer!r}, which does not learn", "requires_grad is False")
    return found
