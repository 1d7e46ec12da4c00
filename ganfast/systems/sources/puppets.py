"""Drawn faces that move: the people of `portraits`, moved by a pose of sixteen numbers, with the key points that belong to it.

    poses = puppets.films(3, frames=20, seed=0)                       # [3, 20, 16] in [-1, 1]: three motions
    people = portraits.attributes(3, seed=1)
    frames = puppets.render(people, poses[:, 0], size=64)             # uint8 [3, 3, 64, 64]
    points = puppets.points(poses[:, 0])                              # [3, 16, 2] in [-1, 1]

So for any person and any pose both the picture and the points are known exactly. All people have a head of the same form: their points
tell nothing of who they are.
"""

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ganfast import _checks
from ganfast.systems.sources import portraits

UNITS = 256  # a picture's side, in the units in which everything here is written
MOVES = {
    "sway": 10.0, "size": 0.05, "head x": 8.0, "head y": 6.0, "tilt": 0.22, "head size": 0.06, "turn x": 13.0, "turn y": 9.0,
    "left brow": 6.0, "right brow": 6.0, "left lid": 0.5, "right lid": 0.5, "gaze x": 5.0, "gaze y": 3.0,
    "mouth open": 0.6, "mouth wide": 0.25,
}  # fmt: skip
"""What a pose's numbers mean, and how far each goes: lengths in units, factors, radians."""
ZOOM = 0.92  # of a person without a pose, so that there is room to move
NECK, FACE = (190.0, 232.0), (128.0, 130.0)  # between these heights the head's motion becomes the body's; what turns most
BOTTOM, PIVOT, BULGE = (128.0, 256.0), (128.0, 200.0), 36.0
LID, MOUTH = 6.5, (127.5, 161.0)  # half the height of an eye; the middle of a mouth
EYES, BROWS = ((100.5, 116.5), (154.5, 116.5)), ((95.0, 97.0), (160.0, 97.0))
AROUND = {"eye": (26, 18), "brow": (26, 16), "mouth": (28, 30)}  # half the sides of the boxes that are redrawn
STILL = {"crown": (128.0, 40.0), "chin": (128.0, 186.0), "left ear": (66.0, 125.0), "right ear": (190.0, 125.0)} | {
    "left shoulder": (48.0, 236.0), "right shoulder": (208.0, 236.0),
}  # fmt: skip
"""Key points that only the head or the body moves. The picture's left is called left."""
NAMES = (*STILL, "left brow", "right brow", "left upper lid", "left lower lid", "right upper lid", "right lower lid") + (
    "mouth left", "mouth right", "mouth top", "mouth bottom",
)  # fmt: skip
_COLUMN = {name: i for i, name in enumerate(MOVES)}


def films(n: int, frames: int, seed: int = 0) -> Tensor:
    """Poses [n, frames, 16] in [-1, 1], the same for the same seed: each number a sum of three sinusoids of up to two swings in 24 frames;
    both lids and both eyebrows move almost alike, and now and then the eyes close.

    Raises: ValueError for counts below 1.
    """
    for name, value in {"n": n, "frames": frames}.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            _checks.fail("puppets", f"{name} got {value!r}, wants a whole number of at least 1")
    draw = torch.Generator().manual_seed(seed)
    uniform = lambda *shape: torch.rand(*shape, generator=draw)
    speed, phase = 2 * math.pi * (0.3 + 1.7 * uniform(n, 1, len(MOVES), 3)) / 24, 2 * math.pi * uniform(n, 1, len(MOVES), 3)
    waves = (speed * torch.arange(frames)[:, None, None] + phase).sin()
    poses = (waves * (0.4 + 0.6 * uniform(n, 1, len(MOVES), 3))).sum(-1).div(1.6).clamp(-1, 1)
    for left, right in (("left brow", "right brow"), ("left lid", "right lid")):
        poses[..., _COLUMN[right]] = 0.8 * poses[..., _COLUMN[left]] + 0.2 * poses[..., _COLUMN[right]]
    blink = ((2 * math.pi * (torch.arange(frames) / 16 + uniform(n, 1))).cos() * 6 - 5).clamp_min(0)[..., None]  # two frames of sixteen
    lids = [_COLUMN["left lid"], _COLUMN["right lid"]]
    poses[..., lids] = (poses[..., lids].abs() * 0.8 + 0.2 - 2.4 * blink).clamp(-1, 1)
    return poses


