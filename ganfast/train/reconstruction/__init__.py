"""How well an autoencoder gives its images back: what it gives, and how unlike two images look."""
