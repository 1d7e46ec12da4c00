"""Features that images are compared by in the metrics: averages of pixels, Inception, or a network of the user's, each with a name."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfast import _checks
from ganfast.train.parts import to_uint8
from ganfast.train.sampling import in_eval_mode

_WEIGHTS = "weights-inception-2015-12-05-6726825d.pth"  # torch-fidelity's file name, in torch.hub's folder
_CHUNK = 250  # images a call


@dataclass(frozen=True)
class Features:
    """`function` [N, C, H, W] in [-1, 1] -> [N, D], called by up to 250 images at a time without gradients, on its own device if it is a
    module, in eval mode, and with every part's own mode back afterwards."""

    name: str
    function: Callable[[Tensor], Tensor]

    def __call__(self, images: Tensor) -> Tensor:
        """[N, D] float32 on the CPU. Raises: TypeError, ValueError where the function gives something else."""
        with torch.no_grad(), in_eval_mode(self.function) as device:
            parts = [self._checked(self.function(part.to(device or part.device)), len(part)) for part in images.split(_CHUNK)]
        return torch.cat(parts)

    def _checked(self, found: object, rows: int) -> Tensor:
        _checks.check_tensor(f"features {self.name}", "the result", found)
        if found.dim() != 2 or len(found) != rows:
            cause = "features.flatten(1) makes rows of maps" if found.dim() > 2 else "Of a classifier take the layer before its logits"
            _checks.fail(f"features {self.name}", f"the result has shape {list(found.shape)}, wants [{rows}, D]", cause)
        return found.float().cpu()


def pixels8(images: Tensor) -> Tensor:
    """[N, C, H, W] in [-1, 1] -> [N, C*64] float32: the 8x8 area averages. Any machine has them; they see layout and colour, no detail."""
    if images.dim() != 4:
        cause = "Points in the plane want Evaluate's measure, vectors features of their own" if images.dim() == 2 else ""
        _checks.fail("features pixels8", f"got shape {list(images.shape)}, wants images [N, C, H, W]", cause)
    return F.adaptive_avg_pool2d(images.float(), 8).flatten(1).cpu()


def inception(device: torch.device | str = "cpu") -> Features:
    """The 2048 features of the Inception network of Heusel et al. 2017, as torch-fidelity computes them: published FIDs are made of these.

    Nothing is downloaded: the weights must lie where torch-fidelity itself keeps them. It needs torchvision, which not every torch has:
    the tests put a stand-in with its interface in its place.
    Raises: ValueError without torch-fidelity or without its weights, with what to do.
    """
    op = "features inception"
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3, FeatureExtractorInceptionV3
    except Exception as error:  # a torchvision of another torch fails by RuntimeError
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        _checks.fail(op, f"torch-fidelity cannot be imported ({reason})", "pip install torch-fidelity, with the torchvision of this torch")
    weights = Path(torch.hub.get_dir()) / "checkpoints" / _WEIGHTS
    if not weights.is_file():
        cause = f"Nothing is downloaded unasked; download {URL_INCEPTION_V3} to that place, or set TORCH_HOME to where it is"
        _checks.fail(op, f"there are no weights at {weights}", cause)
    network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(weights)).to(device)
    return Features("inception", _OfBytes(network))


class _OfBytes(nn.Module):
    """torch-fidelity's networks take RGB bytes and give a tuple."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        if images.dim() != 4 or images.shape[1] not in (1, 3):
            _checks.fail("features inception", f"got shape {list(images.shape)}, wants grey or RGB images [N, 1 or 3, H, W]")
        return self.network(to_uint8(images).expand(-1, 3, -1, -1))[0]


FEATURES: dict[str, Callable[[torch.device | str], Features]] = {
    "pixels8": lambda device: Features("pixels8", pixels8),
    "inception": inception,
}


def features_of(given: object, device: torch.device | str = "cpu") -> Features:
    """None ("pixels8"), a name of FEATURES, Features, or a network or function of the user's, named as its class or itself."""
    if isinstance(given, Features):
        return given
    if given is None or isinstance(given, str):
        name = given or "pixels8"
        return FEATURES[name](device) if name in FEATURES else _checks.nearest("features", "name", name, FEATURES)
    if not callable(given) or isinstance(given, type):
        _checks.fail("features", f"got {given!r}, wants a name, Features, or a function of images", error=TypeError)
    return Features(type(given).__name__ if isinstance(given, nn.Module) else getattr(given, "__name__", type(given).__name__), given)
