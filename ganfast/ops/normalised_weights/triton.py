"""Normalised weights in Triton: a program a row, a tile of columns or a weight, all weights in one grid. Where a weight lies stands in a
table on the device, made once for the same parameters; what a call makes lies one behind the other in one tensor, so that no table of it
is needed."""

from collections.abc import Callable
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ganfast import _triton
from ganfast._memo import Memo
from ganfast._triton import next_power_of_2

_FIELDS = tl.constexpr(6)  # of a weight: its address, its gain's, its first row, its columns, where its values begin, its columns
_ROWS, _COLUMNS = 32, 64  # of a tile that is summed over rows


class Table(NamedTuple):
    """weights int64 [n, 6]; weight_of int32 [rows]; tiles int32 [tiles, 2], (weight, its first column); wide: whether every row begins at a
    vector; rows, columns, values: of all weights; longest: the most columns of one."""

    weights: Tensor
    weight_of: Tensor
    tiles: Tensor
    wide: bool
    rows: int
    columns: int
    values: int
    longest: int
    tallest: int


_tables = Memo()  # device and addresses -> Table
_recorded: dict[tuple, Table | Tensor] = {}  # those of `_tables` that a CUDA graph reads, which may live as long as the process


def _remembered(key: tuple, device: torch.device, make: Callable[[], Table | Tensor]) -> Table | Tensor:
    table = _tables.get(key)
    if table is None:
        table = _tables[key] = make()
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        _recorded[key] = table
    return table


def _table(weights: list[Tensor], counts: list[int], gains: list[Tensor]) -> Table:
    """counts: the weights' rows."""
    key = (weights[0].device, weights[0].dtype, *[(w.data_ptr(), w.numel(), n, g.data_ptr()) for w, n, g in zip(weights, counts, gains)])
    return _remembered(key, weights[0].device, lambda: _made(weights, counts, gains))


def _made(weights: list[Tensor], counts: list[int], gains: list[Tensor]) -> Table:
    fields, weight_of, tiles, row, column, value = [], [], [], 0, 0, 0
    for i, (weight, count, gain) in enumerate(zip(weights, counts, gains)):
        columns = weight.numel() // count
        fields.append([weight.data_ptr(), gain.data_ptr(), row, columns, value, column])
        weight_of += [i] * count
        tiles += [[i, first] for first in range(0, columns, _COLUMNS)]
        row, column, value = row + count, column + columns, value + weight.numel()
    wide = all(address % 16 == 0 and columns % 8 == 0 for address, _, _, columns, *_ in fields)
    on = lambda values, dtype: torch.tensor(values, dtype=dtype, device=weights[0].device)
    tables = on(fields, torch.int64), on(weight_of, torch.int32), on(tiles, torch.int32)
    sizes = row, column, value, max(f[3] for f in fields), max(counts)
    return Table(*tables, wide, *sizes)


@triton.jit
def row_of(table, weight_of, row, WIDE: tl.constexpr):
    """(the weight's fields, how far into it the row begins, columns, where its values begin in what a call makes)."""
    fields = table + tl.load(weight_of + row).to(tl.int64) * _FIELDS
    columns = tl.load(fields + 3)
    inside = (row - tl.load(fields + 2)) * columns
    at = tl.load(fields + 4) + inside
    if WIDE:
        columns = tl.multiple_of(columns, 8)
        inside = tl.multiple_of(inside, 8)
        at = tl.multiple_of(at, 8)
    return fields, inside, columns, at


@triton.jit
def address(fields, like, WIDE: tl.constexpr):
    """The weight itself, of the element type of `like`."""
    first = tl.load(fields).to(tl.pointer_type(like.dtype.element_ty))
    if WIDE:
        first = tl.multiple_of(first, 16)
    return first


@triton.jit
def load_float(ptr, c, columns):
    return tl.load(ptr + c, mask=c < columns, other=0.0).to(tl.float32)


@triton.jit
def weight_norms_fwd_kernel(table, weight_of, w, norms, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    fields, inside, columns, at = row_of(table, weight_of, row, WIDE)
    v = address(fields, w, WIDE) + inside
    gain = tl.load(fields + 1).to(tl.pointer_type(w.dtype.element_ty)) + (row - tl.load(fields + 2))
    squares = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, columns, BLOCK):
        x = load_float(v, first + tl.arange(0, BLOCK), columns)
        squares += x * x
    norm = tl.sqrt_rn(tl.sum(squares))
    scale = tl.div_rn(tl.load(gain).to(tl.float32), norm)
    tl.store(norms + row, norm)
    for first in range(0, columns, BLOCK):
        c = first + tl.arange(0, BLOCK)
        tl.store(w + at + c, load_float(v, c, columns) * scale, mask=c < columns)


