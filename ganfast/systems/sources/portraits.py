"""Drawn portraits of people whose parts are known: skin, hair, its colour, beard, glasses, clothes, their colour, mouth. So captions,
attributes, and pairs that differ in one part are exact.

    images, attributes = portraits.pictures(1000, seed=0)          # uint8 [1000, 3, 32, 32], int64 [1000, 8]
    portraits.captions(attributes[:1])                             # "a smiling person with long red hair and pale skin in a blue hoodie"
    portraits.render(portraits.changed(attributes, glasses="sunglasses"), size=64)    # the same people, with sunglasses

Drawn from the layers that the package robohash brings in its set5, made by Pablo Stanley for avataaars.com and given, in that package's
words, "Free for personal and commercial use". Its sets 1 to 4 (robots, monsters, cats; CC-BY) are not used.
"""

import functools
import re

import numpy as np
import torch
from torch import Tensor

from ganfast import _checks
from ganfast.systems import packages

CREDIT = "drawn from avatars by Pablo Stanley (avataaars.com, free for personal and commercial use), as packaged in robohash"
BACKGROUND = (201, 214, 229)
CROP = (64, 0, 960, 896)  # of a layer of 1024x1024: head and shoulders

# part -> value -> the layer's file, without its ending. {hair} is the hair's colour, {cloth} that of the clothes, as the files call them.
PARTS: dict[str, dict[str, str]] = {
    # Of the files' skins and hair colours those of which no two are so alike that a beard could not be seen.
    "skin": {"pale": "000#Body/Pale", "tan": "000#Body/Brown", "dark": "000#Body/Black"},
    "hair": {
        "short": "006#Top/ShortHairShortFlat-{hair}",
        "bobbed": "006#Top/LongHairBob-{hair}",
        "long": "006#Top/LongHairStraight-{hair}",
        "curly": "006#Top/LongHairCurly-{hair}",
        "afro": "006#Top/LongHairFro-{hair}",
    },
    "hair colour": {"black": "Black", "brown": "Auburn", "blonde": "BlondeGolden", "red": "Red"},
    "beard": {"none": "", "beard": "005#FacialHair/BeardMedium-{hair}", "moustache": "005#FacialHair/MoustacheMagnum-{hair}"},
    "glasses": {"none": "", "glasses": "007#Accessories/Prescription02-Black", "sunglasses": "007#Accessories/Wayfarers"},
    "clothes": {"shirt": "004#Cloth/ShirtCrewNeck-{cloth}", "hoodie": "004#Cloth/Hoodie-{cloth}", "overalls": "004#Cloth/Overall-{cloth}"},
    "clothes colour": {
        "black": "Black", "white": "White", "red": "Red", "blue": "Blue02", "green": "PastelGreen", "yellow": "PastelYellow",
    },
    "mouth": {"smiling": "003#Mouth/Smile", "serious": "003#Mouth/Serious"},
}  # fmt: skip
NAMES = {part: list(values) for part, values in PARTS.items()}
ALWAYS = ("001#Eye/Default", "002#Eyebrow/DefaultNatural")
# Layer, as `maps` counts them -> the part that its colour is of, and the part that its form is of.
SEEN = {
    1: ("skin", ""), 4: ("", "mouth"), 5: ("clothes colour", "clothes"), 6: ("hair colour", "beard"), 7: ("hair colour", "hair"),
    8: ("", "glasses"),
}  # fmt: skip
# Noun -> the parts that adjectives before it may tell of, beside its colour.
SAID = {"skin": ("skin",), "hair": ("hair",), "person": ("mouth",)}


def parts() -> dict[str, list[str]]:
    """part -> its values, in the order of the attributes' columns and numbers."""
    return {part: list(names) for part, names in NAMES.items()}


