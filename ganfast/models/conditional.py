"""Networks that see a class label: conditional batch norm, and what every embedding of labels checks."""

import torch
from torch import Tensor, nn

from ganfast import _checks


def check_labels(op: str, labels: object, rows: int) -> None:
    """`labels` is wanted as int64 [rows]. Their values are looked at by `embed`: nobody waits for the device."""
    _checks.check_tensor(op, "labels", labels)
    if labels.dtype != torch.int64:
        cause = "Vectors, embeddings of classes among them, go to a network built with condition_dim" if labels.is_floating_point() else ""
        _checks.fail(op, f"labels has dtype {labels.dtype}, wants int64", cause or "labels.long() converts", TypeError)
    if labels.shape != (rows,):
        cause = "One-hot rows want labels.argmax(1)" if labels.dim() == 2 and labels.shape[1] > 1 else "One label for each image"
        _checks.fail(op, f"labels has shape {list(labels.shape)}, wants [{rows}]", cause)


def embed(op: str, table: nn.Embedding, labels: Tensor) -> Tensor:
    """[N, D], a row of the table for each label. On a CPU a label outside of it is a ValueError; a GPU stops with its own assertion."""
    try:
        return table(labels)
    except IndexError:
        low, high, classes = labels.min().item(), labels.max().item(), table.num_embeddings
        cause = "Labels count from 0" if (low, high) == (1, classes) else "num_classes is too small, or these are no classes"
        _checks.fail(op, f"labels has values from {low} to {high}, wants 0 to {classes - 1}", cause)


def check_classes(op: str, num_classes: object, condition_dim: int | None) -> None:
    if num_classes is None:
        return
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
        _checks.fail(op, f"num_classes got {num_classes!r}, wants a positive int or None")
    if condition_dim is not None:
        _checks.fail(
            op, f"num_classes={num_classes} and condition_dim={condition_dim} were given, wants one of them",
            "The condition is a label or a vector; to use both, embed the label and join it to the vector",
        )  # fmt: skip


class Given(nn.Module):
    """A condition as [N, dim]: a label's learned vector of `length`, a vector [N, condition_dim] as it is; None: there is none, dim 0.

    Raises: ValueError, TypeError for a condition that the network was not built for.
    """

    def __init__(self, op: str, num_classes: int | None, condition_dim: int | None, length: int) -> None:
        super().__init__()
        check_classes(op, num_classes, condition_dim)
        self.op, self.wanted = op, condition_dim
        self.table = None if num_classes is None else nn.Embedding(num_classes, length)
        self.dim = length if num_classes is not None else condition_dim or 0

    def forward(self, condition: Tensor | None, rows: int) -> Tensor | None:
        if self.table is not None:
            check_labels(self.op, condition, rows)
            return embed(self.op, self.table, condition)
        got = None if condition is None else list(condition.shape)
        if got != (wants := None if self.wanted is None else [rows, self.wanted]):
            _checks.fail(self.op, f"condition got {got}, wants {wants}", "As the network was built: num_classes, condition_dim, or neither")
        return condition


class ConditionalBatchNorm2d(nn.Module):
    """Batch norm whose scale and shift are the label's own: y = gamma[label] * norm(x) + beta[label], gamma from 1, beta from 0.

    The statistics are of the whole batch, over all classes.

    Shapes: x [N, num_features, H, W], labels int64 [N] -> the same as x.
    Dtypes: any floating x; the tables are cast to what the norm gives.
    Layout: any, kept.
    Grads: x and the tables, to any order.
    Raises: TypeError, ValueError for labels of another dtype or shape, and on a CPU for values outside [0, num_classes).
    Source: Dumoulin, Shlens & Kudlur 2017, section 2.2; in GANs Miyato & Koyama 2018.
    """

    def __init__(self, num_features: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(num_features, affine=False)
        self.gamma, self.beta = (nn.Embedding(num_classes, num_features) for _ in range(2))
        nn.init.ones_(self.gamma.weight)
        nn.init.zeros_(self.beta.weight)

    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        op = type(self).__name__
        check_labels(op, labels, len(x))
        y = self.norm(x)
        gamma, beta = (embed(op, table, labels).to(y.dtype)[:, :, None, None] for table in (self.gamma, self.beta))
        return torch.addcmul(beta, gamma, y)
