"""The table: every row of every family."""

from ganfast.testing import named
from tests.families import (
    biggan,
    bigvgan,
    bigvgan_filters,
    codec,
    conditional_bn,
    context_encoder,
    cyclegan,
    dcae,
    dcgan,
    gan3d,
    hifigan,
    lsgan,
    pix2pix,
    r3gan,
    realesrgan,
    residual,
    sngan,
    spade,
    srgan,
    stackgan,
    stylegan2,
    stylegan2_ported,
    vae,
    vqgan,
    wgan_gp,
)

FAMILIES = named(
    *(
        row
        for family in (
            dcgan, wgan_gp, sngan, lsgan, pix2pix, cyclegan, srgan, context_encoder, hifigan, bigvgan, bigvgan_filters, gan3d, vae,
            conditional_bn, stackgan, r3gan, vqgan, realesrgan, biggan, stylegan2, stylegan2_ported, codec, spade, dcae,
            residual,
        )
        for row in family.ROWS
    )
)  # fmt: skip
