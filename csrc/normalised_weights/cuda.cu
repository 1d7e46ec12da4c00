// Weight norms and spectral norms of many weights in a number of launches that does not grow with theirs: one forward and one backward of
// weight norm, a block a row; of spectral norm two a half iteration and one at the end, two backward.
#include "normalised_weights.h"

namespace ganfast {
namespace {

constexpr int kThreads = 128;      // of a row
constexpr int kLanes = 32;         // neighbouring columns of a block that sums over rows, each
constexpr int kRows = 8;           // by so many threads
constexpr int kVectorThreads = 256;

template <class T> constexpr int kWide = 16 / sizeof(T);

// The weight that has the row: the last whose first is not behind it.
__device__ __forceinline__ int weight_of(const int* first, int count, int row) {
  int low = 0, high = count;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (first[middle] <= row) low = middle;
    else high = middle;
  }
  return low;
}

// f(column, values) for a thread's part of a row, kWidth neighbours at a time: a row of a whole number of vectors has no rest.
template <int kWidth, class F> __device__ __forceinline__ void for_row(int columns, F f) {
  for (int c = threadIdx.x * kWidth; c < columns; c += kThreads * kWidth) f(c);
}

// values[j] = p[j]; loads of one instruction.
template <class T, int kWidth> __device__ __forceinline__ void load(const T* p, float (&values)[kWidth]) {
  const Vec<T, kWidth> item = *reinterpret_cast<const Vec<T, kWidth>*>(p);
#pragma unroll
  for (int j = 0; j < kWidth; ++j) values[j] = to_float(item.v[j]);
}

template <class T, int kWidth> __device__ __forceinline__ void store(T* p, const float (&values)[kWidth]) {
  Vec<T, kWidth> item;
#pragma unroll
  for (int j = 0; j < kWidth; ++j) item.v[j] = from_float<T>(values[j]);
  *reinterpret_cast<Vec<T, kWidth>*>(p) = item;
}

// The sum over a row of a * b, in every thread.
template <class T, int kWidth> __device__ __forceinline__ float row_dot(const T* a, const T* b, int columns, float* shared) {
  float sum[1] = {0};
  for_row<kWidth>(columns, [&](int c) {
    float x[kWidth], y[kWidth];
    load<T, kWidth>(a + c, x);
    load<T, kWidth>(b + c, y);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) sum[0] += x[j] * y[j];
  });
  block_sum<1, kThreads>(sum, shared);
  return sum[0];
}

template <class T, int kWidth> __global__ void __launch_bounds__(kThreads) weight_norms_fwd_kernel(WeightNorms w, float* norms) {
  GANFAST_SHARED(float, shared, kThreads);
  const int row = w.first[0] + static_cast<int>(blockIdx.x), i = weight_of(w.first, w.count, row), r = row - w.first[i], columns = w.columns[i];
  const T* v = static_cast<const T*>(w.v[i]) + static_cast<int64_t>(r) * columns;
  T* out = static_cast<T*>(w.out[i]) + static_cast<int64_t>(r) * columns;
  const float norm = sqrtf(row_dot<T, kWidth>(v, v, columns, shared));
  const float scale = to_float(static_cast<const T*>(w.g[i])[r]) / norm;
  if (threadIdx.x == 0) norms[row] = norm;
  for_row<kWidth>(columns, [&](int c) {
    float x[kWidth];
    load<T, kWidth>(v + c, x);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) x[j] *= scale;
    store<T, kWidth>(out + c, x);
  });
}

template <class T, int kWidth> __global__ void __launch_bounds__(kThreads) weight_norms_bwd_kernel(WeightNorms w, const float* norms) {
  GANFAST_SHARED(float, shared, kThreads);
  const int row = w.first[0] + static_cast<int>(blockIdx.x), i = weight_of(w.first, w.count, row), r = row - w.first[i], columns = w.columns[i];
  const int64_t at = static_cast<int64_t>(r) * columns;
  const T *v = static_cast<const T*>(w.v[i]) + at, *gw = static_cast<const T*>(w.gw[i]) + at;
  T* gv = static_cast<T*>(w.out[i]) + at;
  const float norm = norms[row], along = row_dot<T, kWidth>(gw, v, columns, shared) / norm;
  const float scale = to_float(static_cast<const T*>(w.g[i])[r]) / norm, back = along / norm;
  if (threadIdx.x == 0) static_cast<T*>(w.gg[i])[r] = from_float<T>(along);
  for_row<kWidth>(columns, [&](int c) {
    float x[kWidth], g[kWidth];
    load<T, kWidth>(v + c, x);
    load<T, kWidth>(gw + c, g);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) g[j] = scale * (g[j] - x[j] * back);
    store<T, kWidth>(gv + c, g);
  });
}

