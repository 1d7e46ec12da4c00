"""A classifier of digits, trained on real ones: what the systems that draw digits are read by."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DigitReader(nn.Module):
    """[N, 1, 32, 32] in [-1, 1] -> [N, 10] logits."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.AvgPool2d(2),
            nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1), nn.BatchNorm2d(2 * width), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(2 * width, 4 * width, 3, padding=1), nn.BatchNorm2d(4 * width), nn.ReLU(),
            nn.Flatten(), nn.Dropout(0.3), nn.Linear(4 * width * 16, 10),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)

    @torch.no_grad()
    def read(self, images: Tensor) -> Tensor:
        """The digit in each picture, [N] int64."""
        return self.eval()(images).argmax(1)


def digit_reader(images: Tensor, labels: Tensor, *, seed: int = 0, steps: int = 1200, batch_size: int = 64) -> DigitReader:
    """A reader trained on these pictures alone, each moved by up to two pixels; about 15 seconds on a core."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        reader = DigitReader().train()
        optimizer = torch.optim.AdamW(reader.parameters(), lr=2e-3, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
        for _ in range(steps):
            rows = torch.randint(len(images), (batch_size,))
            dy, dx = torch.randint(-2, 3, (2,)).tolist()
            moved = F.pad(images[rows], (2, 2, 2, 2), value=-1)[..., 2 + dy : 34 + dy, 2 + dx : 34 + dx]
            loss = F.cross_entropy(reader(moved), labels[rows], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return reader.eval()
