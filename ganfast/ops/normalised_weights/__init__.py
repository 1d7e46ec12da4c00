"""The weights of a network that are normalised before they are used, made together."""
