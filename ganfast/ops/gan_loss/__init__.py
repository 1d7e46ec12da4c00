"""The adversarial losses, their gradients and statistics in one pass."""
