// The adversarial losses with their gradients and statistics. Up to kOneBlock logits one block does everything in one launch;
// above, every stage is a launch whose partial sums the next one adds up in a fixed order.
#include "gan_loss.h"

namespace ganfast {
namespace {

constexpr int kThreads = 512;
constexpr int64_t kOneBlock = 65536, kMaxBlocks = 512;  // no more blocks than threads: one partial a thread
constexpr int kAhead = 4;  // logits a side that a thread asks for before it uses any

enum Sum { kLossReal, kLossFake, kRealRight, kFakeRight, kReal, kFake, kSign, kSigmaReal, kSigmaFake, kSums };
enum class Stage : int { whole, means, sums, finish };

struct Term {
  float loss, slope;  // d loss / d logit
};
// softplus(sign * v)
__device__ __forceinline__ Term softplus_term(float v, float sign) { return {act_math::softplus<float>(sign * v), sign * act_math::sigmoid<float>(sign * v)}; }
// relu(1 + sign * v); NaN passes
__device__ __forceinline__ Term hinge_term(float v, float sign) {
  const float margin = 1 + sign * v;
  return margin <= 0 ? Term{0, 0} : Term{margin, sign};
}
__device__ __forceinline__ Term square_term(float v, float target) { return {0.5f * (v - target) * (v - target), v - target}; }

// What one real logit adds to the loss, before the mean; the relativistic kinds are not asked.
__device__ __forceinline__ Term real_term(const GanLossShape& s, float r) {
  if (s.generator) return {0, 0};
  switch (s.kind) {
    case GanLoss::hinge: return hinge_term(r, -1);
    case GanLoss::lsgan: return square_term(r, 1 - s.smoothing);
    case GanLoss::wasserstein: return {-r, -1};
    default: {
      const Term right = softplus_term(r, -1), wrong = softplus_term(r, 1);
      if (s.smoothing == 0) return right;  // 0 * softplus(inf) would be NaN
      return {(1 - s.smoothing) * right.loss + s.smoothing * wrong.loss, (1 - s.smoothing) * right.slope + s.smoothing * wrong.slope};
    }
  }
}

__device__ __forceinline__ Term fake_term(const GanLossShape& s, float f) {
  switch (s.kind) {
    case GanLoss::hinge: return s.generator ? Term{-f, -1} : hinge_term(f, 1);
    case GanLoss::lsgan: return square_term(f, s.generator ? 1 : 0);
    case GanLoss::wasserstein: return s.generator ? Term{-f, -1} : Term{f, 1};
    default: {
      if (s.generator && s.kind == GanLoss::nonsaturating) return softplus_term(f, -1);
      const Term term = softplus_term(f, 1);
      return s.generator ? Term{-term.loss, -term.slope} : term;
    }
  }
}

// v = the sum over blocks of partials[block][0..kQ)
template <int kQ> __device__ __forceinline__ void load_sums(const float* partials, int64_t blocks, float (&v)[kQ], float* shared) {
#pragma unroll
  for (int q = 0; q < kQ; ++q) v[q] = threadIdx.x < blocks ? partials[threadIdx.x * kQ + q] : 0;
  block_sum<kQ, kThreads>(v, shared);
}

// blocks: how many share the logits (what the partials hold), not gridDim, which is 1 where only `finish` is left.
template <class T>
__global__ void __launch_bounds__(kThreads) gan_loss_fwd_kernel(GanLossShape s, Stage stage, int64_t blocks, const T* real, const T* fake, float* loss, float* greal,
                                                                float* gfake, float* stats, float* scratch) {
  GANFAST_SHARED(float, shared, kSums * kThreads);
  float *mean_partials = scratch, *sum_partials = scratch + 2 * blocks;  // read only where there is more than one block
  const bool average = s.kind == GanLoss::relativistic_average, paired = s.kind == GanLoss::relativistic;
  const int64_t first = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x, step = blocks * kThreads;
  const float sign = s.generator ? -1 : 1, inverse_real = s.n_real ? 1.0f / s.n_real : 0, inverse_fake = 1.0f / s.n_fake;
  const int64_t longest = s.n_real > s.n_fake ? s.n_real : s.n_fake;

  float means[2] = {0, 0};
  if (average && stage <= Stage::means) {
    for (int64_t i = first; i < longest; i += step) {
      if (i < s.n_real) means[0] += to_float(real[i]);
      if (i < s.n_fake) means[1] += to_float(fake[i]);
    }
    block_sum<2, kThreads>(means, shared);
    if (stage == Stage::means) {
      if (threadIdx.x < 2) mean_partials[blockIdx.x * 2 + threadIdx.x] = means[threadIdx.x];
      return;
    }
  } else if (average) {
    load_sums(mean_partials, blocks, means, shared);
  }
  means[0] *= inverse_real, means[1] *= inverse_fake;

  float sums[kSums] = {};
  if (stage == Stage::finish) {
    load_sums(sum_partials, blocks, sums, shared);
  } else {
    const float threshold = s.kind == GanLoss::lsgan ? 0.5f : 0.0f;
    for (int64_t at = first; at < longest; at += kAhead * step) {
      float ahead[kAhead][2] = {};
#pragma unroll
      for (int a = 0; a < kAhead; ++a) {
        if (at + a * step < s.n_real) ahead[a][0] = to_float(real[at + a * step]);
        if (at + a * step < s.n_fake) ahead[a][1] = to_float(fake[at + a * step]);
      }
#pragma unroll
      for (int a = 0; a < kAhead; ++a) {
        const int64_t i = at + a * step;
        const bool has_real = i < s.n_real, has_fake = i < s.n_fake;
        const float r = ahead[a][0], f = ahead[a][1];
        Term of_real{0, 0}, of_fake{0, 0};
        if (paired) {
          of_fake = softplus_term(f - r, sign);
          of_real.slope = -of_fake.slope;
        } else if (average) {
          of_real = softplus_term(means[1] - r, sign), of_fake = softplus_term(f - means[0], sign);
          if (has_real) sums[kSigmaReal] += of_real.slope;
          if (has_fake) sums[kSigmaFake] += of_fake.slope;
        } else {
          of_real = real_term(s, r), of_fake = fake_term(s, f);
        }
        if (has_real) {
          sums[kLossReal] += of_real.loss, sums[kReal] += r;
          sums[kRealRight] += r > threshold, sums[kSign] += (r > 0) - (r < 0);
          if (!average) greal[i] = of_real.slope * inverse_real;
        }
        if (has_fake) {
          sums[kLossFake] += of_fake.loss, sums[kFake] += f;
          sums[kFakeRight] += f < threshold;
          if (!average) gfake[i] = of_fake.slope * inverse_fake;
        }
      }
    }
    block_sum<kSums, kThreads>(sums, shared);
    if (stage == Stage::sums) {
      if (threadIdx.x == 0)
        for (int q = 0; q < kSums; ++q) sum_partials[blockIdx.x * kSums + q] = sums[q];
      return;
    }
  }

  if (blockIdx.x == 0 && threadIdx.x == 0) {
    loss[0] = sums[kLossReal] * inverse_real + sums[kLossFake] * inverse_fake;
    stats[0] = sums[kRealRight] * inverse_real, stats[1] = sums[kFakeRight] * inverse_fake;
    stats[2] = sums[kReal] * inverse_real, stats[3] = sums[kFake] * inverse_fake, stats[4] = sums[kSign] * inverse_real;
  }
  if (!average) return;
  // A logit acts by its own term and, through its mean, by every term of the other side.
  for (int64_t i = first; i < longest; i += step) {
    if (i < s.n_real) greal[i] = -(softplus_term(means[1] - to_float(real[i]), sign).slope + sums[kSigmaFake] * inverse_fake) * inverse_real;
    if (i < s.n_fake) gfake[i] = (softplus_term(to_float(fake[i]) - means[0], sign).slope + sums[kSigmaReal] * inverse_real) * inverse_fake;
  }
}

int64_t blocks_of(const GanLossShape& s) {
  if (s.n_real + s.n_fake <= kOneBlock) return 1;
  const int64_t longest = s.n_real > s.n_fake ? s.n_real : s.n_fake, wanted = (longest + kAhead * kThreads - 1) / (kAhead * kThreads);
  return wanted < kMaxBlocks ? wanted : kMaxBlocks;
}

}  // namespace

int64_t gan_loss_fwd_scratch(const GanLossShape& s) { return blocks_of(s) == 1 ? 0 : blocks_of(s) * (2 + kSums); }

void gan_loss_fwd_cuda(const GanLossShape& s, Dtype dtype, const void* real, const void* fake, float* loss, float* greal, float* gfake,
                       float* stats, float* scratch, cudaStream_t stream) {
  const bool average = s.kind == GanLoss::relativistic_average;
  const int64_t blocks = blocks_of(s);
  with_dtype(dtype, [&](auto tag) {
    using T = decltype(tag);
    const T *typed_real = static_cast<const T*>(real), *typed_fake = static_cast<const T*>(fake);
    auto launch = [&](Stage stage, int64_t grid) {
      GANFAST_LAUNCH(gan_loss_fwd_kernel<T>, grid, kThreads, stream, s, stage, blocks, typed_real, typed_fake, loss, greal, gfake, stats, scratch);
    };
    if (blocks == 1) return launch(Stage::whole, 1);
    if (average) launch(Stage::means, blocks);
    launch(Stage::sums, blocks);
    launch(Stage::finish, average ? blocks : 1);
  });
}

}  // namespace ganfast
