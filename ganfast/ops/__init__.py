"""One folder an op; ops pass tensors to each other and never import one another."""
