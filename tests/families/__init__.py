"""GANs as people write them, in plain torch, each with the chains that `ganfast.accelerate` is to find in it."""
