"""Captions as words, token ids and vectors: the vocabulary, a small encoder that is learned from pictures, ready-made encoders by name."""

import re
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ganfast import _checks

PAD = 0  # token id of no word


def words(caption: str) -> list[str]:
    """In lower case, without punctuation."""
    return re.findall(r"[^\W_]+(?:['-][^\W_]+)*", caption.lower())


def refuse_unknown(op: str, caption: str, known: Iterable[str]) -> None:
    """Raises: ValueError that names every word of the caption that is not known, with the known one that is most like it."""
    known = sorted(known)
    unknown = [word for word in dict.fromkeys(words(caption)) if word not in known]
    if unknown:
        meant = "".join(f" {word!r}:{found}" for word in unknown if (found := _checks.meant(word, known)))
        names = ", ".join(map(repr, unknown))
        _checks.fail(op, f"caption {caption!r} has words that are not known: {names}; known: {', '.join(known)}", meant.strip().rstrip("."))


class Vocabulary:
    """The words of a training set's captions, numbered from 1; 0 fills captions up to `length` words.

    Raises: ValueError for captions without a word; by `tokens`, for words that are not known and captions that are too long.
    """

    def __init__(self, known: Sequence[str], length: int) -> None:
        self.words, self.length = list(known), length
        self.number = {word: i + 1 for i, word in enumerate(self.words)}

    @classmethod
    def of(cls, captions: Iterable[str]) -> "Vocabulary":
        split = [words(caption) for caption in captions]
        if not any(split):
            _checks.fail("text", "the captions hold no word")
        length = max(2, *map(len, split))  # token ids in one column would be taken for labels
        return cls(sorted({word for caption in split for word in caption}), length)

    def __len__(self) -> int:
        """Token ids, that of no word included."""
        return len(self.words) + 1

    def tokens(self, captions: Sequence[str]) -> Tensor:
        """int64 [N, length]."""
        rows = []
        for caption in captions:
            refuse_unknown("text", caption, self.words)
            row = [self.number[word] for word in words(caption)]
            if not 0 < len(row) <= self.length:
                _checks.fail("text", f"caption {caption!r} has {len(row)} words, wants 1 to {self.length}, as in training")
            rows.append(row + [PAD] * (self.length - len(row)))
        return torch.tensor(rows, dtype=torch.int64)


class WordNetwork(nn.Module):
    """Token ids to one vector a caption: a table of word vectors, features of each three words in a row, and of each feature its highest
    value in the caption, so that the same words mean the same wherever they stand.

    Shapes: tokens int64 [N, L], 0 after a caption's end -> [N, dim]. Source: Kim 2014.
    """

    def __init__(self, vocabulary: Vocabulary, dim: int, word_dim: int = 16, width: int = 64) -> None:
        super().__init__()
        self.words = vocabulary.words
        self.table = nn.Embedding(len(vocabulary), word_dim, padding_idx=PAD)
        self.rows = nn.Conv1d(word_dim, width, 3, padding=1)
        self.layers = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, dim))

    def get_extra_state(self) -> list[str]:
        return self.words

    def set_extra_state(self, words: list[str]) -> None:
        """Raises: ValueError for the state of a network that learned other words, whose token ids mean something else."""
        if words != self.words:
            new = ", ".join(sorted(set(self.words) ^ set(words))[:10])
            cause = "Give it the captions of its training"
            _checks.fail("text", f"the captions have other words than the saved network learned: {new}", cause)

    def forward(self, tokens: Tensor) -> Tensor:
        if tokens.dim() != 2:
            _checks.fail("text", f"tokens have shape {list(tokens.shape)}, wants [N, L]")
        found = F.relu(self.rows(self.table(tokens).transpose(1, 2)))
        return self.layers(found.masked_fill((tokens == PAD)[:, None], 0).amax(2))


class Words:
    """The encoder that is learned: captions become token ids, which each network reads by a WordNetwork of its own, trained with it."""

    def __init__(self, captions: Sequence[str]) -> None:
        self.vocabulary = Vocabulary.of(captions)

    def encode(self, captions: Sequence[str]) -> Tensor:
        """int64 [N, length]. Raises: ValueError that names unknown words."""
        return self.vocabulary.tokens(captions)

    def bags(self, encoded: Tensor) -> Tensor:
        """float32 [N, words], how often a caption has each word, of token ids [N, length]."""
        return torch.zeros(len(encoded), len(self.vocabulary)).scatter_add_(1, encoded, torch.ones(encoded.shape))[:, 1:]

    def network(self, dim: int) -> nn.Module:
        return WordNetwork(self.vocabulary, dim)


class Sentences:
    """A ready-made encoder of the package sentence-transformers, as it is: captions become vectors, which each network maps linearly.

    Raises: ImportError that names the package where it is missing; ValueError where the model cannot be loaded.
    """

    def __init__(self, name: str) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            wants = f"encoder {name!r} needs the package sentence-transformers, which is not installed"
            _checks.fail("text", f"{wants}: pip install sentence-transformers", "--encoder words needs none", ImportError)
        try:
            self.model = SentenceTransformer(name)
        except Exception as error:  # its own, of files and of the network alike
            _checks.fail("text", f"encoder {name!r} cannot be loaded: {error}".rstrip("."))
        self.dim = len(self.encode(["a"])[0])

    @torch.no_grad()
    def encode(self, captions: Sequence[str]) -> Tensor:
        """float32 [N, D]."""
        return torch.as_tensor(self.model.encode(list(captions)), dtype=torch.float32)

    def bags(self, encoded: Tensor) -> Tensor:
        """[N, D], by which `alike` compares captions: the vectors themselves."""
        return encoded

    def network(self, dim: int) -> nn.Module:
        return nn.Linear(self.dim, dim)


def alike(bags: Tensor, count: int) -> Tensor:
    """int64 [N, count], for each caption the others that differ the least from it, of what the encoder's `bags` gives [N, D]."""
    found, squares = [], bags.square().sum(1)
    for start in range(0, len(bags), 1024):
        some = bags[start : start + 1024]
        away = squares - 2 * some @ bags.T  # each row is short of the caption's own square
        away[torch.arange(len(some)), torch.arange(start, start + len(some))] = float("inf")
        found.append(away.topk(count, largest=False).indices)
    return torch.cat(found)


def encoder(name: str, captions: Sequence[str]) -> Words | Sentences:
    """By name: words, learned on these captions, or sentence-transformers/MODEL. Raises: ValueError for another name."""
    if name == "words":
        return Words(captions)
    if name.startswith("sentence-transformers/"):
        return Sentences(name)
    _checks.fail("text", f"encoder got {name!r}, wants 'words' or 'sentence-transformers/MODEL'")
