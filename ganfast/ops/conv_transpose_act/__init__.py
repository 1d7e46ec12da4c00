"""Transposed convolution + bias + activation in one pass."""
