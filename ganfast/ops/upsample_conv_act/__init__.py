"""Nearest upsampling + convolution + bias + activation, as one transposed convolution."""
