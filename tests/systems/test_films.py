import shutil

import pytest
import torch
from PIL import Image

from ganfast.systems.sources import films, moving

GREYS = [10 * i for i in range(1, 13)]


def frame(grey, size=(20, 20)):
    return Image.new("RGB", size, (grey, grey, grey))


def write(folder, greys, size=(20, 20), name="{}.png"):
    folder.mkdir(parents=True, exist_ok=True)
    for i, grey in enumerate(greys):
        frame(grey, size).save(folder / name.format(i))


def gif(path, greys):
    first, *others = [frame(grey) for grey in greys]
    first.save(path, save_all=True, append_images=others, duration=50)


def greys(clip):
    assert clip.dtype == torch.uint8 and clip.shape[1:] == (3, 16, 16)
    return clip[:, 0, 8, 8].tolist()


def test_a_digit_bounces():
    room = torch.tensor([10, 4])
    places = torch.tensor([[8, 1], [11, -1], [14, -3], [17, -5]])  # of an unhindered digit with the speed (3, -2)
    assert moving.bounced(places, room).tolist() == [[8, 1], [9, 1], [6, 3], [3, 3]]


def test_digits_bounce_where_their_ink_touches_a_border():
    digit = torch.zeros(1, 1, 10, 12, dtype=torch.uint8)
    digit[..., 2:7, 4:6], digit[..., 0, 0] = 64, 63
    assert [found.tolist() for found in moving.inked(digit)] == [[[2, 4]], [[6, 5]]]
    places = moving.clips(200, digit, 20, field=8, count=1, fastest=3).places
    assert places.amin((0, 1, 2)).tolist() == [-2, -4] and places.amax((0, 1, 2)).tolist() == [16 - 7, 16 - 6]


def test_clips_by_hand():
    block = torch.full((1, 1, 2, 2), 200, dtype=torch.uint8)  # a pixel of the field
    drawn = moving.render(block, torch.tensor([[0]]), torch.tensor([[[[2, 4]], [[3, 4]], [[3, 5]]]]), 4)[0, :, 0]
    assert drawn[0].tolist() == [[0] * 4, [0, 0, 200, 0], [0] * 4, [0] * 4]
    assert drawn[1].tolist() == [[0] * 4, [0, 0, 100, 0], [0, 0, 100, 0], [0] * 4]
    assert drawn[2].tolist() == [[0] * 4, [0, 0, 50, 50], [0, 0, 50, 50], [0] * 4]
    both = torch.cat([block, block // 2])
    overlap = moving.render(both, torch.tensor([[0, 1]]), torch.tensor([[[[0, 0], [0, 0]], [[0, 0], [6, 6]]]]), 4)[0, :, 0]
    assert overlap[0].sum() == 200 and overlap[1, 0, 0] == 200 and overlap[1, 3, 3] == 100


def test_truth_of_clips():
    digits = (torch.rand(7, 1, 10, 8) * 255).to(torch.uint8) | 64  # ink all over
    clips = moving.clips(300, digits, 6, field=12, fastest=3, seed=1)
    assert clips.frames.shape == (300, 6, 1, 12, 12)
    assert clips.frames.equal(moving.clips(300, digits, 6, field=12, fastest=3, seed=1).frames)
    assert not clips.frames.equal(moving.clips(300, digits, 6, field=12, fastest=3, seed=2).frames)
    room, steps = torch.tensor([14, 16]), clips.places.diff(dim=1)
    assert (clips.places >= 0).all() and (clips.places <= room).all() and (clips.places == room).any((0, 1, 2)).all()
    assert clips.speeds.abs().amax((0, 1)).tolist() == [3, 3] and clips.speeds.abs().sum(2).min() == 1
    inside = ((clips.places[:, :-1] + clips.speeds[:, None] >= 0) & (clips.places[:, :-1] + clips.speeds[:, None] <= room)).all(1)
    assert (steps == clips.speeds[:, None])[inside[:, None].expand_as(steps)].all()
    assert (steps.abs() <= clips.speeds[:, None].abs()).all()
    assert clips.frames.equal(moving.render(digits, clips.which, clips.places, 12))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"n": 0}, "moving: n got 0, wants"),
        ({"count": True}, "moving: count got True"),
        ({"field": 4}, "up to 10 half pixels, the field 8,"),
        ({"digits": torch.zeros(2, 1, 4, 4, dtype=torch.uint8)}, "no pixel of at least 64, wants ink"),
    ],
)
def test_clips_that_cannot_be(given, words):
    with pytest.raises(ValueError, match=words):
        moving.clips(**{"n": 2, "digits": torch.full((1, 1, 10, 8), 255, dtype=torch.uint8), "frames": 5} | given)


def test_sub_folders_are_clips_and_numbers_count_as_numbers(tmp_path):
    write(tmp_path / "b2", GREYS, name="frame{}.png")  # frame10 comes after frame9
    write(tmp_path / "b10", GREYS[:5], size=(40, 30))
    write(tmp_path / "a" / "inner", GREYS[:6])
    write(tmp_path / ".hidden", GREYS[:1])
    (tmp_path / "b2" / "notes.txt").write_text("no picture")
    found = films.films(tmp_path, 16, 5)
    assert {name: greys(clip) for name, clip in found.items()} == {"a/inner": GREYS[:6], "b2": GREYS, "b10": GREYS[:5]}
    assert list(found) == ["a/inner", "b2", "b10"]  # in the order of their names, too


def test_animations_are_clips(tmp_path):
    write(tmp_path / "stills", GREYS[:5])
    gif(tmp_path / "stills" / "film.gif", GREYS[:7])
    gif(tmp_path / "other.gif", GREYS[::-1])
    found = films.films(tmp_path, 16, 5)
    assert {name: greys(clip) for name, clip in found.items()} == {
        "stills": GREYS[:5], "stills/film.gif": GREYS[:7], "other.gif": GREYS[::-1]
    }  # fmt: skip
    assert greys(films.films(tmp_path / "other.gif", 16, 5)["other.gif"]) == GREYS[::-1]


