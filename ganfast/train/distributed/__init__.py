"""Training by several processes: World, by which they exchange numbers, and batch norm over all their batches."""

from ganfast.train.distributed.world import Lost, Unreachable, World, summed

__all__ = ["Lost", "Unreachable", "World", "summed"]
