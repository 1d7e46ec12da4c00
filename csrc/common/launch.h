// What every CUDA file shares: launch and shared-memory macros, the three element types, reductions. The same source
// compiles under nvcc and, with GANFAST_CUDA_HOST, for the CPU (tests/cuda_host).
#pragma once
#include <cstdint>

#include "activations.h"

#if defined(__CUDACC__)
#include <stdexcept>
#include <string>
#define GANFAST_KERNELS
#define GANFAST_SHARED(type, name, count) __shared__ __align__(16) type name[count]
#define GANFAST_DYNAMIC_SHARED(type, name)                  \
  extern __shared__ __align__(16) unsigned char name##_[];  \
  type* name = reinterpret_cast<type*>(name##_)
#define GANFAST_CUDA(call, what)                           \
  do {                                                     \
    const cudaError_t error_ = call;                       \
    if (error_ != cudaSuccess) throw std::runtime_error(std::string(what ": ") + cudaGetErrorString(error_)); \
  } while (0)
// `bytes` of dynamic shared memory; above 48 KB a kernel has to ask for them.
#define GANFAST_LAUNCH_SHARED(kernel, grid, block, bytes, stream, ...)                                               \
  do {                                                                                                               \
    if ((bytes) > 48 * 1024) GANFAST_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), #kernel); \
    kernel<<<static_cast<unsigned>(grid), block, bytes, stream>>>(__VA_ARGS__);                                      \
    GANFAST_CUDA(cudaGetLastError(), #kernel);                                                                       \
  } while (0)
#define GANFAST_LAUNCH(kernel, grid, block, stream, ...) GANFAST_LAUNCH_SHARED(kernel, grid, block, 0, stream, __VA_ARGS__)
#elif defined(GANFAST_CUDA_HOST)
#include "cuda_host.h"
#define GANFAST_KERNELS
#else
#include <cuda_runtime_api.h>
#endif

namespace ganfast {

enum class Dtype : int { float32, bfloat16, float16 };

struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

inline constexpr int64_t kMaxGrid = 2147483647;  // blocks along x; the launchers' callers check against it

#ifdef GANFAST_KERNELS

// f(T{}) with the element type of `dtype`; host side.
template <class F> void with_dtype(Dtype dtype, F f) {
  if (dtype == Dtype::float32) f(float{});
  else if (dtype == Dtype::bfloat16) f(BFloat16{});
  else f(Half{});
}

// sinf keeps the digits of 2/pi on the stack for huge arguments. Reducing in double needs no stack; error 1e-16 |x|.
__device__ __forceinline__ float sin_reduced(float x) {
#ifdef __CUDACC__
  const double turns = x * 0.31830988618379067154;
  return sinpif(static_cast<float>(turns - 2 * rint(turns * 0.5)));
#else
  return std::sin(x);
#endif
}

// activations.h for one activation known at compile time; snake, the one user of sin, is restated for the reason above.
template <Act kAct> struct ActTag {
  static __device__ __forceinline__ float fwd(float z, float alpha) {
    if constexpr (kAct == Act::snake) {
      const float s = sin_reduced(alpha * z);
      return alpha == 0 ? z : z + s * s / alpha;
    }
    return act_fwd<float>(kAct, z, alpha);
  }
  static __device__ __forceinline__ float grad(float saved, float alpha, bool from_y) {
    if constexpr (kAct == Act::snake) return 1 + sin_reduced(2 * alpha * saved);
    return act_grad<float>(kAct, saved, alpha, from_y);
  }
  static __device__ __forceinline__ float alpha_grad(float z, float alpha) {
    if constexpr (kAct == Act::snake) {
      const float s = sin_reduced(alpha * z);
      return alpha == 0 ? z * z : (z * sin_reduced(2 * alpha * z) - s * s / alpha) / alpha;
    }
    return act_alpha_grad<float>(kAct, z, alpha);
  }
  // As act_bwd and act_alpha_bwd.
  static __device__ __forceinline__ float bwd(float g, float saved, float alpha, bool from_y) {
    if constexpr (kAct == Act::snake) return g * grad(saved, alpha, from_y);
    return act_bwd<float>(kAct, g, saved, alpha, from_y);
  }
  static __device__ __forceinline__ float alpha_bwd(float g, float z, float alpha) {
    if constexpr (kAct == Act::snake) return g * alpha_grad(z, alpha);
    return act_alpha_bwd<float>(kAct, g, z, alpha);
  }
};

// f(ActTag<act>): one jump for a whole vector instead of one per element.
template <class F> __device__ __forceinline__ void with_act(Act act, F f) {
  switch (act) {
    case Act::linear: return f(ActTag<Act::linear>{});
    case Act::relu: return f(ActTag<Act::relu>{});
    case Act::leaky_relu:
    case Act::prelu: return f(ActTag<Act::leaky_relu>{});
    case Act::tanh: return f(ActTag<Act::tanh>{});
    case Act::sigmoid: return f(ActTag<Act::sigmoid>{});
    case Act::elu: return f(ActTag<Act::elu>{});
    case Act::selu: return f(ActTag<Act::selu>{});
    case Act::softplus: return f(ActTag<Act::softplus>{});
    case Act::silu: return f(ActTag<Act::silu>{});
    case Act::gelu: return f(ActTag<Act::gelu>{});
    case Act::snake: return f(ActTag<Act::snake>{});
    case Act::snake_beta: return;  // refused by act_of
  }
}

__device__ __forceinline__ float to_float(float v) { return v; }
template <class T> __device__ __forceinline__ T from_float(float v);
template <> __device__ __forceinline__ float from_float<float>(float v) { return v; }
#ifdef __CUDACC__
__device__ __forceinline__ float to_float(BFloat16 v) { return __uint_as_float(static_cast<uint32_t>(v.bits) << 16); }
__device__ __forceinline__ float to_float(Half v) {
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v.bits));
  return f;
}
template <> __device__ __forceinline__ BFloat16 from_float<BFloat16>(float v) {
  BFloat16 r;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(r.bits) : "f"(v));
  return r;
}
template <> __device__ __forceinline__ Half from_float<Half>(float v) {
  Half r;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r.bits) : "f"(v));
  return r;
}
#else
inline float to_float(BFloat16 v) { return cuda_host::bfloat16_to_float(v.bits); }
inline float to_float(Half v) { return cuda_host::half_to_float(v.bits); }
template <> inline BFloat16 from_float<BFloat16>(float v) { return {cuda_host::float_to_bfloat16(v)}; }
template <> inline Half from_float<Half>(float v) { return {cuda_host::float_to_half(v)}; }
#endif

