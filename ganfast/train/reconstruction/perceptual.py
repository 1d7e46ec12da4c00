"""How unlike two images look: by features of a network, by a Laplacian pyramid."""

import inspect
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfast import _checks
from ganfast.train import trees

NAMED = ("laplacian", "random")
_FLOOR = 1e-8  # of a squared length: a pixel without features has no direction, and a bounded gradient


def laplacian(made: Tensor, true: Tensor) -> Tensor:
    """Mean absolute errors of the bands of a Laplacian pyramid, added: five at most, the last of which is what is left.

    Shapes: both [N, C, H, W] -> a 0-d tensor. Dtypes: computed in float32. Raises: ValueError for other shapes.
    Source: Bojanowski et al. 2018, "Optimizing the latent space of generative networks", whose sums are means here.
    """
    if made.dim() != 4:
        cause = "Give perceptual=None, or a loss (reconstruction, truth) of your own"
        _checks.fail("train", f'perceptual="laplacian" got shape {list(made.shape)}, wants images [N, C, H, W]', cause)
    rest, loss = made.float() - true.float(), 0  # the pyramid of a difference is the difference of the pyramids
    for _ in range(4):
        if min(rest.shape[2:]) < 4:
            break
        smooth = F.pad(rest, (2, 2, 2, 2), mode="replicate")
        for _ in range(4):  # four times [1, 1] / 2 is [1, 4, 6, 4, 1] / 16
            smooth = F.avg_pool2d(smooth, 2, 1)
        loss = loss + (rest - smooth).abs().mean()
        rest = smooth[:, :, ::2, ::2]
    return loss + rest.abs().mean()


class RandomFeatures(nn.Module):
    """Features of a convolutional network that learned nothing: its weights follow from a seed, the same on every machine.

    Shapes: [N, C, H, W] -> four tensors [N, D, h, w], each of half the size of the one before.
    Source: He, Wang & Hopcroft 2016, "A powerful generative model using random weights for the deep image representation".
    """

    def __init__(self, channels: int, widths: tuple[int, ...] = (16, 32, 64, 64), seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in zip((channels, *widths), widths))
        for layer in self.layers:
            nn.init.kaiming_normal_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> list[Tensor]:
        found = []
        for layer in self.layers:
            x = F.relu(layer(F.avg_pool2d(x, 2, ceil_mode=True) if found else x))
            found.append(x)
        return found


def called(given: Callable, *images: Tensor) -> object:
    """What the user's perceptual network or loss gives. Notes on its errors how it was called, which leaves their type and their traceback,
    where `ganfast.capture` looks for the line, as they are; `call_of` reads it."""
    try:
        return given(*images)
    except Exception as error:
        both = " twice, reconstruction and image" if len(images) == 2 else ""
        grey = images[0].dim() == 4 and images[0].shape[1] == 1 and "channel" in str(error)
        grey = "; a network of colour images wants image.expand(-1, 3, -1, -1)" if grey else ""
        error.ganfast_perceptual = f"perceptual is called with {list(images[0].shape)}{both}{grey}"
        raise


def call_of(error: Exception) -> str:
    """How the perceptual network was called that the error comes from; empty where it comes from elsewhere."""
    return getattr(error, "ganfast_perceptual", "")


def of_features(features: Callable, made: Tensor, true: Tensor) -> Tensor:
    """The squared distance of two images' features, each pixel's scaled to length 1: summed over channels, averaged over pixels and
    images, summed over the tensors that `features` gives.

    Source: Zhang et al. 2018, "The unreasonable effectiveness of deep features as a perceptual metric", without learned weights.
    """
    with torch.no_grad():
        wanted = trees.leaves(called(features, true))
    given = trees.leaves(called(features, made))
    for leaf in given:
        if not isinstance(leaf, Tensor) or leaf.dim() < 2 or len(leaf) != len(made):
            got = f"a tensor {list(leaf.shape)}" if isinstance(leaf, Tensor) else f"a {type(leaf).__name__}"
            _checks.fail("train", f"perceptual gives {got} for {len(made)} images, wants features [N, D, ...]", error=TypeError)
    return sum((_unit(a) - _unit(b)).square().sum(1).mean() for a, b in zip(given, wanted))


def _unit(features: Tensor) -> Tensor:
    features = features.float()
    return features * (features.square().sum(1, keepdim=True) + _FLOOR).rsqrt()


def checked(given: object) -> object:
    """Raises: TypeError, ValueError for a `perceptual` of another kind than `autoencoding` names."""
    if isinstance(given, str):
        if given not in NAMED:
            _checks.nearest("autoencoding", "perceptual", given, NAMED)
    elif isinstance(given, type) or not (given is None or callable(given)):
        got = f"the class {given.__name__}" if isinstance(given, type) else f"a {type(given).__name__}"
        wants = f"one of {', '.join(map(repr, NAMED))}, None, features of an image, or a loss of two images"
        _checks.fail("autoencoding", f"perceptual is {got}, wants {wants}", error=TypeError)
    elif given is not None:
        _arguments(given)
    return given


def _arguments(given: Callable) -> int:
    """1 for features of an image, 2 for a loss of two."""
    call = given.forward if isinstance(given, nn.Module) else given
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):  # a builtin
        parameters = ()
    wanted = [p for p in parameters if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if len(wanted) not in (1, 2):
        cause = "Wrap it: lambda image: ... for features, lambda reconstruction, truth: ... for a loss"
        _checks.fail("autoencoding", f"perceptual takes {len(wanted)} arguments by position, wants 1 or 2", cause, TypeError)
    return len(wanted)


def loss_of(given: object, channels: int, device: torch.device) -> Callable[[Tensor, Tensor], Tensor] | None:
    """A checked `perceptual` as a function (reconstruction, truth) -> 0-d tensor. A module is put on the device, in eval mode, frozen."""
    if given is None or given == "laplacian":
        return laplacian if given else None
    given = RandomFeatures(channels) if isinstance(given, str) else given
    if isinstance(given, nn.Module):
        given.to(device).eval().requires_grad_(False)
    return _Features(given) if _arguments(given) == 1 else _Mean(given)


class _Features:
    def __init__(self, features: Callable) -> None:
        self.features = features

    def __call__(self, made: Tensor, true: Tensor) -> Tensor:
        return of_features(self.features, made, true)


class _Mean:
    """A loss that may come for each image, as that of LPIPS does."""

    def __init__(self, loss: Callable) -> None:
        self.loss = loss

    def __call__(self, made: Tensor, true: Tensor) -> Tensor:
        found = called(self.loss, made, true)
        if not isinstance(found, Tensor):
            _checks.fail("train", f"perceptual gives a {type(found).__name__}, wants a tensor", error=TypeError)
        return found.float().mean()
