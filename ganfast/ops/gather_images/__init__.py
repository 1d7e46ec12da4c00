"""A training batch out of a uint8 dataset in one pass: see README.md."""