def test_a_still_gif_is_a_clip_of_its_own_and_no_frame_of_its_neighbours(tmp_path):
    write(tmp_path / "stills", GREYS[:6], name="{}.gif")
    assert {name: greys(clip) for name, clip in films.films(tmp_path, 16, 1).items()} == {
        f"stills/{i}.gif": [grey] for i, grey in enumerate(GREYS[:6])
    }
    with pytest.raises(ValueError, match=r"6 clips of fewer than 5 frames: stills/0.gif \(1\), stills/1.gif \(1\)"):
        films.films(tmp_path, 16, 5)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_sizes_are_those_of_the_upright_picture(tmp_path, ending):
    """6 of EXIF: turned by a quarter. A JPEG is decoded smaller, down to 96 pixels where 32 are wanted."""
    turned = Image.Exif()
    turned[0x0112] = 6
    for clip, (sides, exif) in {"large": ((400, 200), None), "small": ((200, 100), None), "turned": ((200, 400), turned)}.items():
        (tmp_path / clip).mkdir()
        for t in range(5):
            frame(GREYS[t], sides).save(tmp_path / clip / f"{t}.{ending}", **({"exif": exif} if exif else {}))
    found = {name: clip.pixels for name, clip in films.clips(tmp_path, 32, 5).items()}
    assert found == {"large": (400, 200), "small": (200, 100), "turned": (400, 200)}
    for there, words in (("small", "200x100"), ("turned", "200x400")):
        mixed = tmp_path.with_name(f"{tmp_path.name}-{there}")
        shutil.copytree(tmp_path / "large", mixed)
        frame(1, tuple(map(int, words.split("x")))).save(mixed / f"7.{ending}")
        with pytest.raises(ValueError, match=rf"clips whose frames have unequal sizes: {mixed.name}: 7.{ending} {words}, most 400x200"):
            films.films(mixed, 32, 5)


def test_links_are_followed_and_one_that_leads_nowhere_is_named(tmp_path):
    write(tmp_path / "elsewhere", GREYS[:5])
    (tmp_path / "films").mkdir()
    (tmp_path / "films" / "clip").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "films" / "round").symlink_to(tmp_path / "films")
    assert {name: greys(clip) for name, clip in films.films(tmp_path / "films", 16, 5).items()} == {"clip": GREYS[:5]}
    (tmp_path / "elsewhere" / "9.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(ValueError, match=r"1 pictures that cannot be read: clip/9.png \(.*No such file"):
        films.films(tmp_path / "films", 16, 5)


def test_of_a_video_it_is_said_how_to_get_its_frames(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"\0\0\0 ftypisom")
    for path in (tmp_path / "a.mp4", tmp_path):
        with pytest.raises(ValueError, match=r"wants a folder of clips or an animated GIF. Videos are not read; .* ffmpeg -i film.mp4 "):
            films.films(path, 16, 5)


def test_a_folder_that_holds_frames_is_a_clip(tmp_path):
    write(tmp_path, GREYS[:5])
    assert [greys(clip) for clip in films.films(str(tmp_path), 16, 5).values()] == [GREYS[:5]]


def test_bad_films_are_named(tmp_path):
    def refused(words, path=tmp_path):
        with pytest.raises(ValueError, match=words):
            films.films(path, 16, 5)

    refused(r"data got '.*/filmz', wants a folder of clips or an animated GIF; there is no such thing. Did you mean 'films'", _mk(tmp_path))
    refused("holds no pictures, wants a folder of clips or an animated GIF")
    write(tmp_path / "good", GREYS)
    write(tmp_path / "short", GREYS[:4])
    gif(tmp_path / "short.gif", GREYS[:2])
    refused(r"data has 2 clips of fewer than 5 frames: short \(4\), short.gif \(2\)")
    refused(r"1 clips of fewer than 5 frames: 0.png \(1\)", tmp_path / "good" / "0.png")
    frame(1, (20, 24)).save(tmp_path / "good" / "7.png")
    refused("1 clips whose frames have unequal sizes: good: 7.png 20x24, most 20x20")
    (tmp_path / "good" / "8.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    refused("1 pictures that cannot be read: good/8.png")


def _mk(tmp_path):
    (tmp_path / "films").mkdir()
    return tmp_path / "filmz"


def test_what_is_held_out():
    clips = [torch.full((t, 1), i) for i, t in enumerate([5, 6, 7, 8, 9, 10])]
    train, held = films.parted(clips, 5)
    assert [int(clip[0]) for clip in train] == [0, 1, 2, 3, 5] and [int(clip[0]) for clip in held] == [4]
    film = torch.arange(100)
    train, held = films.parted([film, film[:9]], 5)
    assert [len(clip) for clip in train] == [80, 9] and [clip.tolist() for clip in held] == [list(range(80, 100))]
    train, held = films.parted([film[:12]], 5)
    assert (len(train[0]), held[0].tolist()) == (7, [7, 8, 9, 10, 11])
    with pytest.raises(ValueError, match="data has 2 clips, the longest of 9 frames, wants five clips, or one of 10 frames"):
        films.parted([film[:9], film[:5]], 5)
    with pytest.raises(ValueError, match="data has one clip of 9 frames, wants"):
        films.parted([film[:9]], 5)


def test_windows():
    film = torch.arange(6)[:, None]
    assert films.windows(film, 5)[..., 0].tolist() == [[0, 1, 2, 3, 4], [1, 2, 3, 4, 5]]
