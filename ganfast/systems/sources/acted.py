"""Who is moved, and how, for the system puppet: frames of drawn people or of your own clips, with their key points.

Training pairs are two frames of one person. Held-out drawn people are moved by each other's poses, and as any pose of anybody can be drawn,
the frame that should come out is known.
"""

import functools
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ganfast import _checks
from ganfast.systems.sources import films, portraits, puppets
from ganfast.systems.sources.pointed import Pointed, pointed
from ganfast.train.data import to_float
from ganfast.train.randomness import mixed

TEST = 200  # people who are held out
Items = dict[str, Tensor]


class Source(NamedTuple):
    """A folder of one's own, or None for so many drawn people; the frames' side in pixels."""

    data: str | None
    size: int
    people: int
    seed: int


@functools.lru_cache(maxsize=1)  # training, measure and picture read the same
def sets(of: Source) -> tuple[Items, Items, dict[str, Pointed]]:
    """(train, test, clips that are held out, by name). Items are stills and frames of one person, uint8 [N, 3, S, S], and their points,
    from and to, [N, K, 2]. Drawn people who are tested are in the pose of others; people and pose tell the truth; there are no clips."""
    return _own(of.data, of.size) if of.data else (*_drawn(of), {})


def _drawn(of: Source) -> tuple[Items, Items]:
    _, size, count, seed = of
    every = portraits.everyone()
    people, others = every[torch.randperm(len(every), generator=torch.Generator().manual_seed(0))][: count + TEST].split([count, TEST])
    poses = puppets.films(count, 24, mixed(seed, "train"))[:, ::8].flatten(0, 1)  # of each person three frames
    frames, points = puppets.render(people.repeat_interleave(3, 0), poses, size), puppets.points(poses)
    rows = torch.arange(len(poses)).view(count, 3)
    train = _pairs(frames, points, rows.roll(1, 1).flatten(), rows.flatten())
    start, pose = puppets.films(TEST, 24, mixed(seed, "test"))[:, [0, 12]].unbind(1)
    pose = pose.roll(1, 0)
    test = {"still": puppets.render(others, start, size), "from": puppets.points(start)}
    return train, test | {"frame": puppets.render(others, pose, size), "to": puppets.points(pose), "people": others, "pose": pose}


def _own(data: str, size: int) -> tuple[Items, Items, dict[str, Pointed]]:
    """Training: each frame from two others of its clip; test: the frames of each held-out clip from its first."""
    clips = pointed(data, size, 2)
    frames, points = (torch.cat([clip[i] for clip in clips.values()]) for i in range(2))
    rows = torch.arange(len(frames)).split([len(clip.frames) for clip in clips.values()])
    names = [name for name, row in zip(clips, rows) for _ in row]
    kept, held = films.parted(rows, 2, "puppet")
    starts = [row.roll(max(1, len(row) // part)) for part in (3, 2) for row in kept]
    train = _pairs(frames, points, torch.cat(starts), torch.cat(kept * 2))
    test = _pairs(frames, points, torch.cat([row[:1].expand(len(row) - 1) for row in held]), torch.cat([row[1:] for row in held]))
    return train, test, {names[row[0]]: Pointed(frames[row], points[row]) for row in held}


def _pairs(frames: Tensor, points: Tensor, start: Tensor, end: Tensor) -> Items:
    return {"still": frames[start], "from": points[start], "frame": frames[end], "to": points[end]}


class Scene(NamedTuple):
    """Who is moved: still float [3, S, S] and its points [1, K, 2]; how: points [T, K, 2] of a driver with its frames and, where they are
    known, the true ones [T, 3, S, S]; fields: whose face and whose motion, in words."""

    still: Tensor
    start: Tensor
    points: Tensor
    frames: Tensor
    true: Tensor | None
    fields: dict[str, str]

    def items(self) -> Items:
        """What the generator is asked for, frame by frame."""
        n = len(self.points)
        return {"still": self.still.expand(n, -1, -1, -1), "from": self.start.expand(n, -1, -1), "to": self.points}


def scene(of: Source, number: int, length: int, face: str | None = None, driver: str | None = None) -> Scene:
    """A held-out person, or the first frame of a clip, moved by the next one; `number` counts them. face, driver: paths of others. A film
    of one's own that is shorter begins anew; one at `driver` is taken whole."""
    _, test, held = sets(of)
    names = list(held)
    if of.data is None:
        who, other = (test["people"][(number + i) % TEST].expand(length, -1) for i in range(2))
        poses = puppets.films(1, length, mixed(of.seed, "scene", number))[0]
        still, start = to_float(test["still"][number % TEST]), test["from"][number % TEST][None]
        frames, true = (to_float(puppets.render(one, poses, of.size)) for one in (other, who))
        points, words = puppets.points(poses), [f"drawn, {portraits.captions(one[:1])[0]}" for one in (who, other)]
    else:
        words = [names[(number + i) % len(names)] for i in range(2)]
        shown, (frames, points) = held[words[0]], held[words[1]]
        still, start, at, true = to_float(shown.frames[0]), shown.points[:1], torch.arange(length) % len(points), None
        frames, points = to_float(frames[at]), points[at]
    if face is not None:
        frame, start = _asked("face", face, of, points.shape[1])
        still, words[0], true = to_float(frame[0]), Path(face).resolve().name, None
    if driver is not None:
        frames, points = _asked("driver", driver, of, points.shape[1])
        frames, words[1], true = to_float(frames), Path(driver).resolve().name, None
    return Scene(still, start[:1], points, frames, true, {"Face": words[0], "Driver": f"key points of {words[1]}"})


def _asked(option: str, path: str, of: Source, count: int) -> Pointed:
    """The one clip, or picture, at a path that `ganfast sample` got. Raises: ValueError for several, and for another count of points."""
    clips = pointed(path, of.size, 1, option)
    if len(clips) > 1:
        _checks.fail("puppet", f"{option} {path!r} holds {len(clips)} clips, wants one", f"Name one of them: {', '.join(list(clips)[:5])}")
    (clip,) = clips.values()
    if clip.points.shape[1] != count:
        _checks.fail("puppet", f"{option} {path!r} has {clip.points.shape[1]} points in a frame, the run was trained with {count}")
    return clip
