"""Up by a filter, activate, down by a filter: StyleGAN3's filtered_lrelu, BigVGAN's Activation1d."""
