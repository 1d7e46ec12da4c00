"""Laid out and named like the official package; its operations fail as they do where nvcc is missing."""
