"""The processes of a run: one, or as many as torchrun started."""

from torch import Tensor, nn


class World:
    """`rank` of `size` processes that share every batch; one process unless said otherwise, for which all of this costs nothing."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    def average(self, parameters: list[nn.Parameter]) -> None:
        """Gradients become their means over the processes."""

    def mean(self, values: Tensor) -> Tensor:
        return values

    def largest(self, *values: float) -> list[float]:
        """Each number's largest over the processes, on the host."""
        return list(values)

    def broadcast(self, *modules: nn.Module) -> None:
        """Parameters and buffers of rank 0, for all."""

    def close(self) -> None:
        pass
