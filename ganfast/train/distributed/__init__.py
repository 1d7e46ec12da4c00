"""Training by several processes: who they are and how they exchange numbers, and batch norm over all their batches."""

from ganfast.train.distributed.world import Lost, Unreachable, World, summed

__all__ = ["Lost", "Unreachable", "World", "summed"]
