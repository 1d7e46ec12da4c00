"""Up by zeros, a FIR filter, down: StyleGAN's resampling. See README.md."""
