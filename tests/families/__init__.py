"""GANs as people write them, in plain torch, each with the groups that `ganfast.accelerate` is to find in it."""