@triton.jit
def weight_norms_bwd_kernel(table, weight_of, gw, norms, gv, gg, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    fields, inside, columns, at = row_of(table, weight_of, row, WIDE)
    v = address(fields, gv, WIDE) + inside
    gain = tl.load(fields + 1).to(tl.pointer_type(gv.dtype.element_ty)) + (row - tl.load(fields + 2))
    products = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, columns, BLOCK):
        c = first + tl.arange(0, BLOCK)
        products += load_float(v, c, columns) * load_float(gw + at, c, columns)
    norm = tl.load(norms + row)
    along = tl.div_rn(tl.sum(products), norm)
    scale = tl.div_rn(tl.load(gain).to(tl.float32), norm)
    back = tl.div_rn(along, norm)
    tl.store(gg + row, along)
    for first in range(0, columns, BLOCK):
        c = first + tl.arange(0, BLOCK)
        tl.store(gv + at + c, scale * (load_float(gw + at, c, columns) - load_float(v, c, columns) * back), mask=c < columns)


@triton.jit
def spectral_rows_kernel(table, weight_of, like, v, gw, out, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    """out[row] = weight . v of its columns, or weight . gw where there is no v."""
    row = tl.program_id(0)
    fields, inside, columns, at = row_of(table, weight_of, row, WIDE)
    weight = address(fields, like, WIDE) + inside
    if v is not None:
        other = v + tl.load(fields + 5)
    else:
        other = gw + at
    products = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, columns, BLOCK):
        c = first + tl.arange(0, BLOCK)
        products += load_float(weight, c, columns) * load_float(other, c, columns)
    tl.store(out + row, tl.sum(products))


@triton.jit
def spectral_columns_kernel(table, tiles, like, u, out, rows_of, BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr):
    """out[column] = the sum over rows of u[row] * weight[row, column], of a tile of columns."""
    weight_at = tl.load(tiles + 2 * tl.program_id(0))
    fields = table + weight_at.to(tl.int64) * _FIELDS
    c = tl.load(tiles + 2 * tl.program_id(0) + 1) + tl.arange(0, BLOCK_C)
    columns = tl.load(fields + 3)
    weight = address(fields, like, False)
    top = tl.load(fields + 2)
    rows = tl.load(rows_of + weight_at)
    acc = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for first in range(0, rows, BLOCK_R):
        r = first + tl.arange(0, BLOCK_R)
        mask = (r < rows)[:, None] & (c < columns)[None, :]
        x = tl.load(weight + (r * columns)[:, None] + c[None, :], mask=mask, other=0.0).to(tl.float32)
        acc += x * tl.load(u + top + r, mask=r < rows, other=0.0)[:, None]
    tl.store(out + tl.load(fields + 5) + c, tl.sum(acc, 0), mask=c < columns)


@triton.jit
def spectral_normalise_kernel(table, rows_of, x, other, sigma, eps, OF_U: tl.constexpr, BLOCK: tl.constexpr):
    """Program i has weight i's part of x: over max(its norm, eps), sigma[i] the product of both; with an `other`, sigma[i] = x . other."""
    i = tl.program_id(0)
    fields = table + i.to(tl.int64) * _FIELDS
    begin = tl.load(fields + 2) if OF_U else tl.load(fields + 5)
    count = tl.load(rows_of + i).to(tl.int64) if OF_U else tl.load(fields + 3)
    products = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, count, BLOCK):
        k = first + tl.arange(0, BLOCK)
        values = load_float(x + begin, k, count)
        if other is not None:
            products += values * load_float(other + begin, k, count)
        else:
            products += values * values
    total = tl.sum(products)
    if other is not None:
        tl.store(sigma + i, total)
    else:
        norm = tl.maximum(tl.sqrt_rn(total), eps)
        tl.store(sigma + i, tl.div_rn(total, norm))
        for first in range(0, count, BLOCK):
            k = first + tl.arange(0, BLOCK)
            tl.store(x + begin + k, load_float(x + begin, k, count) / norm, mask=k < count)


@triton.jit
def spectral_divide_kernel(table, weight_of, sigma, w, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    fields, inside, columns, at = row_of(table, weight_of, row, WIDE)
    weight = address(fields, w, WIDE) + inside
    inverse = 1.0 / tl.load(sigma + tl.load(weight_of + row))
    for first in range(0, columns, BLOCK):
        c = first + tl.arange(0, BLOCK)
        tl.store(w + at + c, load_float(weight, c, columns) * inverse, mask=c < columns)


@triton.jit
def spectral_bwd_kernel(table, weight_of, rows_of, gw, u, v, sigma, along, gweight, WIDE: tl.constexpr, BLOCK: tl.constexpr):
    """along[row] = weight . gw of that row; every program of a weight adds them up in the same order."""
    row = tl.program_id(0)
    fields, _, columns, at = row_of(table, weight_of, row, WIDE)
    i = tl.load(weight_of + row)
    rows = tl.load(rows_of + i)
    top = tl.load(fields + 2)
    sums = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, rows, BLOCK):
        sums += load_float(along + top, first + tl.arange(0, BLOCK), rows)
    inverse = 1.0 / tl.load(sigma + i)
    back = tl.sum(sums) * inverse * inverse * tl.load(u + row)
    right = v + tl.load(fields + 5)
    for first in range(0, columns, BLOCK):
        c = first + tl.arange(0, BLOCK)
        tl.store(gweight + at + c, load_float(gw + at, c, columns) * inverse - back * load_float(right, c, columns), mask=c < columns)


