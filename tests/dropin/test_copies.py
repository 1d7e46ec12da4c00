"""Copies and pickles of accelerated models, where ganfast is and where it is not."""

import copy
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn

import ganfast
from tests.dropin.common import Block, flat, x_for
from tests.dropin.small import layers


def test_copies_and_pickles():
    model = ganfast.accelerate(nn.Sequential(flat(), Block()), recompute=True).eval()
    x = x_for()
    wanted = model(x)
    for twin in (copy.deepcopy(model), copy.copy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x), wanted)
        assert layers(twin) == layers(model) != []
        assert twin._ganfast_recompute
        assert "_ganfast_note" not in twin.__dict__


NOT_ON_THE_PATH = """
sys.path[:] = [p for p in sys.path if not Path(p, "ganfast").is_dir()]  # the folder of another clone may be there too
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in getattr(finder, "__module__", type(finder).__module__)]
"""


@pytest.mark.parametrize("missing", ["sys.modules['ganfast'] = None", NOT_ON_THE_PATH], ids=["blocked", "absent"])
def test_a_pickle_loads_where_ganfast_is_missing(missing, tmp_path):
    model = ganfast.accelerate(flat()).eval()
    x = x_for()
    torch.save({"model": model, "x": x, "y": model(x)}, tmp_path / "model.pt")
    code = f"""
import sys, warnings
from pathlib import Path
{missing}
import torch
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    found = torch.load(sys.argv[1], weights_only=False)
assert any("ganfast, which is not installed" in str(w.message) for w in said), [str(w.message) for w in said]
assert type(found["model"]) is torch.nn.Sequential
torch.testing.assert_close(found["model"](found["x"]), found["y"], rtol=1e-4, atol=1e-5)
assert "ganfast" not in {{name for name, module in sys.modules.items() if module is not None}}
"""
    run = subprocess.run([sys.executable, "-I", "-c", code, str(tmp_path / "model.pt")], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