def attributes(n: int, seed: int = 0) -> Tensor:
    """int64 [n, parts]: each part drawn by itself, all its values alike."""
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        _checks.fail("portraits", f"n got {n!r}, wants a whole number of at least 1")
    drawn = torch.rand(n, len(NAMES), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (drawn * torch.tensor([len(names) for names in NAMES.values()])).long()


def everyone() -> Tensor:
    """int64 [19440, parts]: all people that can be drawn."""
    return torch.cartesian_prod(*(torch.arange(len(names)) for names in NAMES.values()))


def pictures(n: int, seed: int = 0, size: int = 32) -> tuple[Tensor, Tensor]:
    """(uint8 [n, 3, size, size], their attributes int64 [n, parts]): the same for the same seed."""
    drawn = attributes(n, seed)
    return render(drawn, size), drawn


def changed(given: Tensor, **values: str) -> Tensor:
    """The attributes [n, parts] with parts of another value, all else kept: changed(a, glasses="none", hair_colour="red")."""
    new = _checked(given).clone()
    for key, value in values.items():
        part = key.replace("_", " ")
        if part not in NAMES:
            _checks.nearest("portraits", "part", part, NAMES)
        if value not in NAMES[part]:
            _checks.nearest("portraits", part, value, NAMES[part])
        new[:, list(NAMES).index(part)] = NAMES[part].index(value)
    return new


def render(given: Tensor, size: int = 32) -> Tensor:
    """uint8 [n, 3, size, size] of the people with these attributes, int64 [n, parts]. Layers are laid over each other at twice the size, in
    the order of the package's folders, then averaged."""
    sheet, out = layers(size), []
    for chunk in stacks(given, sheet).split(64):
        canvas = torch.tensor(BACKGROUND, dtype=torch.float32)[:, None, None].expand(len(chunk), 3, 2 * size, 2 * size)
        for layer in chunk.unbind(1):
            over = sheet["layers"][layer].float()  # premultiplied by its alpha, the last channel
            canvas = over[:, :3] + canvas * (1 - over[:, 3:] / 255)
        out.append(torch.nn.functional.avg_pool2d(canvas, 2).round().clamp(0, 255).to(torch.uint8))
    return torch.cat(out)


def maps(given: Tensor, size: int = 32) -> Tensor:
    """uint8 [n, 3, size, size] of what lies where in the pictures of these people, as numbers. First channel: the layer that is on top, 0
    the background, 1 body, 2 eyes, 3 eyebrows, 4 mouth, 5 clothes, 6 beard, 7 hair, 8 glasses. Second: its colour's number in the
    attributes. Third: its form's. A layer is on top where, of those that cover a quarter of the pixel or more, it is the highest."""
    given, sheet = _checked(given), layers(size)
    below = stacks(given, sheet)
    folders = torch.tensor([int(file[:3] or -1) + 1 for file in sheet["index"]])
    covers = torch.nn.functional.avg_pool2d(sheet["layers"][:, 3].float(), 2) >= 255 / 4
    column = lambda part: given[:, list(NAMES).index(part)] if part else torch.zeros(len(given), dtype=torch.int64)
    told = [torch.stack([column(SEEN.get(layer, ("", ""))[i]) for layer in range(9)], 1) for i in range(2)]
    top = torch.zeros(len(given), size, size, dtype=torch.int64)
    for row in below.unbind(1):
        top = torch.where(covers[row], folders[row][:, None, None], top)
    numbers = [top, *(of.gather(1, top.flatten(1)).view_as(top) for of in told)]
    return torch.stack(numbers, 1).to(torch.uint8)


def read(images: Tensor) -> Tensor:
    """The rule: int64 [n, parts] of pictures [n, 3, size, size], uint8 or floats in [-1, 1]: the attributes of the nearest, by mean squared
    error, of all 19,440 people that can be drawn. It works on the CPU. It learns nothing, so no
    generator can have learned to please it."""
    x = (images.float() if images.dtype == torch.uint8 else (images.float() + 1) * 127.5).flatten(1).cpu()
    best, found = torch.full((len(x),), float("inf")), torch.zeros(len(x), len(NAMES), dtype=torch.int64)
    for chunk in everyone().split(2048):
        drawn = render(chunk, images.shape[2]).float().flatten(1)
        away, row = (drawn.square().sum(1) - 2 * x @ drawn.T).min(1)  # the picture's own square is the same for all
        nearer = away < best
        best, found = torch.where(nearer, away, best), torch.where(nearer[:, None], chunk[row], found)
    return found


def _checked(given: Tensor) -> Tensor:
    _checks.check_tensor("portraits", "attributes", given)
    if given.dtype != torch.int64 or given.dim() != 2 or given.shape[1] != len(NAMES):
        _checks.fail("portraits", f"attributes are {given.dtype} {list(given.shape)}, wants int64 [n, {len(NAMES)}]: {', '.join(NAMES)}")
    for part, column in zip(NAMES, given.T):
        if column.numel() and not 0 <= int(column.min()) <= int(column.max()) < len(NAMES[part]):
            span = f"{int(column.min())} to {int(column.max())}"
            _checks.fail("portraits", f"the attribute {part} holds {span}, wants 0 to {len(NAMES[part]) - 1}: {', '.join(NAMES[part])}")
    return given.cpu()


def stacks(given: Tensor, sheet: dict) -> Tensor:
    """int64 [n, 8]: of each person the rows of the sheet (`layers`): body, eyes, eyebrows, mouth, clothes, beard, hair, glasses, from the
    lowest to the highest."""
    order, index = [], sheet["index"]
    for row in _checked(given).tolist():
        files = _files({part: list(PARTS[part].values())[value] for part, value in zip(NAMES, row)})
        order.append([index[file] for file in files])
    return torch.tensor(order)


def _files(of: dict[str, str]) -> list[str]:
    """Of one person, from the lowest layer to the highest; "" where a part is none."""
    layers = [of["skin"], *ALWAYS, *(of[part] for part in ("mouth", "clothes", "beard", "hair", "glasses"))]
    return [layer.format(hair=of["hair colour"], cloth=of["clothes colour"]) for layer in layers]


@functools.lru_cache(maxsize=2)
def layers(size: int) -> dict:
    """`layers`: uint8 [files, 4, 2 size, 2 size], colours times alpha, and alpha; `index`: file -> its row, an empty one for ""."""
    if isinstance(size, bool) or not isinstance(size, int) or not 8 <= size <= 448:
        _checks.fail("portraits", f"size got {size!r}, wants a whole number from 8 to 448")
    folder = packages.folder("robohash", "the source of portraits") / "sets" / "set5"
    from PIL import Image

    colours = [("hair", PARTS["hair colour"].values()), ("cloth", PARTS["clothes colour"].values())]
    files = {"": None}
    for layer in [*(name for part in PARTS if "colour" not in part for name in PARTS[part].values()), *ALWAYS]:
        for key, names in colours:
            if f"{{{key}}}" in layer:
                files |= dict.fromkeys(layer.format(**{key: name}) for name in names)
        if "{" not in layer:
            files[layer] = None
    drawn = torch.zeros(len(files), 4, 2 * size, 2 * size, dtype=torch.uint8)
    for i, file in enumerate(files):
        if file:
            with Image.open(folder / f"{file}.png") as image:
                small = image.convert("RGBA").convert("RGBa").resize((2 * size, 2 * size), Image.Resampling.BOX, CROP)
            drawn[i] = torch.from_numpy(np.array(small)).permute(2, 0, 1)
    return {"layers": drawn, "index": {file: i for i, file in enumerate(files)}}


def captions(given: Tensor) -> list[str]:
    """Of attributes [n, parts]: "a smiling person with long red hair, pale skin, a beard and glasses in a blue hoodie"; no word of a beard
    or of glasses means none. `parse` reads them back."""
    found = []
    for row in _checked(given).tolist():
        of = {part: NAMES[part][value] for part, value in zip(NAMES, row)}
        having = [f"{of['hair']} {of['hair colour']} hair", f"{of['skin']} skin"]
        having += [] if of["beard"] == "none" else [f"a {of['beard']}"]
        having += [] if of["glasses"] == "none" else [of["glasses"]]
        article = "" if of["clothes"] == "overalls" else "a "
        listed = f"{', '.join(having[:-1])} and {having[-1]}"
        found.append(f"a {of['mouth']} person with {listed} in {article}{of['clothes colour']} {of['clothes']}")
    return found


FILLERS = {"a", "an", "the", "with", "and", "in", "wearing", "who", "is", "has", "of"}


def words() -> list[str]:
    """Every word that `captions` uses and `parse` knows, sorted."""
    return sorted({name for names in NAMES.values() for name in names if name != "none"} | {"person", "skin", "hair"} | FILLERS)


def parse(caption: str) -> Tensor:
    """int64 [parts] of what the caption says, -1 for a part of which it says nothing; without a word of a beard or glasses, none.

    Raises: ValueError that names words that are unknown, stand before nothing they can belong to, or contradict each other.
    """
    asked = re.findall(r"[a-z]+", caption.lower()) if isinstance(caption, str) else []
    if not asked:
        example = captions(torch.zeros(1, len(NAMES), dtype=torch.long))[0]
        _checks.fail("portraits", f"caption got {caption!r}, wants words such as {example!r}")
    if unknown := [word for word in asked if word not in words()]:
        near = "".join(_checks.meant(word, words(), 0.6) for word in unknown)
        raise ValueError(f"portraits: the caption has unknown words: {', '.join(unknown)}; known: {', '.join(words())}.{near}")
    said, waiting = {"beard": {"none"}, "glasses": {"none"}}, []
    for word in asked:
        noun = next((part for part in ("beard", "glasses", "clothes") if word in NAMES[part]), None)
        if noun:
            said[noun] = (said.get(noun, set()) - {"none"}) | {word}
        if noun == "clothes" or word in SAID:
            waiting = _told(word, waiting, SAID.get(word, ()) + (f"{noun or word} colour",), said)
        elif not noun and word not in FILLERS:
            waiting.append(word)
    if waiting:
        nouns = ", ".join([*SAID, *NAMES["clothes"]])
        _checks.fail("portraits", f"the caption says {' '.join(waiting)} of nothing", f"After it comes what it is said of: {nouns}")
    for part, values in said.items():
        if len(values) > 1:
            _checks.fail("portraits", f"the caption says two things of the {part}: {' and '.join(sorted(values))}")
    return torch.tensor([NAMES[part].index(*said[part]) if part in said else -1 for part in NAMES])


def _told(noun: str, waiting: list[str], about: tuple[str, ...], said: dict[str, set[str]]) -> list[str]:
    """Enters the adjectives before a noun; none are left waiting. about: the parts of which they may tell."""
    for word in waiting:
        part = next((part for part in about if word in NAMES.get(part, ())), None)
        if part is None:
            valid = [name for part in about for name in NAMES.get(part, ())]
            _checks.fail("portraits", f"the caption says {word} of {noun}, of which it can say {', '.join(valid)}")
        said.setdefault(part, set()).add(word)
    return []
