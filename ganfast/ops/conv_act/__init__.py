"""Convolution + bias + activation: `conv_transpose_act`'s passes in other roles."""
