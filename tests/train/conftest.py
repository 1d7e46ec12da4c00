"""Small networks want one thread; a folder of coloured images in two classes, one of the files damaged."""

import numpy as np
import pytest
import torch
from PIL import Image


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def rgb_folder(tmp_path):
    root, rng = tmp_path / "images", np.random.default_rng(0)
    for name in ("ants", "bees"):
        (root / name).mkdir(parents=True)
        for i, size in enumerate([(20, 30, 3), (17, 16, 3), (40, 40, 3), (16, 16, 3), (33, 64, 3)]):
            Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(root / name / f"{i}.png")
    whole = (root / "bees" / "0.png").read_bytes()
    (root / "bees" / "cut.png").write_bytes(whole[: len(whole) // 2])
    return root
