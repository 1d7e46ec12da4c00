"""Networks that enlarge pictures four times: a small one, and the RRDBNet of ESRGAN and Real-ESRGAN, whose state dicts load here."""

import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfast import _checks

WRAPPINGS = ("params_ema", "params")  # what published files hold the state dict under; the average first, as their users take it

# Names that xinntao/ESRGAN's own files have for layers -> Real-ESRGAN's, which RRDBNet has.
OLD_NAMES = {
    r"^RRDB_trunk\.(\d+)\.RDB([123])\.": r"body.\1.rdb\2.", r"^trunk_conv\.": "conv_body.", r"^upconv([12])\.": r"conv_up\1.",
    r"^HRconv\.": "conv_hr.",
}  # fmt: skip


def enlarged(low: Tensor) -> Tensor:
    """Four times bicubically. [N, C, h, w] -> [N, C, 4h, 4w], cut to [-1, 1], which bicubic overshoots."""
    return F.interpolate(low, scale_factor=4.0, mode="bicubic").clamp(-1, 1)


class Upscaler(nn.Module):
    """What bicubic enlargement lacks, by residual blocks at low resolution and two steps up. It begins as bicubic enlargement.

    Shapes: [N, channels, h, w] -> [N, channels, 4h, 4w]; images in [-1, 1], which the result may leave a little.
    Source: Lim et al. 2017, "Enhanced deep residual networks" (blocks without norms); Odena et al. 2016, "Deconvolution and checkerboard
        artifacts" (steps up by nearest neighbours and a convolution: sub-pixels leave a grid where the loss is adversarial).
    """

    def __init__(self, channels: int = 3, width: int = 32, blocks: int = 6) -> None:
        super().__init__()
        conv = lambda c_in, c_out: nn.Conv2d(c_in, c_out, 3, 1, 1)
        up = lambda c_in, c_out: (nn.Upsample(scale_factor=2, mode="nearest"), conv(c_in, c_out), nn.LeakyReLU(0.2))
        self.first = nn.Sequential(conv(channels, width), nn.LeakyReLU(0.2))
        self.blocks = nn.ModuleList(nn.Sequential(conv(width, width), nn.LeakyReLU(0.2), conv(width, width)) for _ in range(blocks))
        half = max(1, width // 2)
        self.up = nn.Sequential(*up(width, half), *up(half, half))
        self.last = conv(half, channels)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)

    def forward(self, low: Tensor) -> Tensor:
        x = self.first(low)
        for block in self.blocks:
            x = x + block(x)
        return enlarged(low) + self.last(self.up(x))


class ResidualDenseBlock(nn.Module):
    """Five convolutions, each of which sees what all before it gave; a fifth of the last one's is added to the input."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        for i in range(1, 6):
            setattr(self, f"conv{i}", nn.Conv2d(width + (i - 1) * growth, growth if i < 5 else width, 3, 1, 1))
        self.lrelu = nn.LeakyReLU(0.2)

    def forward(self, x: Tensor) -> Tensor:
        seen = [x]
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            seen.append(self.lrelu(conv(torch.cat(seen, 1))))
        return x + 0.2 * self.conv5(torch.cat(seen, 1))


class RRDB(nn.Module):
    """Three dense blocks; a fifth of what they give is added to the input."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (ResidualDenseBlock(width, growth) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.2 * self.rdb3(self.rdb2(self.rdb1(x)))