def points(poses: Tensor) -> Tensor:
    """[n, 16, 2] of poses [n, 16]: where the key points (NAMES) lie, x and y, -1 and 1 being the picture's borders."""
    of = _moves(poses)
    still = torch.tensor(list(STILL.values())).expand(len(poses), -1, -1)
    brows = [torch.stack([torch.full_like(of["tilt"], x), y - of[f"{side} brow"]], 1) for side, (x, y) in zip(("left", "right"), BROWS)]
    lids = [
        torch.stack([x + of["gaze x"], y + of["gaze y"] + sign * LID * (0.7 + of[f"{side} lid"])], 1)
        for side, (x, y) in zip(("left", "right"), EYES)
        for sign in (-1, 1)
    ]
    wide, opened, (x, y) = 20 * (1 + of["mouth wide"]), 10 * (1 + of["mouth open"]), MOUTH
    mouth = [torch.stack(torch.broadcast_tensors(x + a * wide, y + b * opened), 1) for a, b in ((-1, 0), (1, 0), (0, -1), (0, 1))]
    drawn = torch.cat([still, torch.stack([*brows, *lids, *mouth], 1)], 1)
    found = drawn
    for _ in range(40):  # the picture is drawn by asking where each pixel comes from; this is the same question backwards
        found = found + drawn - _source(of, found)
    return found / (UNITS / 2) - 1


def render(people: Tensor, poses: Tensor, size: int = 64) -> Tensor:
    """uint8 [n, 3, size, size] of people (attributes [n, 8] of `portraits`) in poses [n, 16], in [-1, 1].

    Raises: ValueError for as many poses as are no people, or of another form.
    """
    chunks = zip(people.split(64), poses.split(64))
    return torch.cat([posed(layers(some, size), pose).round().clamp(0, 255).to(torch.uint8) for some, pose in chunks])


def layers(people: Tensor, size: int) -> tuple[Tensor, ...]:
    """Body, eyes, eyebrows, mouth, and all that lies above them, [n, 4, 2 size, 2 size] each, colours times alpha from 0 to 255."""
    sheet = portraits.layers(size)
    body, eyes, brows, mouth, *above = sheet["layers"][portraits.stacks(people, sheet)].float().unbind(1)
    return body, eyes, brows, mouth, functools.reduce(lambda below, layer: _over(layer, below), above)


def posed(layers: tuple[Tensor, ...], poses: Tensor) -> Tensor:
    """[n, 3, size, size], from 0 to 255, of `layers` and poses [n, 16], by which it can be differentiated: drawn at twice the size."""
    person, eyes, brows, mouth, above = layers
    if poses.dim() != 2 or poses.shape != (len(person), len(MOVES)):
        _checks.fail("puppets", f"poses are {list(poses.shape)}, wants [{len(person)}, {len(MOVES)}], a row for each person")
    of, none, one, side = _moves(poses), torch.zeros(len(poses)), torch.ones(len(poses)), person.shape[-1]
    for name, eye, brow in zip(("left", "right"), EYES, BROWS):
        person = _redrawn(person, eyes, "eye", eye, (of["gaze x"], of["gaze y"]), (one, 0.7 + of[f"{name} lid"]))
        person = _redrawn(person, brows, "brow", brow, (none, -of[f"{name} brow"]), (one, one))
    person = _redrawn(person, mouth, "mouth", MOUTH, (none, none), (1 + of["mouth wide"], 1 + of["mouth open"]))
    places = _source(of, _pixels(side, (0, 0, side, side)).expand(len(poses), -1, -1))
    places = torch.stack([places[..., 0], places[..., 1].clamp_max(UNITS - UNITS / side)], -1)  # the body goes on below
    places = (places / (UNITS / 2) - 1).view(-1, side, side, 2)
    person = F.grid_sample(_over(above, person), places, align_corners=False)
    field = torch.tensor(portraits.BACKGROUND, dtype=torch.float32)[:, None, None]
    return F.avg_pool2d(person[:, :3] + field * (1 - person[:, 3:] / 255), 2)


