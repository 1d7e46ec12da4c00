"""Generators with styles: mixed ones, and those of a given picture."""
