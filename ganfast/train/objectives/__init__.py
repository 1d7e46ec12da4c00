"""What phases minimise: adversarial losses with their penalties, autoencoders, path lengths; the history of fakes."""
