// Sizes of a transposed convolution as 3-D, and which taps reach each output position.
#pragma once
#include <ATen/core/Tensor.h>
#include <vector>

namespace ganfast {

struct Tap { int64_t k, i; };  // kernel index, input index

struct Geometry {
  int64_t n, c_in, c_out, groups;
  int64_t in[3], out[3], k[3], stride[3], pad[3], dil[3];

  // `gz` sizes the output side, `in_size` the input side; weight is [Cin, Cout/groups, *k].
  Geometry(int64_t images, at::IntArrayRef in_size, at::IntArrayRef out_size, const at::Tensor& weight, at::IntArrayRef s,
           at::IntArrayRef p, at::IntArrayRef d, int64_t g)
      : n(images), c_in(weight.size(0)), c_out(weight.size(1) * g), groups(g) {
    const int64_t dims = in_size.size(), lead = 3 - dims;
    for (int64_t a = 0; a < 3; ++a) {
      const bool unit = a < lead;
      in[a] = unit ? 1 : in_size[a - lead], out[a] = unit ? 1 : out_size[a - lead], k[a] = unit ? 1 : weight.size(2 + a - lead);
      stride[a] = unit ? 1 : s[a - lead], pad[a] = unit ? 0 : p[a - lead], dil[a] = unit ? 1 : d[a - lead];
    }
  }

  int64_t pixels_in() const { return in[0] * in[1] * in[2]; }
  int64_t pixels_out() const { return out[0] * out[1] * out[2]; }
  int64_t taps() const { return k[0] * k[1] * k[2]; }
  int64_t c_in_group() const { return c_in / groups; }
  int64_t c_out_group() const { return c_out / groups; }
  // The outermost axis that has extent: bands of it are contiguous pixels.
  int band_axis() const { return in[0] > 1 || out[0] > 1 ? 0 : (in[1] > 1 || out[1] > 1 ? 1 : 2); }
  // One pixel in, every tap its own output pixel: the op is one GEMM.
  bool one_gemm() const {
    for (int a = 0; a < 3; ++a)
      if (in[a] != 1 || out[a] != k[a] || pad[a] != 0 || (dil[a] != 1 && k[a] != 1)) return false;
    return groups == 1;
  }
  // For every output position of an axis, its taps in ascending kernel order.
  std::vector<std::vector<Tap>> taps_of(int a) const {
    std::vector<std::vector<Tap>> all(out[a]);
    for (int64_t o = 0; o < out[a]; ++o)
      for (int64_t t = 0; t < k[a]; ++t) {
        const int64_t reach = o + pad[a] - dil[a] * t;
        if (reach >= 0 && reach % stride[a] == 0 && reach / stride[a] < in[a]) all[o].push_back({t, reach / stride[a]});
      }
    return all;
  }
};

}  // namespace ganfast