def _joined(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])


def _parts(made: Tensor, like: list[Tensor]) -> list[Tensor]:
    return [part.view(t.shape) for part, t in zip(made.split([t.numel() for t in like]), like)]


def _how(table: Table) -> dict:
    return {"WIDE": table.wide, "BLOCK": min(1024, next_power_of_2(table.longest)), "num_warps": 4, "enable_fp_fusion": True}


def weight_norms_fwd_triton(v: list[Tensor], g: list[Tensor]) -> tuple[list[Tensor], Tensor]:
    table = _table(v, [t.numel() for t in g], g)
    w, norms = _triton.empty(table.values, v[0]), _triton.empty(table.rows, v[0], torch.float32)
    with _triton.on_device(w):
        weight_norms_fwd_kernel[(table.rows,)](table.weights, table.weight_of, w, norms, **_how(table))
    return _parts(w, v), norms


def weight_norms_bwd_triton(gw: list[Tensor], v: list[Tensor], g: list[Tensor], norms: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    table, upstream = _table(v, [t.numel() for t in g], g), _joined(gw)
    gv, gg = _triton.empty(table.values, v[0]), _triton.empty(table.rows, v[0])
    with _triton.on_device(gv):
        weight_norms_bwd_kernel[(table.rows,)](table.weights, table.weight_of, upstream, norms, gv, gg, **_how(table))
    return _parts(gv, v), _parts(gg, g)


def _matrices(weights: list[Tensor]) -> tuple[Table, Tensor]:
    """(their table, the rows of each on the device)."""
    counts = [w.shape[0] for w in weights]
    table = _table(weights, counts, weights)
    key = ("rows", weights[0].device, *counts)
    rows = lambda: torch.tensor(counts, dtype=torch.int32, device=weights[0].device)
    return table, _remembered(key, weights[0].device, rows)


def spectral_norms_fwd_triton(weights, u, v, iterations: int, eps: float, u_first: bool) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    table, rows_of = _matrices(weights)
    left, right = _joined(u).float(), _joined(v).float()
    w, sigma = _triton.empty(table.values, weights[0]), _triton.empty(len(weights), weights[0], torch.float32)
    how, fused = _how(table), {"enable_fp_fusion": True}

    def normalise(x: Tensor, other: Tensor | None, of_u: bool) -> None:
        block = min(1024, next_power_of_2(table.tallest if of_u else table.longest))
        spectral_normalise_kernel[(len(weights),)](table.weights, rows_of, x, other, sigma, eps, OF_U=of_u, BLOCK=block, **fused)

    with _triton.on_device(w):
        for k in range(2 * iterations):
            if of_u := (k % 2 == 0) == u_first:
                spectral_rows_kernel[(table.rows,)](table.weights, table.weight_of, w, right, None, left, **how)
            else:
                tile = {"BLOCK_R": _ROWS, "BLOCK_C": _COLUMNS}
                spectral_columns_kernel[(len(table.tiles),)](table.weights, table.tiles, w, left, right, rows_of, **tile, **fused)
            normalise(left if of_u else right, None, of_u)
        if not iterations:
            product = _triton.empty(table.rows, w, torch.float32)
            spectral_rows_kernel[(table.rows,)](table.weights, table.weight_of, w, right, None, product, **how)
            normalise(product, left, True)
        spectral_divide_kernel[(table.rows,)](table.weights, table.weight_of, sigma, w, **how)
    return _parts(w, weights), left, right, sigma


def spectral_norms_bwd_triton(gw: list[Tensor], weights: list[Tensor], u: Tensor, v: Tensor, sigma: Tensor) -> list[Tensor]:
    table, rows_of = _matrices(weights)
    upstream, made, along = _joined(gw), _triton.empty(table.values, weights[0]), _triton.empty(table.rows, weights[0], torch.float32)
    with _triton.on_device(made):
        spectral_rows_kernel[(table.rows,)](table.weights, table.weight_of, made, None, upstream, along, **_how(table))
        spectral_bwd_kernel[(table.rows,)](table.weights, table.weight_of, rows_of, upstream, u, v, sigma, along, made, **_how(table))
    return _parts(made, weights)
