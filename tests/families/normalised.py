"""What of each row's weights is made together in training, derived by hand as its groups are: (kind, how many) for each call. Layers of a
spectral norm that are called twice stay as they are; rows that are not named have none."""

WEIGHTS = {
    "sngan-resnet-old-d": [("spectral norms", 9)],
    "sngan-resnet-new-d": [("spectral norms", 9)],
    "sngan-functional-d": [("spectral norms", 4)],
    "projection-d": [("spectral norms", 5)],
    "realesrgan-unet-d": [("spectral norms", 8)],
    "hifigan-old-g": [("weight norms", 20)],
    "hifigan-new-g": [("weight norms", 20)],
    "hifigan-v3-g": [("weight norms", 12)],
    "hifigan-period-d": [("weight norms", 4)],
    "hifigan-scale-d": [("weight norms", 10)],
    "bigvgan-g": [("weight norms", 20)],
    "bigvgan-log-g": [("weight norms", 20)],
    "bigvgan-beta-g": [("weight norms", 20)],
    "bigvgan-filters-g": [("weight norms", 7)],
    "stylegan2-ported-g": [("equalised weights", 19)],
    "codec-decoder": [("weight norms", 7)],
    "codec-d": [("weight norms", 18)],
    "codec-bands-d": [("weight norms", 10)],
    "spade-g": [("spectral norms", 5)],
    "codec-decoder-block": [("weight norms", 5)],
    "stylegan2-g": [("equalised weights", 14)],
    "stylegan2-d": [("equalised weights", 9)],
}
