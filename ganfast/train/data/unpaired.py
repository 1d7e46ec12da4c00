"""Domains whose items do not belong together, such as the two of an unpaired translation: each is drawn in an order of its own."""

from torch import Tensor

from ganfast import _checks
from ganfast.train import parts, trees
from ganfast.train.data.batches import Source


class Unpaired:
    """Data by domain, as `unpaired` gives them."""

    def __init__(self, domains: dict[str, object]) -> None:
        self.domains = domains


def unpaired(**domains: object) -> Unpaired:
    """Data for Trainer: unpaired(a=photographs, b=paintings). Each domain may be all that Trainer takes as data, of a length of its own; an
    item is {"a": ..., "b": ...}, drawn independently, an epoch of each as long as it is.

    Raises: ValueError for fewer than two domains.
    """
    if len(domains) < 2:
        _checks.fail("unpaired", f"domains got {list(domains)}, wants at least two by name", "unpaired(a=..., b=...)")
    return Unpaired(domains)


class Together(Source):
    """Sources by domain, each with its own order. `length` is that of the longest."""

    def __init__(self, domains: dict[str, Source], key: parts.Key = None) -> None:
        first = next(iter(domains.values()))
        super().__init__(first.device, first.rows, key=key)
        self.domains, self.spans = domains, ()
        lengths = [source.length for source in domains.values()]
        self.length = None if None in lengths else max(lengths)
        self.broken = [f"{name}: {line}" for name, source in domains.items() for line in source.broken]

    def next(self):
        handles = [source.next() for source in self.domains.values()]
        if (spans := tuple(map(len, handles))) != self.spans:  # a new tuple at each step would be another step to `ganfast.capture`
            self.spans = spans
        return tuple(part for handle in handles for part in handle)

    def open(self, handle, draws):
        found, at = {}, 0
        for (name, source), span in zip(self.domains.items(), self.spans, strict=True):
            found[name] = parts.whole(*source.open(handle[at : at + span], draws))
            at += span
        return self._item(found)

    def _item(self, found: dict[str, object]) -> tuple[Tensor, object]:
        if (form := trees.structure(found)) != self.form:
            self.form = form
        return self.item(trees.leaves(found))

    def first_reals(self, n):
        """As many of each domain: those of a shorter one in turn."""
        found = {name: parts.whole(*source.first_reals(n)) for name, source in self.domains.items()}
        most = max(len(leaf) for leaf in trees.leaves(found))
        return self._item(trees.mapped(lambda leaf: leaf[[i % len(leaf) for i in range(most)]], found))

    def state_dict(self):
        return {name: source.state_dict() for name, source in self.domains.items()}

    def load_state_dict(self, state):
        for name, source in self.domains.items():
            source.load_state_dict(state[name])

    def close(self):
        for source in self.domains.values():
            source.close()
