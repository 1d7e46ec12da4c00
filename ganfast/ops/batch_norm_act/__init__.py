"""Batch norm + activation, train and eval."""