// Moved by one instruction; the address must be a multiple of the size.
template <class T, int kN> struct alignas(sizeof(T) * kN) Vec {
  T v[kN];
};

template <class T> bool aligned(const T* p, int elements) { return reinterpret_cast<uintptr_t>(p) % (elements * sizeof(T)) == 0; }

// (n, mean, M2) of some values; merging is Chan's rule, and an empty side changes nothing.
struct Moments {
  float n, mean, m2;
};
__device__ __forceinline__ Moments merge(Moments a, Moments b) {
  const float n = a.n + b.n;
  if (b.n == 0) return a;
  if (a.n == 0) return b;
  const float delta = b.mean - a.mean, share = b.n / n;
  return {n, a.mean + delta * share, a.m2 + b.m2 + delta * delta * a.n * share};
}

__device__ __forceinline__ float warp_sum(float v) {
  for (int lane = 16; lane; lane >>= 1) v += __shfl_xor_sync(0xffffffffu, v, lane);
  return v;
}

// Every thread of the block gets the sum of each v[q], one warp a q adding in a fixed order; `shared` holds kQ * kThreads
// floats and may be used again.
template <int kQ, int kThreads> __device__ __forceinline__ void block_sum(float (&v)[kQ], float* shared) {
  const int t = threadIdx.x;
  __syncthreads();
#pragma unroll
  for (int q = 0; q < kQ; ++q) shared[q * kThreads + t] = v[q];
  __syncthreads();
  for (int q = t / 32; q < kQ; q += kThreads / 32) {
    float sum = 0;
    for (int i = t % 32; i < kThreads; i += 32) sum += shared[q * kThreads + i];
    sum = warp_sum(sum);
    if (t % 32 == 0) shared[q * kThreads] = sum;  // which no other lane has read
  }
  __syncthreads();
#pragma unroll
  for (int q = 0; q < kQ; ++q) v[q] = shared[q * kThreads];
}

#endif  // GANFAST_KERNELS

}  // namespace ganfast
