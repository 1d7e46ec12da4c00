"""The tuner on three layers of a DCGAN and a grouped one of R3GAN, forward and backward, as a fresh cache finds them: every candidate with
its time, and what failed.

Exit: 0 where no candidate failed or was wrong, 1 where one was. On a GPU in bfloat16, else in float32 on small batches.
"""

import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

LAYERS = ((512, 8, 256), (256, 16, 128), (128, 32, 64))  # inputs, pixels a side, outputs


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"GANFAST_CACHE": folder, "GANFAST_TUNE": "1"}
        import torch

        import ganfast.functional as GF
        from ganfast import _tune

        device = "cuda" if torch.cuda.is_available() else "cpu"
        batch, dtype = (128, torch.bfloat16) if device == "cuda" else (2, torch.float32)
        for c_in, size, c_out in LAYERS:
            x = torch.randn(batch, c_in, size, size, device=device)
            weight = torch.randn(c_in, c_out, 4, 4, device=device) / (4 * c_in) ** 0.5
            x, weight = (t.to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_() for t in (x, weight))
            y = GF.conv_transpose_act(x, weight, stride=2, padding=1, act="relu")
            y.backward(torch.randn_like(y))
        x, weight = torch.randn(batch, 1536, 8, 8, device=device), torch.randn(1536, 16, 3, 3, device=device) / 12
        x, weight = (t.to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_() for t in (x, weight))
        GF.conv_act(x, weight, padding=1, groups=96, act="leaky_relu", alpha=0.2).square().mean().backward()
        print(_tune.report())
        choices = _tune.chosen()
    failed = {question: choice.failed for question, choice in choices.items() if choice.failed}
    wanted = len(LAYERS) + 3  # a grouped layer asks for each of its passes
    if len(choices) < wanted:
        print(f"tuned: {len(choices)} questions were asked, wants {wanted} at least: nothing was proved")
        return 1
    print(f"tuned: {len(choices)} questions, {len(failed)} with a candidate that failed" + (":" if failed else ""))
    for question, why in failed.items():
        print(f"  {question.split(' | ')[0]}\n    " + "\n    ".join(f"{name}: {reason}" for name, reason in why.items()))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
