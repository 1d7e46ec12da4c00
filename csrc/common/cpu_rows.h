// CPU passes over [N, C, P] tensors (P = pixels), contiguous or channels_last, as contiguous runs with fixed-order sums.
#pragma once
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <cstring>
#include <string>
#include <type_traits>
#include <vector>

#include "activations.h"

namespace ganfast {

template <class T> using Acc = std::conditional_t<std::is_same_v<T, double>, double, float>;

// Rounds to T. c10's own bfloat16 rounding branches on NaN, which keeps GCC from vectorising a loop around it; this selects.
template <class T> inline T narrow(Acc<T> value) {
  if constexpr (std::is_same_v<T, at::BFloat16>) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return at::BFloat16(static_cast<uint16_t>(value == value ? rounded : 0x7fc0u), at::BFloat16::from_bits());
  } else {
    return static_cast<T>(value);
  }
}

// An empty vector on x's device.
template <class A> at::Tensor vector_of(int64_t size, const at::Tensor& x) {
  return at::empty({size}, x.options().dtype(c10::CppTypeToScalarType<A>::value).memory_format(std::nullopt));
}

struct Rows {
  int64_t n, c, p;  // images, channels, pixels an image
  bool channels_last;
  int64_t spread = 1;  // neighbouring columns that are one channel
  int64_t groups = 1;  // [n, c, p] tensors one behind the other, each with columns (vectors, sums) of its own

  Rows(const at::Tensor& x, bool last) : n(x.size(0)), c(x.size(1)), p(x.numel() / (x.size(0) * x.size(1))), channels_last(last) {}

  // A block is the unit of work and of partial sums: some channels of one image, or up to 128 rows of at most 256 KiB. It never
  // depends on the number of threads, so sums do not either.
  int64_t block_rows() const { return std::max<int64_t>(1, std::min<int64_t>(128, 65536 / c)); }
  int64_t channel_blocks() const { return std::min(c, (15 + n) / n); }  // of one image: sixteen blocks or more in all
  int64_t edge(int64_t part) const { return c * part / channel_blocks(); }  // where a block of channels begins
  int64_t group_blocks() const { return channels_last ? (count() + block_rows() - 1) / block_rows() : n * channel_blocks(); }
  int64_t blocks() const { return groups * group_blocks(); }
  // Partial sums [terms, c] of one group, and the block's own among all of them: those of one contiguous image share, each fills its
  // channels.
  int64_t group_partials() const { return channels_last ? group_blocks() : n; }
  int64_t partial(int64_t block) const { return channels_last ? block : block / channel_blocks(); }
  int64_t first_column(int64_t block) const { return block / group_blocks() * c; }  // of the block's group
  int64_t columns() const { return groups * c; }
  int64_t count() const { return n * p; }
  int64_t channels() const { return columns() / spread; }
  int64_t values() const { return count() * spread; }  // of one channel
  // The blocks worth waking a thread for: ATen's 32768 elements. Sums are per block, so the threads do not show in them.
  int64_t grain() const { return std::max<int64_t>(1, 32768 * blocks() / (count() * c)); }

  // Planes too short to fill vectors as rows of C * P columns, P to a channel: sums are folded, vectors repeated.
  // per_image: N * C channels of one image each. Contiguous, that is one image of N * C channels.
  static Rows spread_out(const at::Tensor& x, bool last, bool per_image = false) {
    Rows rows(x, last);
    if (per_image) (last ? rows.groups : rows.c) *= rows.n, rows.n = 1;
    if (!last && rows.p <= 32 && (rows.n > 1 || rows.p == 1)) rows.spread = rows.p, rows.c *= rows.p, rows.p = 1, rows.channels_last = true;
    return rows;
  }
};

// Calls run(offset, length, channel) for every contiguous run of one block: a pixel's C channels (channels_last, channel 0
// first) or one channel's P pixels. kLast tells the two apart at compile time.
template <bool kLast, class Run> void visit_block(const Rows& rows, int64_t block, Run run) {
  if constexpr (kLast) {
    const int64_t blocks = rows.group_blocks(), top = block / blocks * rows.count();  // the group's first row
    const int64_t first = block % blocks * rows.block_rows(), last = std::min(rows.count(), first + rows.block_rows());
    for (int64_t r = top + first; r < top + last; ++r) run(r * rows.c, rows.c, 0);
  } else {
    const int64_t parts = rows.channel_blocks(), image = block / parts, part = block % parts;
    for (int64_t ch = rows.edge(part); ch < rows.edge(part + 1); ++ch) run((image * rows.c + ch) * rows.p, rows.p, ch);
  }
}

