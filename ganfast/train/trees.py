"""Items as trees: tuples, lists and dicts of tensors, nested as the user likes; their leaves in order, and what each is called."""

from collections.abc import Callable, Mapping, Sequence

LEAF = "leaf"
Structure = str | tuple  # LEAF; ("dict", keys, structures); ("tuple", structures); (a named tuple's class, structures)

_ORDINALS = ("first", "second", "third", "fourth")


def leaves(tree: object) -> list:
    """What a tree holds, from the left to the right."""
    if isinstance(tree, Mapping):
        return [leaf for part in tree.values() for leaf in leaves(part)]
    if isinstance(tree, (tuple, list)):
        return [leaf for part in tree for leaf in leaves(part)]
    return [tree]


def structure(tree: object) -> Structure:
    """What is left of a tree without its leaves: equal for trees of one form. A list counts as a tuple."""
    if isinstance(tree, Mapping):
        return ("dict", tuple(tree), tuple(map(structure, tree.values())))
    if isinstance(tree, (tuple, list)):
        return (type(tree) if hasattr(tree, "_fields") else "tuple", tuple(map(structure, tree)))
    return LEAF


def rebuilt(form: Structure, parts: Sequence) -> object:
    """The tree of this structure with these leaves, as many as it has."""
    return _built(form, iter(parts))


def _built(form: Structure, parts) -> object:
    if form == LEAF:
        return next(parts)
    inner = [_built(part, parts) for part in form[-1]]
    if form[0] == "dict":
        return dict(zip(form[1], inner, strict=True))
    return tuple(inner) if form[0] == "tuple" else form[0](*inner)


def mapped(function: Callable, tree: object) -> object:
    """The tree with `function` of each leaf in its place."""
    return rebuilt(structure(tree), [function(leaf) for leaf in leaves(tree)])


def renewed(function: Callable, tree: object) -> object:
    """As `mapped`; a dict of a class of its own, such as a library's model output, is made anew by its class, kind(name=part, ...), where
    that can be. The tree itself stays as it is."""
    if isinstance(tree, Mapping):
        found = {name: renewed(function, part) for name, part in tree.items()}
        return found if type(tree) is dict else _made(type(tree), found)
    if isinstance(tree, (tuple, list)):
        inner = [renewed(function, part) for part in tree]
        return type(tree)(*inner) if hasattr(tree, "_fields") else tuple(inner)
    return function(tree)


def _made(kind: type, found: dict) -> Mapping:
    try:
        made = kind(**found)
        return made if isinstance(made, Mapping) and list(made) == list(found) else found
    except Exception:  # a class whose parts come in otherwise
        return found


def names(form: Structure, of: str = "the", kind: str = "item") -> list[str]:
    """A name for each leaf: "the second item" of a tuple, "'mask'" of a dict, "'a', the first item" of a dict of tuples."""
    if form == LEAF:
        return [f"{of} first {kind}"]
    keys = map(repr, form[1]) if form[0] == "dict" else (f"{of} {_place(at)} {kind}" for at in range(len(form[-1])))
    found = []
    for key, part in zip(keys, form[-1]):
        found += [key] if part == LEAF else [f"{key}, {name}" for name in names(part)]
    return found


def _place(at: int) -> str:
    return _ORDINALS[at] if at < len(_ORDINALS) else f"{at + 1}th"