class RRDBNet(nn.Module):
    """Residual-in-residual dense blocks at low resolution, two steps up by nearest neighbours, each with a convolution.

    Shapes: [N, channels, h, w] -> [N, channels, 4h, 4w]; images in [0, 1] as published networks want them, with `signed` in [-1, 1].
    Source: Wang et al. 2018, "ESRGAN"; Wang, Xie, Dong & Shan 2021, "Real-ESRGAN", whose names the layers have.
    """

    def __init__(self, channels: int = 3, width: int = 64, blocks: int = 23, growth: int = 32, signed: bool = False) -> None:
        super().__init__()
        conv = lambda c_in, c_out: nn.Conv2d(c_in, c_out, 3, 1, 1)
        self.signed = signed
        self.conv_first = conv(channels, width)
        self.body = nn.Sequential(*(RRDB(width, growth) for _ in range(blocks)))
        self.conv_body, self.conv_up1, self.conv_up2, self.conv_hr = (conv(width, width) for _ in range(4))
        self.conv_last = conv(width, channels)
        self.lrelu = nn.LeakyReLU(0.2)
        for block in self.body.modules():
            if isinstance(block, nn.Conv2d):  # small at first, or sums of many blocks grow with their number
                nn.init.kaiming_normal_(block.weight)
                block.weight.data.mul_(0.1)
                nn.init.zeros_(block.bias)

    def forward(self, low: Tensor) -> Tensor:
        x = self.conv_first((low + 1) / 2 if self.signed else low)
        x = x + self.conv_body(self.body(x))
        x = self.lrelu(self.conv_up1(F.interpolate(x, scale_factor=2.0, mode="nearest")))
        x = self.lrelu(self.conv_up2(F.interpolate(x, scale_factor=2.0, mode="nearest")))
        x = self.conv_last(self.lrelu(self.conv_hr(x)))
        return 2 * x - 1 if self.signed else x


def sizes(state: Mapping[str, Tensor]) -> dict[str, int]:
    """width, blocks and growth of the RRDBNet that a state dict is of."""
    blocks = {key.split(".")[1] for key in state if key.startswith("body.")}
    return {"width": len(state["conv_first.weight"]), "blocks": len(blocks), "growth": len(state["body.0.rdb1.conv1.weight"])}


def _today(key: str) -> str:
    key = key.removeprefix("module.")
    for old, new in OLD_NAMES.items():
        key = re.sub(old, new, key)
    return key


def rrdbnet(state: Mapping[str, object], signed: bool = False) -> RRDBNet:
    """The RRDBNet that a published state dict is of, with its weights: ESRGAN's (RRDB_trunk.0.RDB1.conv1) or Real-ESRGAN's
    (body.0.rdb1.conv1). What wraps it, {"params_ema": ...} or {"params": ...}, is taken off, and so is the prefix "module." of a
    DataParallel; the sizes are read from the weights' shapes.

    Dtypes: weights of any floating type become float32. Raises: TypeError for what is no state dict; ValueError for keys or shapes that
        are no RRDBNet's of scale 4, with the first of them.
    """
    op = "super-resolution"
    held = next((state[name] for name in WRAPPINGS if name in state), state) if isinstance(state, Mapping) else state
    if not isinstance(held, Mapping) or not held or not all(isinstance(value, Tensor) for value in held.values()):
        what = f"holds {', '.join(map(repr, list(held)[:3])) or 'nothing'}" if isinstance(held, Mapping) else f"is a {type(held).__name__}"
        _checks.fail(op, f"the weights' file {what}, wants a state dict, or one under {' or '.join(WRAPPINGS)}", error=TypeError)
    held = {_today(key): value for key, value in held.items()}
    layout = "conv_first, body.N.rdb1 to rdb3 with conv1 to conv5, conv_body, conv_up1, conv_up2, conv_hr, conv_last"
    for key in ("conv_first.weight", "conv_last.weight", "body.0.rdb1.conv1.weight"):
        if key not in held or held[key].dim() != 4:
            _checks.fail(op, f"the state dict has no {key!r}, its first is {next(iter(held))!r}", f"An RRDBNet has {layout}")
    taken, channels = held["conv_first.weight"].shape[1], len(held["conv_last.weight"])
    if taken != channels:
        cause = "Networks of scale 2 or 1 take 12 or 48, pixels of which they made channels first" if taken in (12, 48) else ""
        _checks.fail(op, f"conv_first of the state dict takes {taken} channels, conv_last gives {channels}, wants as many", cause)
    network = RRDBNet(channels, **sizes(held), signed=signed)
    own = network.state_dict()
    for what, names in (("lacks", own.keys() - held.keys()), ("has too much:", held.keys() - own.keys())):
        if names:
            _checks.fail(op, f"the state dict {what} {sorted(names)[0]!r} ({len(names)} keys)", f"An RRDBNet has {layout}")
    for key, value in held.items():
        if value.shape != own[key].shape:
            _checks.fail(op, f"{key!r} of the state dict is {list(value.shape)}, wants {list(own[key].shape)}")
    network.load_state_dict({key: value.float() for key, value in held.items()})
    return network