// Columns [terms, columns] added up to channels [terms, channels].
inline std::vector<double> fold_columns(const std::vector<double>& columns, int64_t spread) {
  if (spread == 1) return columns;
  std::vector<double> folded(columns.size() / spread, 0);
  for (size_t i = 0; i < columns.size(); ++i) folded[i / spread] += columns[i];
  return folded;
}

// body(block, sums): `sums` points at zeros [terms, c] for this block. Returns [terms, channels] added up in block order, in
// double: with blocks this short the float sums inside them are as good as torch's.
template <class A, class Body> std::vector<A> reduce_blocks(const Rows& rows, int64_t terms, Body body) {
  const int64_t width = terms * rows.c, columns = rows.columns(), each = rows.group_partials();
  std::vector<A> partial(rows.groups * each * width, A(0));
  std::vector<double> total(terms * columns, 0);
  at::parallel_for(0, rows.blocks(), rows.grain(), [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) body(b, partial.data() + rows.partial(b) * width);
  });
  for (int64_t k = 0; k < rows.groups * each; ++k)
    for (int64_t t = 0; t < terms; ++t) {
      const A* from = partial.data() + k * width + t * rows.c;
      double* to = total.data() + t * columns + k / each * rows.c;
      for (int64_t i = 0; i < rows.c; ++i) to[i] += from[i];
    }
  total = fold_columns(total, rows.spread);
  return {total.begin(), total.end()};
}

template <class Body> void each_block(const Rows& rows, Body body) {
  at::parallel_for(0, rows.blocks(), rows.grain(), [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) body(b);
  });
}

// Turns the activations that GANs use most into constants, so that each instantiation's loop vectorises; the others stay a
// runtime value (and their loops scalar: libm sets their pace anyway).
template <class Fn> void with_act(Act act, Fn fn) {
  switch (act) {
    case Act::linear: return fn(std::integral_constant<Act, Act::linear>{});
    case Act::relu: return fn(std::integral_constant<Act, Act::relu>{});
    case Act::leaky_relu:
    case Act::prelu: return fn(std::integral_constant<Act, Act::leaky_relu>{});
    case Act::tanh: return fn(std::integral_constant<Act, Act::tanh>{});
    case Act::silu: return fn(std::integral_constant<Act, Act::silu>{});
    default: return fn(act);
  }
}

// The same with the two whose sines are vectors, for the passes that networks end with them.
template <class Fn> void with_sines(Act act, Fn fn) {
  if (act == Act::snake) return fn(std::integral_constant<Act, Act::snake>{});
  if (act == Act::snake_beta) return fn(std::integral_constant<Act, Act::snake_beta>{});
  with_act(act, fn);
}

inline Act parse_act(c10::string_view name) {
  Act act;
  TORCH_CHECK(act_from_name(std::string(name).c_str(), &act), "unknown activation ", name);
  return act;
}

// z[i] = f(z[i]) over a run; alpha is per element where `alphas` is given (a channels_last run), else one value.
template <class A> void act_run(Act act, A* z, int64_t count, const A* alphas, A alpha) {
  with_act(act, [&](auto tag) {
    if (tag == Act::linear) return;
    if (alphas) {
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) z[i] = act_fwd<A>(tag, z[i], alphas[i]);
    } else {
#pragma omp simd
      for (int64_t i = 0; i < count; ++i) z[i] = act_fwd<A>(tag, z[i], alpha);
    }
  });
}

// A vector [C] of any float dtype as the columns of `rows`; `value` everywhere where there is none.
template <class A> std::vector<A> as_columns(const Rows& rows, const std::optional<at::Tensor>& vector, double value) {
  std::vector<A> all(rows.columns(), static_cast<A>(value));
  if (!vector || !vector->defined()) return all;
  const auto dense = vector->to(c10::CppTypeToScalarType<A>::value).contiguous();
  const A* from = dense.template const_data_ptr<A>();
  const int64_t size = dense.numel() * rows.spread;
  for (int64_t i = 0; rows.spread > 1 && i < size; ++from)
    for (int64_t s = 0; s < rows.spread; ++s) all[i++] = *from;
  for (int64_t i = 0; rows.spread == 1 && i < rows.columns(); i += size) std::copy_n(from, size, all.begin() + i);
  return all;
}

template <class A> const A* optional_ptr(const std::optional<at::Tensor>& t) { return t && t->defined() ? t->const_data_ptr<A>() : nullptr; }

template <class A, class From> at::Tensor as_tensor(const From* from, int64_t count, at::TensorOptions options) {
  auto out = at::empty({count}, options.dtype(c10::CppTypeToScalarType<A>::value).memory_format(std::nullopt));
  std::copy(from, from + count, out.template data_ptr<A>());
  return out;
}

}  // namespace ganfast