// out[row] = weight . v, of the float vector that belongs to the row's weight; without one, weight . gw.
template <class T, int kWidth> __global__ void __launch_bounds__(kThreads) spectral_rows_kernel(SpectralNorms w, const float* v, float* out) {
  GANFAST_SHARED(float, shared, kThreads);
  const int row = w.first[0] + static_cast<int>(blockIdx.x), i = weight_of(w.first, w.count, row), columns = w.column[i + 1] - w.column[i];
  const int64_t at = static_cast<int64_t>(row - w.first[i]) * columns;
  const T* x = static_cast<const T*>(w.weight[i]) + at;
  float sum[1] = {0};
  if (v == nullptr) {
    sum[0] = row_dot<T, kWidth>(x, static_cast<const T*>(w.gw[i]) + at, columns, shared);
  } else {
    v += w.column[i];
    for_row<kWidth>(columns, [&](int c) {
      float a[kWidth];
      load<T, kWidth>(x + c, a);
#pragma unroll
      for (int j = 0; j < kWidth; ++j) sum[0] += a[j] * v[c + j];
    });
    block_sum<1, kThreads>(sum, shared);
  }
  if (threadIdx.x == 0) out[row] = sum[0];
}

// v[column] = the sum over rows of u[row] * weight[row, column]; a block has kLanes columns of one weight.
template <class T> __global__ void __launch_bounds__(kLanes* kRows) spectral_columns_kernel(SpectralNorms w, const float* u, float* v) {
  GANFAST_SHARED(float, shared, kLanes * kRows);
  int block = static_cast<int>(blockIdx.x), i = 0;
  for (;; ++i) {
    const int blocks = (w.column[i + 1] - w.column[i] + kLanes - 1) / kLanes;
    if (block < blocks) break;
    block -= blocks;
  }
  const int lane = threadIdx.x % kLanes, columns = w.column[i + 1] - w.column[i], c = block * kLanes + lane, rows = w.first[i + 1] - w.first[i];
  const T* x = static_cast<const T*>(w.weight[i]);
  float sum = 0;
  if (c < columns)
    for (int r = threadIdx.x / kLanes; r < rows; r += kRows) sum += u[w.first[i] + r] * to_float(x[static_cast<int64_t>(r) * columns + c]);
  shared[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x < kLanes && c < columns) {
    sum = 0;
    for (int k = 0; k < kRows; ++k) sum += shared[k * kLanes + lane];
    v[w.column[i] + c] = sum;
  }
}

// Block i has weight i's part of x: x / max(|x|, eps), and sigma[i] the product of both; with an `other`, x stays and sigma[i] = x . other.
__global__ void __launch_bounds__(kVectorThreads) spectral_normalise_kernel(SpectralNorms w, bool of_u, float eps, float* x, const float* other, float* sigma) {
  GANFAST_SHARED(float, shared, kVectorThreads);
  const int i = static_cast<int>(blockIdx.x), begin = of_u ? w.first[i] : w.column[i], end = of_u ? w.first[i + 1] : w.column[i + 1];
  float sum[1] = {0};
  for (int k = begin + static_cast<int>(threadIdx.x); k < end; k += kVectorThreads) sum[0] += x[k] * (other ? other[k] : x[k]);
  block_sum<1, kVectorThreads>(sum, shared);
  const float norm = other ? 1 : fmaxf(sqrtf(sum[0]), eps);
  if (threadIdx.x == 0) sigma[i] = sum[0] / norm;
  if (other) return;
  for (int k = begin + static_cast<int>(threadIdx.x); k < end; k += kVectorThreads) x[k] /= norm;
}

template <class T, int kWidth> __global__ void __launch_bounds__(kThreads) spectral_divide_kernel(SpectralNorms w, const float* sigma) {
  const int row = w.first[0] + static_cast<int>(blockIdx.x), i = weight_of(w.first, w.count, row), columns = w.column[i + 1] - w.column[i];
  const int64_t at = static_cast<int64_t>(row - w.first[i]) * columns;
  const float inverse = 1 / sigma[i];  // a division for each value needs a call, and its registers
  for_row<kWidth>(columns, [&](int c) {
    float x[kWidth];
    load<T, kWidth>(static_cast<const T*>(w.weight[i]) + at + c, x);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) x[j] *= inverse;
    store<T, kWidth>(static_cast<T*>(w.out[i]) + at + c, x);
  });
}

// along[row] = weight . gw of that row: every block of a weight adds them up in the same order.
template <class T, int kWidth> __global__ void __launch_bounds__(kThreads)
    spectral_bwd_kernel(SpectralNorms w, const float* u, const float* v, const float* sigma, const float* along) {
  GANFAST_SHARED(float, shared, kThreads);
  const int row = w.first[0] + static_cast<int>(blockIdx.x), i = weight_of(w.first, w.count, row), columns = w.column[i + 1] - w.column[i];
  const int64_t at = static_cast<int64_t>(row - w.first[i]) * columns;
  float sum[1] = {0};
  for (int r = w.first[i] + static_cast<int>(threadIdx.x); r < w.first[i + 1]; r += kThreads) sum[0] += along[r];
  block_sum<1, kThreads>(sum, shared);
  const float inverse = 1 / sigma[i], back = sum[0] * inverse * inverse * u[row];
  v += w.column[i];
  for_row<kWidth>(columns, [&](int c) {
    float g[kWidth];
    load<T, kWidth>(static_cast<const T*>(w.gw[i]) + at + c, g);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) g[j] = g[j] * inverse - back * v[c + j];
    store<T, kWidth>(static_cast<T*>(w.out[i]) + at + c, g);
  });
}

