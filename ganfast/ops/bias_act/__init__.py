"""Bias, activation, gain and clamp in one pass: see README.md."""
