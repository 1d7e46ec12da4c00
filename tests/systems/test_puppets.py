import pytest
import torch

from ganfast.systems import provenance
from ganfast.systems.sources import portraits, puppets
from ganfast.train.data import to_float

WIDE_OPEN = {"left lid": 0.6, "right lid": 0.6}  # eyes as they are drawn


def pose(**numbers):
    found = torch.zeros(1, len(puppets.MOVES))
    for name, value in (WIDE_OPEN | {name.replace("_", " "): value for name, value in numbers.items()}).items():
        found[0, list(puppets.MOVES).index(name)] = value
    return found


def dotted(places, layer, size=64):
    """Layers of which one has a round spot at each place, in units, and all else is empty."""
    at = (torch.arange(2 * size) + 0.5) * puppets.UNITS / (2 * size)
    spots = [(-((at - y).square()[:, None] + (at - x).square()) / (2 * 2.5**2)).exp() for x, y in places]
    drawn = [torch.zeros(1, 4, 2 * size, 2 * size) for _ in range(5)]
    drawn[layer][:, :] = 255 * torch.stack(spots).amax(0)
    return tuple(drawn)


def ink(places, layer, given, size=64):
    """Where that spot is drawn, between the picture's borders at -1 and 1."""
    empty = puppets.posed(tuple(torch.zeros(1, 4, 2 * size, 2 * size) for _ in range(5)), given)
    seen = (puppets.posed(dotted(places, layer, size), given) - empty)[0, 0]
    at = (torch.arange(size) + 0.5) * 2 / size - 1
    return torch.stack([(seen.sum(0) * at).sum(), (seen.sum(1) * at).sum()]) / seen.sum()


BODY, EYES, BROWS, MOUTH, ABOVE = range(5)
X, Y = puppets.MOUTH


@pytest.mark.parametrize("given", [pose(), *puppets.films(2, 20, 3)[:, 7, None]], ids=["still", "one", "other"])
@pytest.mark.parametrize(
    ("name", "place", "layer"),
    [
        ("crown", puppets.STILL["crown"], ABOVE), ("chin", puppets.STILL["chin"], BODY), ("left ear", puppets.STILL["left ear"], BODY),
        ("right shoulder", puppets.STILL["right shoulder"], BODY), ("left brow", puppets.BROWS[0], BROWS),
        ("right brow", puppets.BROWS[1], BROWS), ("mouth left", (X - 20, Y), MOUTH), ("mouth bottom", (X, Y + 10), MOUTH),
    ],
)  # fmt: skip
def test_points_lie_where_the_picture_shows_them(given, name, place, layer):
    point = puppets.points(given)[0, puppets.NAMES.index(name)]
    assert torch.allclose(ink([place], layer, given), point, atol=0.02)  # of a pixel, 0.03


def test_eyes_close_and_look():
    lids = [puppets.NAMES.index(name) for name in ("left upper lid", "left lower lid")]
    for given in (pose(), pose(gaze_x=1, gaze_y=-1, tilt=0.5), pose(left_lid=-0.8)):
        upper, lower = puppets.points(given)[0, lids]
        assert torch.allclose(ink([puppets.EYES[0]], EYES, given), (upper + lower) / 2, atol=0.02)
    gap = lambda given: (puppets.points(given)[0, lids[1]] - puppets.points(given)[0, lids[0]])[1].item()
    assert gap(pose(left_lid=-1)) == pytest.approx(gap(pose()) * 0.2, rel=0.05)


def test_without_a_pose_it_is_the_portrait(monkeypatch):
    monkeypatch.setattr(puppets, "ZOOM", 1.0)
    people = portraits.attributes(12, seed=2)
    away = puppets.render(people, pose().expand(12, -1), 32).int() - portraits.render(people, 32).int()
    assert away.abs().float().mean() < 0.5 and away.abs().max() < 40


def test_films():
    poses = puppets.films(200, 24, seed=1)
    assert poses.shape == (200, 24, 16) and poses.abs().max() <= 1 and poses.std((0, 1)).min() > 0.25
    assert poses.equal(puppets.films(200, 24, seed=1)) and not poses.equal(puppets.films(200, 24, seed=2))
    steps, far = poses.diff(dim=1).abs().mean((0, 1)), (poses - poses.roll(1, 0)).abs().mean((0, 1))
    assert (steps < 0.45 * far).all()  # from a frame to the next less than from one film to another
    closed = (poses[..., list(puppets.MOVES).index("left lid")] < -0.5).any(1).float().mean()
    assert closed > 0.8  # nearly everybody blinks in a second
    points = puppets.points(poses.flatten(0, 1))
    assert points.abs().max() < 0.98  # all in the picture


def test_the_rule_finds_poses():
    people, poses = portraits.changed(portraits.attributes(8, seed=4), glasses="none"), puppets.films(8, 3, seed=5)[:, 2]
    images = provenance.above(to_float(puppets.render(people, poses, 32)))
    away = lambda found: (puppets.points(found) - puppets.points(poses)).norm(dim=-1).mean() * 16
    assert away(puppets.fitted(images, people)) < 0.5 < 0.5 * away(torch.zeros(8, 16))


def test_people_who_differ_in_one_part():
    people = portraits.attributes(5, seed=1)
    others = puppets.alike(people)
    assert others.shape == (5, sum(len(names) - 1 for names in portraits.parts().values()), 8)
    assert ((others != people[:, None]).sum(2) == 1).all() and all(len(row.unique(dim=0)) == len(row) for row in others)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="frames got 0, wants a whole number of at least 1"):
        puppets.films(3, 0)
    with pytest.raises(ValueError, match=r"poses are \[3, 8\], wants \[3, 16\], a row for each person"):
        puppets.render(portraits.attributes(3), torch.zeros(3, 8), 32)


@pytest.mark.parametrize("size", [32, 64, 128, 200])
def test_the_mark(size):
    images = torch.rand(5, 3, size, size) * 2 - 1
    marked = provenance.marked(images)
    assert marked.shape == images.shape and provenance.above(marked).equal(provenance.above(images))
    assert provenance.is_marked(marked).all() and not provenance.is_marked(images).any()
    assert provenance.is_marked((marked * 0.8 + 0.1 * torch.randn(images.shape)).clamp(-1, 1)).all()  # as a worse copy
    assert not provenance.is_marked(-marked).any() and not provenance.is_marked(marked.flip(2)).any()
    if size >= 64:
        assert provenance.is_marked(marked.repeat_interleave(3, 2).repeat_interleave(3, 3)).all()


def test_the_mark_is_a_word():
    rows = ["".join("#" if dot > 0 else "." for dot in row) for row in provenance.strip(64).tolist()]
    assert [row[:12] for row in rows[1:6]] == [".###.#.#.##.", ".#...#.#.#.#", ".###..#..#.#", "...#..#..#.#", ".###..#..#.#"]  # SYN
    assert len(rows) == provenance.height(64) == 7 and rows[0][:37] == rows[6][:37] == "." * 37
    assert "#" in rows[0][37:] and provenance.height(128) == 14