template <class T> bool wide(const void* p) { return p == nullptr || aligned(static_cast<const T*>(p), kWide<T>); }

// f(T{}, the width): vectors where every row of every weight begins at one, in all that is read and written.
template <class Table, class F> void with_width(const Table& w, Dtype dtype, F f) {
  with_dtype(dtype, [&](auto tag) {
    using T = decltype(tag);
    bool vectors = true;
    for (int i = 0; i < w.count; ++i) {
      vectors = vectors && wide<T>(w.gw[i]) && wide<T>(w.out[i]);
      if constexpr (std::is_same_v<Table, WeightNorms>) vectors = vectors && wide<T>(w.v[i]) && w.columns[i] % kWide<T> == 0;
      else vectors = vectors && wide<T>(w.weight[i]) && (w.column[i + 1] - w.column[i]) % kWide<T> == 0;
    }
    if (vectors) f(tag, std::integral_constant<int, kWide<T>>{});
    else f(tag, std::integral_constant<int, 1>{});
  });
}

template <class Table> int rows_of(const Table& w) { return w.first[w.count] - w.first[0]; }

}  // namespace

void weight_norms_fwd_cuda(const WeightNorms& w, Dtype dtype, float* norms, cudaStream_t stream) {
  with_width(w, dtype, [&](auto tag, auto width) {
    auto kernel = &weight_norms_fwd_kernel<decltype(tag), decltype(width)::value>;
    GANFAST_LAUNCH(kernel, rows_of(w), kThreads, stream, w, norms);
  });
}

void weight_norms_bwd_cuda(const WeightNorms& w, Dtype dtype, const float* norms, cudaStream_t stream) {
  with_width(w, dtype, [&](auto tag, auto width) {
    auto kernel = &weight_norms_bwd_kernel<decltype(tag), decltype(width)::value>;
    GANFAST_LAUNCH(kernel, rows_of(w), kThreads, stream, w, norms);
  });
}

void spectral_norms_iterate_cuda(const SpectralNorms& w, Dtype dtype, bool of_u, float eps, float* u, float* v, float* sigma, cudaStream_t stream) {
  with_width(w, dtype, [&](auto tag, auto width) {
    using T = decltype(tag);
    int tiles = 0;
    for (int i = 0; i < w.count; ++i) tiles += (w.column[i + 1] - w.column[i] + kLanes - 1) / kLanes;
    auto rows = &spectral_rows_kernel<T, decltype(width)::value>;
    auto columns = &spectral_columns_kernel<T>;
    if (of_u) GANFAST_LAUNCH(rows, rows_of(w), kThreads, stream, w, v, u);
    else GANFAST_LAUNCH(columns, tiles, kLanes * kRows, stream, w, u, v);
  });
  GANFAST_LAUNCH(spectral_normalise_kernel, w.count, kVectorThreads, stream, w, of_u, eps, of_u ? u : v, nullptr, sigma);
}

void spectral_norms_sigma_cuda(const SpectralNorms& w, Dtype dtype, const float* u, const float* v, float* scratch, float* sigma, cudaStream_t stream) {
  with_width(w, dtype, [&](auto tag, auto width) {
    auto rows = &spectral_rows_kernel<decltype(tag), decltype(width)::value>;
    GANFAST_LAUNCH(rows, rows_of(w), kThreads, stream, w, v, scratch);
  });
  GANFAST_LAUNCH(spectral_normalise_kernel, w.count, kVectorThreads, stream, w, true, 0.f, scratch, u, sigma);
}

void spectral_norms_divide_cuda(const SpectralNorms& w, Dtype dtype, const float* sigma, cudaStream_t stream) {
  with_width(w, dtype, [&](auto tag, auto width) {
    auto kernel = &spectral_divide_kernel<decltype(tag), decltype(width)::value>;
    GANFAST_LAUNCH(kernel, rows_of(w), kThreads, stream, w, sigma);
  });
}

void spectral_norms_bwd_cuda(const SpectralNorms& w, Dtype dtype, const float* u, const float* v, const float* sigma, float* scratch, cudaStream_t stream) {
  with_width(w, dtype, [&](auto tag, auto width) {
    auto rows = &spectral_rows_kernel<decltype(tag), decltype(width)::value>;
    auto kernel = &spectral_bwd_kernel<decltype(tag), decltype(width)::value>;
    GANFAST_LAUNCH(rows, rows_of(w), kThreads, stream, w, nullptr, scratch);
    GANFAST_LAUNCH(kernel, rows_of(w), kThreads, stream, w, u, v, sigma, scratch);
  });
}

}  // namespace ganfast
