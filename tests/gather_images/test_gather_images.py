"""Every CPU backend against the batch as people write it, bit for bit; what lies outside; tracing."""

from dataclasses import dataclass

import pytest
import torch

from ganfast.functional import gather_images
from ganfast.ops.gather_images import kernels
from ganfast.testing import Case, named, nan_filled

BACKENDS = ["reference", "torch", "cpu"]
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]


@dataclass(frozen=True)
class Row(Case):
    count: int
    shape: tuple[int, int, int]
    batch: int = 6


ROWS = named(
    Row("rgb", 7, (3, 16, 24)),
    Row("grey", 9, (1, 28, 28)),
    Row("odd", 4, (3, 5, 7)),
    Row("five channels", 3, (5, 4, 6)),
    Row("long rows", 2, (3, 2, 9000)),
    Row("one row", 3, (2, 1, 9)),
    Row("one column", 3, (4, 6, 1)),
    Row("one pixel", 3, (4, 1, 1)),
    Row("one image", 1, (3, 8, 8), batch=1),
    Row("several threads", 5, (3, 32, 32), batch=50),
)


def plain(images, index, flip, dtype=torch.float32):
    """As people write it."""
    x = images[index].to(torch.float64 if dtype == torch.float64 else torch.float32).div(127.5).sub(1)
    return (x if flip is None else torch.where(flip[:, None, None, None], x.flip(-1), x)).to(dtype)


def dataset(count, shape, channels_last=False):
    images = torch.randint(0, 256, (count, *shape), dtype=torch.uint8)
    return images.contiguous(memory_format=torch.channels_last) if channels_last else images


def drawn(count, batch):
    flip = torch.rand(batch) < 0.5
    flip[:2] = torch.tensor([True, False])[:batch]
    return torch.randint(count, (batch,)), flip


@pytest.mark.parametrize("channels_last", [None, False, True], ids=["as_is", "to_nchw", "to_nhwc"])
@pytest.mark.parametrize("images_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_bit_for_bit(row, backend, images_last, channels_last):
    images = dataset(row.count, row.shape, images_last)
    index, mirrored = drawn(row.count, row.batch)
    last = images_last if channels_last is None else channels_last
    for dtype in DTYPES:
        for flip in (None, mirrored):
            with nan_filled():
                y = gather_images(images, index, flip=flip, dtype=dtype, channels_last=channels_last, backend=backend)
            assert y.dtype == dtype and torch.equal(y, plain(images, index, flip, dtype)), dtype
            assert y.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_every_level(backend, dtype):
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    y = gather_images(images, torch.tensor([0]), dtype=dtype, backend=backend).flatten()
    assert torch.equal(y, plain(images, [0], None, dtype).flatten())
    assert y[0] == -1 and y[255] == 1 and (y.diff() >= 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_vectors_of_any_stride_and_both_kinds_of_index(backend):
    images = dataset(9, (3, 4, 6))[1:]  # its memory begins at no round address
    index, flip = torch.tensor([7, 0, 3, 5, 3, 1])[::2], torch.tensor([True, False, False, True, True, True])[::2]
    want = plain(images, torch.tensor([7, 3, 3]), torch.tensor([True, False, True]))
    for kind in (torch.int64, torch.int32):
        assert torch.equal(gather_images(images, index.to(kind)[:], flip=flip, backend=backend), want)
        assert torch.equal(gather_images(images, index, flip=flip, backend=backend), want)


@pytest.mark.parametrize("backend", BACKENDS)
def test_offsets_beyond_32_bits(backend):
    """Most of these 3.4 GB are never touched."""
    images = torch.empty(70_000, 3, 128, 128, dtype=torch.uint8)
    assert images.numel() > 2**31
    images[-1] = dataset(1, (3, 128, 128))
    index, flip = torch.tensor([69_999, 69_999]), torch.tensor([False, True])
    assert torch.equal(gather_images(images, index, flip=flip, backend=backend), plain(images, index, flip))


@pytest.mark.parametrize("outside", [-1, 5, 2**31 - 1, -(2**31), 2**62, -(2**63)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_outside_is_refused_on_a_cpu(backend, outside):
    images, index = dataset(5, (3, 4, 6)), torch.tensor([0, outside, 4])
    with pytest.raises(IndexError, match=f"gather_images: index holds {outside}, wants 0 to 4"):
        gather_images(images, index, backend=backend)
    compiled = torch.compile(lambda i: gather_images(images, i, backend=backend), fullgraph=True, backend="aot_eager")
    with pytest.raises(IndexError, match=f"index holds {outside}"):
        compiled(index)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_outside_is_nan_where_nobody_looks(backend, channels_last, monkeypatch):
    """As on a GPU: exactly such images, and nothing is read for them."""
    monkeypatch.setattr(kernels, "_check_inside", lambda index, count: None)
    images, index = dataset(5, (3, 4, 6), channels_last), torch.tensor([0, -1, 4, 5, 2**62, 2])
    flip = torch.tensor([False, True, True, False, True, True])
    inside = torch.tensor([True, False, True, False, False, True])
    for dtype in DTYPES:
        y = gather_images(images, index, flip=flip, dtype=dtype, backend=backend)
        assert y[~inside].isnan().all() and torch.equal(y[inside], plain(images, index[inside], flip[inside], dtype))


@pytest.mark.parametrize("backend", BACKENDS)
def test_empty(backend):
    none = torch.empty(0, dtype=torch.int64)
    for count, shape in ((5, (3, 4, 6)), (0, (3, 4, 6)), (5, (0, 4, 6))):
        y = gather_images(dataset(count, shape), none, flip=none.bool(), dtype=torch.float16, backend=backend)
        assert y.shape == (0, *shape) and y.dtype == torch.float16
    assert gather_images(dataset(5, (3, 4, 0)), torch.tensor([1, 2]), backend=backend).shape == (2, 3, 4, 0)


def test_nothing_to_differentiate():
    y = gather_images(dataset(5, (3, 4, 6)), torch.tensor([1, 2]))
    assert not y.requires_grad and y.is_leaf
    (y.requires_grad_() * 2).sum().backward()  # a batch of reals as a penalty takes them
    assert (y.grad == 2).all()


def test_the_fused_pass_is_what_runs(monkeypatch):
    seen = []
    monkeypatch.setattr(kernels, "fwd", lambda *args: seen.append(args[-1]))
    images, index = dataset(5, (3, 4, 6)), torch.tensor([1, 2])
    for backend in (None, *BACKENDS):
        gather_images(images, index, backend=backend)
    assert seen[1:] == BACKENDS and seen[0] in ("cpu", "torch")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("images_last", "channels_last"), [(False, False), (True, True), (False, True), (True, False)])
def test_opcheck(backend, images_last, channels_last):
    images = dataset(5, (3, 4, 6), images_last)
    for flip, dtype in ((None, torch.float32), (torch.tensor([True, False]), torch.bfloat16)):
        args = (images, torch.tensor([4, 1]), flip, dtype, images_last, channels_last, backend)
        torch.library.opcheck(torch.ops.ganfast.gather_images_fwd.default, args)


@pytest.mark.parametrize("backend", [*BACKENDS, "auto"])
def test_fullgraph_compile(backend):
    torch.compiler.reset()
    options = {"dtype": torch.bfloat16, "channels_last": True, "backend": backend}
    call = lambda images, index, flip: gather_images(images, index, flip=flip, **options) * 2
    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    for count in (7, 9):
        args = (dataset(count, (3, 4, 6)), *drawn(count, 4))
        assert torch.equal(compiled(*args), call(*args))
