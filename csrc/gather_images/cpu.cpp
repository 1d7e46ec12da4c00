// CPU gather_images: the levels of some rows of the result brought into its order as bytes, then scaled in one vectorised run.
#include <torch/library.h>

#include <algorithm>
#include <array>
#include <limits>

#include "../common/cpu_rows.h"

namespace ganfast {
namespace {

constexpr int64_t kStaged = 8192;  // levels brought into order at a time: they stay in the first cache

struct Images {
  int64_t batch, count, c, h, w;
  bool from_last, to_last;
  int64_t size() const { return c * h * w; }
  int64_t row() const { return to_last ? w * c : w; }  // of the result
  int64_t rows() const { return to_last ? h : c * h; }  // of an image of the result
};

// Columns of kC channels, or of c where that is 0, from `from` on: steps are bytes of the image.
template <int kC> void stage_row(const uint8_t* from, int64_t columns, int64_t c, int64_t column_step, int64_t channel_step, uint8_t* to) {
  if constexpr (kC) c = kC;
  for (int64_t x = 0; x < columns; ++x)
    for (int64_t k = 0; k < c; ++k) to[x * c + k] = from[x * column_step + k * channel_step];
}

// Row r of the result, of the image that begins at `image`.
void stage(const Images& s, const uint8_t* image, bool mirrored, int64_t r, uint8_t* to) {
  const int64_t channel = s.to_last ? 0 : r / s.h, y = s.to_last ? r : r % s.h;
  const int64_t column = s.from_last ? s.c : 1, channel_step = s.from_last ? 1 : s.h * s.w, channels = s.to_last ? s.c : 1;
  const int64_t step = mirrored ? -column : column;
  const uint8_t* from = image + y * s.w * column + channel * channel_step + (mirrored ? (s.w - 1) * column : 0);
  if (channels == 1 && step == -1) std::reverse_copy(from - (s.w - 1), from + 1, to);
  else if (channels == 1) stage_row<1>(from, s.w, 1, step, channel_step, to);
  else if (channels == 3) stage_row<3>(from, s.w, 3, step, channel_step, to);
  else stage_row<0>(from, s.w, channels, step, channel_step, to);
}

template <class A> inline A scaled(uint8_t level) { return level / A(127.5) - A(1); }

template <class T> void scale(const uint8_t* levels, int64_t length, T* to) {
  if constexpr (std::is_same_v<T, at::Half>) {  // narrowing one by one takes three times as long as a table of all levels
    static const auto table = [] {
      std::array<T, 256> all;
      for (int i = 0; i < 256; ++i) all[i] = scaled<float>(i);
      return all;
    }();
    for (int64_t i = 0; i < length; ++i) to[i] = table[levels[i]];
  } else {
#pragma omp simd
    for (int64_t i = 0; i < length; ++i) to[i] = narrow<T>(scaled<Acc<T>>(levels[i]));
  }
}

template <class T> void rows_of(const Images& s, const uint8_t* images, const int64_t* index, const bool* flip, int64_t begin, int64_t end, T* y) {
  const int64_t row = s.row(), at_once = std::max<int64_t>(1, kStaged / row);
  std::vector<uint8_t> staged(std::min(at_once, end - begin) * row);
  while (begin < end) {
    const int64_t b = begin / s.rows(), first = begin % s.rows(), there = std::min(end - begin, s.rows() - first);
    const bool mirrored = flip && flip[b], straight = s.from_last == s.to_last && !mirrored;
    const int64_t rows = straight ? there : std::min(there, at_once);
    T* to = y + begin * row;
    begin += rows;
    if (index[b] < 0 || index[b] >= s.count) {  // refused in words before; whatever comes by another way reads nothing
      std::fill_n(to, rows * row, std::numeric_limits<T>::quiet_NaN());
      continue;
    }
    const uint8_t* image = images + index[b] * s.size();
    if (!straight)
      for (int64_t r = 0; r < rows; ++r) stage(s, image, mirrored, first + r, staged.data() + r * row);
    scale(straight ? image + first * row : staged.data(), rows * row, to);
  }
}

at::Tensor gather_images_fwd_cpu(const at::Tensor& images, const at::Tensor& index, const std::optional<at::Tensor>& flip, at::ScalarType dtype, bool images_last,
                                 bool channels_last) {
  const Images s{index.size(0), images.size(0), images.size(1), images.size(2), images.size(3), images_last, channels_last};
  auto y = at::empty({s.batch, s.c, s.h, s.w},
                     images.options().dtype(dtype).memory_format(channels_last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous));
  const auto wide = index.to(at::kLong);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, dtype, "gather_images_fwd_cpu", [&] {
    const uint8_t* from = images.const_data_ptr<uint8_t>();
    const int64_t* at = wide.const_data_ptr<int64_t>();
    const bool* mirrored = flip && flip->defined() ? flip->const_data_ptr<bool>() : nullptr;
    scalar_t* to = y.data_ptr<scalar_t>();
    const int64_t grain = std::max<int64_t>(1, 32768 / s.row());  // rows worth waking a thread for
    at::parallel_for(0, s.batch * s.rows(), grain, [&](int64_t begin, int64_t end) { rows_of<scalar_t>(s, from, at, mirrored, begin, end, to); });
  });
  return y;
}

TORCH_LIBRARY_IMPL(ganfast, CPU, m) { m.impl("gather_images_fwd_native", gather_images_fwd_cpu); }

}  // namespace
}  // namespace ganfast
