"""StyleGAN2's modulated convolution, by one weight for all images. See README.md."""