def fitted(images: Tensor, people: Tensor, steps: int = 40) -> Tensor:
    """The rule: poses [n, 16] that show these people as in images [n, 3, H, S], floats in [-1, 1], the upper H rows of pictures: by least
    squares, from the middle of all poses on. It learns nothing."""
    found = []
    for image, some in zip(images.split(64), people.split(64)):
        drawn, poses = layers(some, images.shape[3]), torch.zeros(len(some), len(MOVES), requires_grad=True)
        adam = torch.optim.Adam([poses], 0.15)
        for step in range(steps):
            adam.param_groups[0]["lr"] = 0.15 * (1 - step / steps)
            error = (posed(drawn, poses)[:, :, : image.shape[2]] / 127.5 - 1 - image).square().sum()
            (poses.grad,) = torch.autograd.grad(error, poses)
            adam.step()
            poses.detach().clamp_(-1.2, 1.2)
        found.append(poses.detach())
    return torch.cat(found)


def alike(people: Tensor) -> Tensor:
    """int64 [n, m, 8]: of each of the people [n, 8] all others that differ in one part alone."""
    every = [(column, shift) for column, names in enumerate(portraits.parts().values()) for shift in range(1, len(names))]
    others = people[:, None].repeat(1, len(every), 1)
    counts = [len(names) for names in portraits.parts().values()]
    for i, (column, shift) in enumerate(every):
        others[:, i, column] = (others[:, i, column] + shift) % counts[column]
    return others


def _moves(poses: Tensor) -> dict[str, Tensor]:
    """name -> [n], in units, factors and radians."""
    return {name: poses[:, i] * far for i, (name, far) in enumerate(MOVES.items())}


def _source(of: dict[str, Tensor], places: Tensor) -> Tensor:
    """Where what is seen at places [n, m, 2] comes from in the person without a pose; in units."""
    column = lambda *values: torch.stack(torch.broadcast_tensors(*values), -1)[:, None]
    there = (places - torch.tensor(BOTTOM) - column(of["sway"], 0 * of["sway"])) / (ZOOM * (1 + of["size"]))[:, None, None]
    there = there + torch.tensor(BOTTOM)
    below = ((there[..., 1:] - NECK[0]) / (NECK[1] - NECK[0])).clamp(0, 1)
    head = 1 - below * below * (3 - 2 * below)
    arm = there - torch.tensor(PIVOT) - column(of["head x"], of["head y"])
    sine, cosine = of["tilt"].sin()[:, None], of["tilt"].cos()[:, None]
    turned = torch.stack([cosine * arm[..., 0] + sine * arm[..., 1], cosine * arm[..., 1] - sine * arm[..., 0]], -1)
    there = head * (turned / (1 + of["head size"])[:, None, None] + torch.tensor(PIVOT)) + (1 - head) * there
    bulge = (-(there - torch.tensor(FACE)).square().sum(-1, keepdim=True) / (2 * BULGE**2)).exp()
    return there - bulge * column(of["turn x"], of["turn y"])


@functools.lru_cache(maxsize=16)
def _pixels(side: int, box: tuple[int, int, int, int]) -> Tensor:
    """[1, m, 2]: in units the middles of the pixels in a box (left, top, right, bottom) of a picture of that side, row by row."""
    x, y = (torch.arange(box[i], box[i + 2]) + 0.5 for i in range(2))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).view(1, -1, 2) * (UNITS / side)


def _redrawn(
    person: Tensor, layer: Tensor, kind: str, centre: tuple[float, float], move: tuple[Tensor, Tensor], scale: tuple[Tensor, Tensor]
) -> Tensor:
    """The person with a layer over it of which what lies around `centre` is scaled and moved."""
    side, half = person.shape[-1], AROUND[kind]
    left, top, right, bottom = (round((centre[i % 2] + (half[i % 2] if i > 1 else -half[i % 2])) * side / UNITS) for i in range(4))
    places = _pixels(side, (left, top, right, bottom))
    centre, move, scale = torch.tensor(centre), torch.stack(move, -1)[:, None], torch.stack(scale, -1)[:, None]
    there = (places - centre - move) / scale + centre
    patch = F.grid_sample(layer, (there / (UNITS / 2) - 1).view(len(layer), bottom - top, right - left, 2), align_corners=False)
    return _over(F.pad(patch, (left, side - right, top, side - bottom)), person)


def _over(layer: Tensor, below: Tensor) -> Tensor:
    """Premultiplied [n, 4, H, W] each."""
    return layer + below * (1 - layer[:, 3:] / 255)
