// One warp's tensor-core product of the half types, float32 sums: C [16, 8] += A [16, 16] * B [16, 8]. With g = lane / 4 and
// t = lane % 4 a lane holds
//   a[0..3]  A[g][2t, 2t+1], A[g+8][2t, 2t+1], A[g][2t+8, 2t+9], A[g+8][2t+8, 2t+9], two elements a register, the first one low
//   b0, b1   B[2t, 2t+1][g], B[2t+8, 2t+9][g]
//   c[0..3]  C[g][2t], C[g][2t+1], C[g+8][2t], C[g+8][2t+1]
// All 32 lanes must arrive.
#pragma once
#include "launch.h"

#ifdef GANFAST_KERNELS
namespace ganfast {

#ifdef __CUDACC__
__device__ __forceinline__ void mma(BFloat16, float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ void mma(Half, float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ __forceinline__ uint32_t byte_perm(uint32_t low, uint32_t high, uint32_t selector) { return __byte_perm(low, high, selector); }
// What the compiler knows of it. Not for a pointer: it would become a generic one, of slower loads.
__device__ __forceinline__ void forget(int64_t& value) { asm volatile("" : "+l"(value)); }
// Left to itself the compiler splits the store of values that products left in scattered registers, and its parts meet in banks.
__device__ __forceinline__ void store_shared(Vec<float, 4>* to, const Vec<float, 4>& from) {
  const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(to));
  asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(address), "f"(from.v[0]), "f"(from.v[1]), "f"(from.v[2]), "f"(from.v[3]) : "memory");
}
#else
inline void store_shared(Vec<float, 4>* to, const Vec<float, 4>& from) { *to = from; }
template <class T> inline void mma(T, float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const auto lanes = cuda_host::share(std::array<uint32_t, 6>{a[0], a[1], a[2], a[3], b0, b1});
  const int lane = cuda_host::thread % 32, g = lane / 4, t = lane % 4;
  const auto element = [](uint32_t word, int i) { return to_float(T{static_cast<uint16_t>(word >> 16 * (i % 2))}); };
  for (int i = 0; i < 4; ++i)
    for (int k = 0; k < 16; ++k)
      c[i] += element(lanes[g * 4 + k % 8 / 2][i / 2 + k / 8 * 2], k) * element(lanes[(2 * t + i % 2) * 4 + k % 8 / 2][4 + k / 8], k);
}
inline void forget(int64_t&) {}
inline uint32_t byte_perm(uint32_t low, uint32_t high, uint32_t selector) {
  const uint64_t both = static_cast<uint64_t>(high) << 32 | low;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) result |= (both >> 8 * (selector >> 4 * i & 7) & 255) << 8 * i;
  return result;
}
#endif

}  // namespace ganfast
#endif
