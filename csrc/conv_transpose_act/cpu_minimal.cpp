// float32 convolutions of kernel 4, stride 2, padding 1, transposed and ordinary, by minimal filtering (README.md of the op).
#include <ATen/Parallel.h>
#include <torch/library.h>

#if __has_include(<sys/mman.h>)
#include <sys/mman.h>
#endif

#include <cstdlib>
#include <memory>
#include <vector>

#include "cpu_minimal_passes.h"

namespace ganfast {
namespace {
using namespace minimal;

constexpr int64_t kInputBytes = 16 << 20;  // transformed inputs made at a time, by all threads

// A thread's working memory, kept: on fresh memory a page fault every 4 KiB takes as long as the products do.
struct Scratch {
  std::unique_ptr<float, decltype(&std::free)> memory{nullptr, std::free};
  int64_t size = 0;
  float* floats(int64_t wanted) {
    if (wanted <= size) return memory.get();
    constexpr size_t kPage = 2 << 20;
    const size_t bytes = (wanted * sizeof(float) + kPage - 1) / kPage * kPage;
    memory.reset(static_cast<float*>(std::aligned_alloc(kPage, bytes)));
    TORCH_CHECK(memory, "conv_transpose_act: no memory for ", bytes, " bytes of transformed inputs and weights");
#ifdef MADV_HUGEPAGE
    madvise(memory.get(), bytes, MADV_HUGEPAGE);
#endif
    size = bytes / sizeof(float);
    return memory.get();
  }
};

// One axis cut into tiles of 3 and 2 outputs; a length of 1 is a tile of 2, half of it outside.
struct Axis {
  int64_t threes, twos;
  Axis(int64_t length, bool may_three) {
    twos = !may_three ? (length + 1) / 2 : length % 3 == 0 ? 0 : length % 3 == 2 || length == 1 ? 1 : 2;
    threes = length > 2 * twos ? (length - 2 * twos) / 3 : 0;
  }
  int64_t count(int size) const { return size == 3 ? threes : twos; }
  int64_t first(int size, int64_t tile) const { return size == 3 ? 3 * tile : 3 * threes + 2 * tile; }
};

struct Block { int64_t begin, end; int high, wide; };  // of tiles, all of one size

template <bool T> struct Minimal : Passes<T> {
  using P = Passes<T>;
  using P::n, P::h_out, P::w_out, P::c_in, P::threes, P::side, P::depth, P::row, P::product_step, P::tasks;

  // Calls fn with a tile's size as constants.
  template <class Fn> static void sized(int high, int wide, Fn fn) {
    using Two = std::integral_constant<int, 2>;
    using Three = std::integral_constant<int, 3>;
    if (high == 3) wide == 3 ? fn(Three{}, Three{}) : fn(Three{}, Two{});
    else wide == 3 ? fn(Two{}, Three{}) : fn(Two{}, Two{});
  }

  static constexpr int kSizes[4][2] = {{3, 3}, {3, 2}, {2, 3}, {2, 2}};
  static int64_t cost(int size) { return (kSizes[size][0] + 1) * (kSizes[size][1] + 1); }  // products of a tile

  Axis axis(int64_t length, bool may_three) const { return Axis(T ? (length + 1) / 2 : length, may_three); }
  int64_t tiles_of(int size, bool may_three) const {
    return n * axis(h_out, may_three).count(kSizes[size][0]) * axis(w_out, may_three).count(kSizes[size][1]);
  }
  // Whether tiles of 3 save more products of the inputs than their seven more of the weights cost: packing one takes as long as
  // multiplying some 16 tiles by it, in each of two threads or more. The number of threads must not show in the sums.
  bool threes_pay() const {
    int64_t products[2] = {9 * 32, 16 * 32};
    for (int s = 0; s < 4; ++s)
      for (bool may : {false, true}) products[may] += tiles_of(s, may) * cost(s);
    return products[true] < products[false];
  }

  void run(Act act) const {
    const Axis down = axis(h_out, threes), across = axis(w_out, threes);
    int64_t all = 0, work = 0, of_size[4];
    for (int s = 0; s < 4; ++s) of_size[s] = tiles_of(s, threes), all += of_size[s], work += of_size[s] * cost(s);
    // Threads take tiles; where these are few, each takes some of the panels too and transforms the inputs for itself.
    const int64_t threads = at::get_num_threads(), parts = std::clamp<int64_t>(all / (2 * kRows), 1, threads);
    const int64_t splits = std::min(tasks(), threads / parts);
    const auto edge = [&](int64_t part) {  // the first tile of a part; parts have equal numbers of products
      int64_t left = work * part / parts, tile = 0;
      for (int s = 0; s < 4; ++s) {
        const int64_t here = std::min(of_size[s], left / cost(s));
        tile += here, left -= here * cost(s);
        if (here < of_size[s]) break;
      }
      return part == parts ? all : tile;
    };
    const int64_t most = std::max<int64_t>(kBlock, kInputBytes / 4 / threads / (side() * side() * row()));
    at::parallel_for(0, parts * splits, 1, [&](int64_t begin, int64_t end) {
      static thread_local Scratch scratch;
      std::vector<Tile> tiles;
      std::vector<Block> blocks;
      for (int64_t at = begin; at < end; ++at) {
        const int64_t first = edge(at / splits), count = edge(at / splits + 1) - first, chunks = (count + most - 1) / most;
        for (int64_t c = 0; c < chunks; ++c) {
          const int64_t from = first + count * c / chunks, to = first + count * (c + 1) / chunks;
          tiles.clear(), blocks.clear();
          int64_t skipped = 0;
          for (int s = 0; s < 4; skipped += of_size[s++]) {
            const int64_t high = down.count(kSizes[s][0]), wide = across.count(kSizes[s][1]);
            for (int64_t t = std::max(from, skipped); t < std::min(to, skipped + of_size[s]); ++t) {
              const int64_t k = t - skipped, index = tiles.size();
              if (k == 0 || index == 0 || index - blocks.back().begin == kBlock) blocks.push_back({index, index, kSizes[s][0], kSizes[s][1]});
              tiles.push_back({k / (high * wide), down.first(kSizes[s][0], k / wide % high), across.first(kSizes[s][1], k % wide)}), ++blocks.back().end;
            }
          }
          if (!tiles.empty()) chunk(act, tiles, blocks, tasks() * (at % splits) / splits, tasks() * (at % splits + 1) / splits, scratch);
        }
      }
    });
  }

  // The tiles' outputs of tasks [first, last).
  void chunk(Act act, const std::vector<Tile>& tiles, const std::vector<Block>& blocks, int64_t first, int64_t last, Scratch& scratch) const {
    const int64_t step = apart(tiles.size() * row());
    float* inputs = scratch.floats(side() * side() * step + 16 * product_step() + 16 * kBlock * kPanel + c_in);
    float *packed = inputs + side() * side() * step, *products = packed + 16 * product_step(), *zeros = products + 16 * kBlock * kPanel;
    std::fill(zeros, zeros + c_in, 0.f);
    for (const Block& block : blocks)
      sized(block.high, block.wide, [&](auto high, auto wide) {
        for (int64_t t = block.begin; t < block.end; ++t) this->template transform<high, wide>(tiles[t], zeros, step, inputs + t * row());
      });
    for (int64_t task = first; task < last; ++task) {
      const int64_t panel = T ? task / 4 : task;
      const int phase = T ? task % 4 : 0;
      for (int p = phase; p < (T ? phase + 1 : 4); ++p) threes ? this->template pack<3>(panel, p, packed) : this->template pack<2>(panel, p, packed);
      for (const Block& block : blocks) {
        for (int i = 0; i < 4; ++i)
          for (int j = 0; j < 4; ++j) {
            if (!used(block.high, i) || !used(block.wide, j)) continue;
            const int64_t input = this->input_at((T ? phase / 2 * 3 : 0) + i, (T ? phase % 2 * 3 : 0) + j);
            product(block.end - block.begin, depth(), inputs + input * step + block.begin * row(), row(), packed + (i * 4 + j) * product_step(),
                    products + (i * 4 + j) * kBlock * kPanel);
          }
        with_act(act, [&](auto tag) {
          sized(block.high, block.wide, [&](auto high, auto wide) {
            this->template finish<high, wide>(tag, tiles.data() + block.begin, block.end - block.begin, panel, phase, products);
          });
        });
      }
    }
  }
};

template <bool T> void run_minimal(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                                   const std::optional<at::Tensor>& alpha, c10::string_view act, double alpha_value, at::Tensor& y, at::Tensor& z) {
  Minimal<T> m;
  m.x = x.const_data_ptr<float>(), m.weight = weight.const_data_ptr<float>(), m.y = y.data_ptr<float>();
  m.bias = optional_ptr<float>(bias), m.alphas = optional_ptr<float>(alpha), m.z = z.numel() ? z.data_ptr<float>() : nullptr;
  m.alpha = alpha_value, m.n = x.size(0), m.h = x.size(2), m.w = x.size(3), m.h_out = y.size(2), m.w_out = y.size(3);
  m.c_in = x.size(1), m.c_out = y.size(1), m.of_in = weight.stride(T ? 0 : 1), m.of_out = weight.stride(T ? 1 : 0), m.of_tap = weight.stride(3);
  m.threes = m.threes_pay();
  m.run(parse_act(act));
}

std::tuple<at::Tensor, at::Tensor> conv_transpose_act_minimal_cpu(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                                                                  const std::optional<at::Tensor>& alpha, c10::string_view act, double alpha_value,
                                                                  bool transposed, at::IntArrayRef output_size, bool save_z) {
  const at::AutoDispatchBelowADInplaceOrView no_autograd;
  const auto options = x.options().memory_format(at::MemoryFormat::ChannelsLast);
  auto y = at::empty({x.size(0), weight.size(transposed ? 1 : 0), output_size[0], output_size[1]}, options);
  auto z = save_z ? at::empty_like(y) : at::empty({0}, x.options());
  // A cotangent of the weight may have any strides.
  const bool dense = weight.is_contiguous() || weight.is_contiguous(at::MemoryFormat::ChannelsLast);
  (transposed ? run_minimal<true> : run_minimal<false>)(x, dense ? weight : weight.contiguous(), bias, alpha, act, alpha_value, y, z);
  return {y, z};
}

TORCH_LIBRARY_IMPL(ganfast, CPU, m) { m.impl("conv_transpose_act_minimal_native", conv_transpose_act_minimal_cpu); }

}  // namespace
}  // namespace ganfast
