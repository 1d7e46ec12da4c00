// What minimal filtering does before and after its matrix products: weights packed, pixels transformed, products to outputs.
#pragma once
#include <cstring>

#include "../common/cpu_rows.h"
#include "cpu_minimal.h"

namespace ganfast::minimal {

constexpr int64_t kBlock = 4 * kRows;  // tiles whose products are made, then turned into outputs

// At least `size` floats, an odd number of cache lines: what lies powers of two apart is for ever in the same few cache sets.
int64_t apart(int64_t size) { return ((size + 15) / 16 | 1) * 16; }

struct Tile { int64_t image, y, x; };  // y, x: first output of a phase

// T: y = conv_transpose(x), weight [c_in, c_out, 4, 4]; else y = conv(x), weight [c_out, c_in, 4, 4], by its strides. x and y are
// channels_last; channels are multiples of 16.
template <bool T> struct Passes {
  const float *x, *weight, *bias, *alphas;
  float *y, *z;
  float alpha;
  int64_t n, h, w, h_out, w_out, c_in, c_out, of_in, of_out, of_tap;  // of_: the weight's strides
  bool threes;

  static constexpr int kInputs = T ? 7 : 4;  // an axis
  int64_t depth() const { return T ? c_in : 4 * c_in; }
  int64_t row() const { return depth() + kLanes; }
  // Without tiles of 3 an axis has no inputs 2 and 5.
  int64_t side() const { return threes ? kInputs : T ? 5 : 3; }
  int64_t input_at(int i, int j) const { return threes ? i * kInputs + j : (i - i / 3) * side() + j - j / 3; }
  int64_t product_step() const { return apart(depth() * kPanel); }
  int64_t panels() const { return (c_out + kPanel - 1) / kPanel; }
  int64_t tasks() const { return panels() * (T ? 4 : 1); }

  // The weights of one panel's (and phase's) products, those of tiles of kSize outputs: packed [16, depth, kPanel], product_step() apart.
  template <int kSize> void pack(int64_t panel, int phase, float* packed) const {
    const int64_t step = product_step();
    for (int64_t half = 0; half < kPanel; half += kLanes)
      for (int64_t ci = 0; ci < c_in; ci += kLanes) {
        alignas(64) float taps[4][kLanes][kLanes];  // [of 2 x 2, input channel, output channel]
        gather(ci, panel * kPanel + half, phase, taps);
        float* into = packed + ((T ? 0 : phase * c_in) + ci) * kPanel + half;
        for (int i = 0; i < kLanes; ++i, into += kPanel) {
          Vec left[4], right[4], u[4];
          weights(load(taps[0][i]), load(taps[2][i]), left);
          weights(load(taps[1][i]), load(taps[3][i]), right);
#pragma GCC unroll 4
          for (int a = 0; a < 4; ++a) {
            if (!used(kSize, a)) continue;
            weights(left[a], right[a], u);
#pragma GCC unroll 4
            for (int b = 0; b < 4; ++b)
              if (used(kSize, b)) store(into + (a * 4 + b) * step, u[b]);
          }
        }
      }
  }

  // The four taps of a phase for kLanes channels from ci and co on.
  void gather(int64_t ci, int64_t co, int phase, float (*taps)[kLanes][kLanes]) const {
    static constexpr int kTaps[2][2][2] = {{{1, 3}, {0, 2}}, {{3, 1}, {2, 0}}};
    const int *ty = kTaps[T][phase / 2], *tx = kTaps[T][phase % 2];
    if (co >= c_out) return void(std::memset(taps, 0, 4 * sizeof *taps));  // the last panel's other half
    const float* from = weight + ci * of_in + co * of_out;
    if (of_tap == 1) {
      alignas(64) float all[16][kLanes];
      for (int i = 0; i < kLanes; ++i) {
        for (int t = 0; t < 16; t += kLanes) transpose(from + i * of_in + t, of_out, all[t], kLanes);
        for (int t = 0; t < 4; ++t) store(taps[t][i], load(all[ty[t / 2] * 4 + tx[t % 2]]));
      }
      return;
    }
    for (int t = 0; t < 4; ++t) {
      const float* tap = from + (ty[t / 2] * 4 + tx[t % 2]) * of_tap;
      if (of_in == 1) transpose(tap, of_out, taps[t][0], kLanes);
      else
        for (int i = 0; i < kLanes; ++i) store(taps[t][i], load(tap + i * of_in));
    }
  }

  // The tile's transformed pixels into inputs [side()^2, tiles, row()], `step` apart. Those outside the image are `zeros`.
  template <int kHigh, int kWide> void transform(const Tile& tile, const float* zeros, int64_t step, float* into) const {
    constexpr int kY = kHigh + (T ? 2 : 1), kX = kWide + (T ? 2 : 1);
    float* place[kInputs][kInputs];
    for (int i = 0; i < kInputs; ++i)
      for (int j = 0; j < kInputs; ++j) place[i][j] = into + input_at(i, j) * step;
    for (int phase = 0; phase < (T ? 1 : 4); ++phase) {
      const float* pixels[kY][kX];
      for (int i = 0; i < kY; ++i)
        for (int j = 0; j < kX; ++j) {
          const int64_t iy = T ? tile.y - 1 + i : 2 * (tile.y + i) - phase / 2, ix = T ? tile.x - 1 + j : 2 * (tile.x + j) - phase % 2;
          pixels[i][j] = iy >= 0 && iy < h && ix >= 0 && ix < w ? x + ((tile.image * h + iy) * w + ix) * c_in : zeros;
        }
      for (int64_t c = 0; c < c_in; c += kLanes) {
        Vec columns[kInputs][kX], d[kY], v[kInputs];
#pragma GCC unroll 8
        for (int j = 0; j < kX; ++j) {
#pragma GCC unroll 8
          for (int i = 0; i < kY; ++i) d[i] = load(pixels[i][j] + c);
          if constexpr (T) in_both<kHigh>(d, v);
          else in<kHigh>(d, v);
#pragma GCC unroll 8
          for (int i = 0; i < kInputs; ++i)
            if (used(kHigh, i)) columns[i][j] = v[i];
        }
#pragma GCC unroll 8
        for (int i = 0; i < kInputs; ++i) {
          if (!used(kHigh, i)) continue;
          if constexpr (T) in_both<kWide>(columns[i], v);
          else in<kWide>(columns[i], v);
#pragma GCC unroll 8
          for (int j = 0; j < kInputs; ++j)
            if (used(kWide, j)) store(place[i][j] + phase * c_in + c, v[j]);
        }
      }
    }
  }

  // products [16, kBlock, kPanel] of a block to outputs, bias and activation.
  template <int kHigh, int kWide, class Tag> void finish(Tag act, const Tile* tiles, int64_t count, int64_t panel, int phase, const float* products) const {
    const int64_t channel = panel * kPanel, channels = std::min<int64_t>(kPanel, c_out - channel);
    alignas(64) float add[kPanel], slope[kPanel], run[kHigh][kWide][kPanel];
    for (int64_t c = 0; c < kPanel; ++c) {
      add[c] = bias && c < channels ? bias[channel + c] : 0;
      slope[c] = alphas && c < channels ? alphas[channel + c] : alpha;
    }
    for (int64_t t = 0; t < count; ++t) {
      for (int c = 0; c < kPanel; c += kLanes) {
        Vec rows[kHigh][4], m[4], o[3];
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
          if (!used(kWide, j)) continue;
#pragma GCC unroll 4
          for (int i = 0; i < 4; ++i)
            if (used(kHigh, i)) m[i] = load(products + ((i * 4 + j) * kBlock + t) * kPanel + c);
          out<kHigh>(m, o);
          for (int i = 0; i < kHigh; ++i) rows[i][j] = o[i];
        }
#pragma GCC unroll 4
        for (int i = 0; i < kHigh; ++i) {
          out<kWide>(rows[i], o);
          for (int j = 0; j < kWide; ++j) store(run[i][j] + c, o[j] + load(add + c));
        }
      }
      for (int i = 0; i < kHigh; ++i)
        for (int j = 0; j < kWide; ++j) {
          const int64_t oy = T ? 2 * (tiles[t].y + i) + phase / 2 : tiles[t].y + i, ox = T ? 2 * (tiles[t].x + j) + phase % 2 : tiles[t].x + j;
          if (oy >= h_out || ox >= w_out) continue;
          const int64_t at = ((tiles[t].image * h_out + oy) * w_out + ox) * c_out + channel;
          if (z) std::memcpy(z + at, run[i][j], channels * sizeof(float));
#pragma omp simd
          for (int c = 0; c < kPanel; ++c) run[i][j][c] = act_fwd<float>(act, run[i][j][c], slope[c]);
          std::memcpy(y + at, run[i][j], channels * sizeof(float));
        }
    }
  }
};

}  // namespace ganfast::minimal
