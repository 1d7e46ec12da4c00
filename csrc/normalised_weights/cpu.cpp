// CPU weight norms and spectral norms of many weights: each pass is one parallel loop over the rows, or blocks of columns, of all of them.
#include "../common/wide_vectors.h"

#include <torch/library.h>

#include <cmath>
#include <numeric>

#include "../common/cpu_rows.h"

namespace ganfast {
namespace {

constexpr int64_t kRun = 4096;     // values summed in the accumulation type before their sum joins one in double
constexpr int64_t kSums = 32;      // side by side: one sum waits for each addition
constexpr int64_t kTask = 32768;   // values, about, of a task over rows
constexpr int64_t kColumns = 256;  // of a task that sums over rows

// All weights as rows one behind the other; weight i has the rows from first[i] on, of columns[i] values.
struct Stacked {
  std::vector<int64_t> first{0}, columns;
  int64_t values = 0;

  Stacked(at::TensorList weights, const std::vector<int64_t>& rows) {
    for (size_t i = 0; i < weights.size(); ++i) {
      first.push_back(first.back() + rows[i]);
      columns.push_back(weights[i].numel() / rows[i]);
      values += weights[i].numel();
    }
  }
  int64_t rows() const { return first.back(); }

  // Where tasks of about kTask values each begin, and the end: the first weights of a network have the longest rows.
  std::vector<int64_t> tasks() const {
    std::vector<int64_t> starts{0};
    int64_t filled = 0;
    for (size_t i = 0; i < columns.size(); ++i)
      for (int64_t r = first[i]; r < first[i + 1];) {
        const int64_t taken = std::min(first[i + 1] - r, std::max<int64_t>(1, (kTask - filled) / columns[i]));
        r += taken, filled += taken * columns[i];
        if (filled >= kTask) starts.push_back(r), filled = 0;
      }
    if (starts.back() < rows()) starts.push_back(rows());
    return starts;
  }

  // body(weight, its row, row of all), in parallel where there is enough to do.
  template <class Body> void each_row(Body body) const {
    const auto starts = tasks();
    at::parallel_for(0, starts.size() - 1, 1, [&](int64_t begin, int64_t end) {
      size_t i = std::upper_bound(first.begin(), first.end(), starts[begin]) - first.begin() - 1;
      for (int64_t r = starts[begin]; r < starts[end]; ++r) {
        while (r >= first[i + 1]) ++i;
        body(i, r - first[i], r);
      }
    });
  }
};

std::vector<int64_t> sizes_of(at::TensorList vectors) {
  std::vector<int64_t> sizes;
  for (const auto& v : vectors) sizes.push_back(v.numel());
  return sizes;
}

std::vector<int64_t> heights_of(at::TensorList weights) {
  std::vector<int64_t> rows;
  for (const auto& w : weights) rows.push_back(w.size(0));
  return rows;
}

template <class T> std::vector<const T*> read(at::TensorList tensors) {
  std::vector<const T*> pointers;
  for (const auto& t : tensors) pointers.push_back(t.const_data_ptr<T>());
  return pointers;
}

template <class T> std::vector<T*> write(const std::vector<at::Tensor>& tensors) {
  std::vector<T*> pointers;
  for (const auto& t : tensors) pointers.push_back(t.data_ptr<T>());
  return pointers;
}

std::vector<at::Tensor> like(at::TensorList tensors) {
  std::vector<at::Tensor> made;
  for (const auto& t : tensors) made.push_back(at::empty_like(t));
  return made;
}

template <class A, class T, class U> A dot(const T* a, const U* b, int64_t count) {
  double total = 0;
  const int64_t whole = count - count % kSums;
  for (int64_t from = 0; from < whole; from += kRun) {
    A sums[kSums] = {};
    for (int64_t i = from; i < std::min(whole, from + kRun); i += kSums) {
#pragma omp simd
      for (int64_t j = 0; j < kSums; ++j) sums[j] += static_cast<A>(a[i + j]) * static_cast<A>(b[i + j]);
    }
    total += std::accumulate(sums, sums + kSums, 0.0);
  }
  for (int64_t i = whole; i < count; ++i) total += static_cast<A>(a[i]) * static_cast<A>(b[i]);
  return static_cast<A>(total);
}

// The last loops of a row, outside of the macro that picks the type: a pragma cannot stand in its argument.
template <class T> void multiplied(const T* x, Acc<T> scale, int64_t count, T* y) {
#pragma omp simd
  for (int64_t k = 0; k < count; ++k) y[k] = narrow<T>(static_cast<Acc<T>>(x[k]) * scale);
}

template <class T> void divided(const T* x, Acc<T> divisor, int64_t count, T* y) {
#pragma omp simd
  for (int64_t k = 0; k < count; ++k) y[k] = narrow<T>(static_cast<Acc<T>>(x[k]) / divisor);
}

template <class T> void direction_grad(const T* gy, const T* x, Acc<T> scale, Acc<T> back, int64_t count, T* gx) {
#pragma omp simd
  for (int64_t k = 0; k < count; ++k) gx[k] = narrow<T>(scale * (static_cast<Acc<T>>(gy[k]) - static_cast<Acc<T>>(x[k]) * back));
}

template <class T> void spectral_grad(const T* gy, const Acc<T>* v, Acc<T> divisor, Acc<T> back, int64_t count, T* gx) {
#pragma omp simd
  for (int64_t k = 0; k < count; ++k) gx[k] = narrow<T>(static_cast<Acc<T>>(gy[k]) / divisor - back * v[k]);
}

std::tuple<std::vector<at::Tensor>, at::Tensor> weight_norms_fwd_cpu(at::TensorList v, at::TensorList g) {
  const Stacked all(v, sizes_of(g));
  auto made = like(v);
  at::Tensor norms;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, v[0].scalar_type(), "weight_norms_fwd_cpu", [&] {
    using T = scalar_t;
    using A = Acc<T>;
    norms = vector_of<A>(all.rows(), v[0]);
    A* norm = norms.data_ptr<A>();
    const auto from = read<T>(v), gain = read<T>(g);
    const auto to = write<T>(made);
    all.each_row([&](size_t i, int64_t r, int64_t row) {
      const int64_t count = all.columns[i];
      const T* x = from[i] + r * count;
      norm[row] = std::sqrt(dot<A>(x, x, count));
      multiplied<T>(x, static_cast<A>(gain[i][r]) / norm[row], count, to[i] + r * count);
    });
  });
  return {made, norms};
}

std::tuple<std::vector<at::Tensor>, std::vector<at::Tensor>> weight_norms_bwd_cpu(at::TensorList gw, at::TensorList v, at::TensorList g, const at::Tensor& norms) {
  const Stacked all(v, sizes_of(g));
  auto gv = like(v), gg = like(g);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, v[0].scalar_type(), "weight_norms_bwd_cpu", [&] {
    using T = scalar_t;
    using A = Acc<T>;
    const A* norm = norms.const_data_ptr<A>();
    const auto upstream = read<T>(gw), from = read<T>(v), gain = read<T>(g);
    const auto to = write<T>(gv), to_gain = write<T>(gg);
    all.each_row([&](size_t i, int64_t r, int64_t row) {
      const int64_t count = all.columns[i];
      const T *gy = upstream[i] + r * count, *x = from[i] + r * count;
      const A along = dot<A>(gy, x, count) / norm[row];
      to_gain[i][r] = narrow<T>(along);
      direction_grad<T>(gy, x, static_cast<A>(gain[i][r]) / norm[row], along / norm[row], count, to[i] + r * count);
    });
  });
  return {gv, gg};
}

// x / max(|x|, eps) of each part of x; gives |x|^2 / max(|x|, eps), the product of what was there with what is.
template <class A> void normalise(A* x, const std::vector<int64_t>& sizes, double eps, A* product) {
  for (size_t i = 0; i < sizes.size(); x += sizes[i++]) {
    const A square = dot<A>(x, x, sizes[i]), norm = std::max(std::sqrt(square), static_cast<A>(eps));
    for (int64_t k = 0; k < sizes[i]; ++k) x[k] /= norm;
    product[i] = square / norm;
  }
}

// t[row] = W[row] . v of its weight
template <class T, class A> void times_columns(const Stacked& all, const std::vector<const T*>& weights, const std::vector<const A*>& v, A* t) {
  all.each_row([&](size_t i, int64_t r, int64_t row) { t[row] = dot<A>(weights[i] + r * all.columns[i], v[i], all.columns[i]); });
}

// s[column] = sum over rows of u[row] W[row, column]; a task has some columns of one weight and goes down its rows.
template <class T, class A> void times_rows(const Stacked& all, const std::vector<const T*>& weights, const A* u, A* s) {
  struct Task {
    size_t weight;
    int64_t column, at;
  };
  std::vector<Task> tasks;
  int64_t at = 0;
  for (size_t i = 0; i < weights.size(); at += all.columns[i++])
    for (int64_t c = 0; c < all.columns[i]; c += kColumns) tasks.push_back({i, c, at + c});
  const int64_t count = tasks.size(), grain = std::max<int64_t>(1, 32768 * count / all.values);
  at::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const auto [i, column, to] = tasks[n];
      const int64_t width = std::min(kColumns, all.columns[i] - column);
      A sums[kColumns] = {};
      for (int64_t r = all.first[i]; r < all.first[i + 1]; ++r) {
        const T* x = weights[i] + (r - all.first[i]) * all.columns[i] + column;
        const A factor = u[r];
#pragma omp simd
        for (int64_t k = 0; k < width; ++k) sums[k] += factor * static_cast<A>(x[k]);
      }
      std::copy_n(sums, width, s + to);
    }
  });
}

// The vectors one behind the other.
template <class T, class A> at::Tensor joined(at::TensorList vectors) {
  int64_t size = 0;
  for (const auto& v : vectors) size += v.numel();
  at::Tensor made = vector_of<A>(size, vectors[0]);
  A* to = made.data_ptr<A>();
  for (const auto& v : vectors) {
    const auto dense = v.contiguous();
    to = std::transform(dense.const_data_ptr<T>(), dense.const_data_ptr<T>() + v.numel(), to, [](T value) { return static_cast<A>(value); });
  }
  return made;
}

std::tuple<std::vector<at::Tensor>, at::Tensor, at::Tensor, at::Tensor> spectral_norms_fwd_cpu(at::TensorList weights, at::TensorList u, at::TensorList v,
                                                                                               int64_t iterations, double eps, bool u_first) {
  const Stacked all(weights, heights_of(weights));
  auto made = like(weights);
  at::Tensor left, right, sigmas;
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, weights[0].scalar_type(), "spectral_norms_fwd_cpu", [&] {
    using T = scalar_t;
    using A = Acc<T>;
    left = joined<T, A>(u), right = joined<T, A>(v), sigmas = vector_of<A>(weights.size(), weights[0]);
    A *lefts = left.data_ptr<A>(), *rights = right.data_ptr<A>(), *sigma = sigmas.data_ptr<A>();
    const auto from = read<T>(weights);
    std::vector<const A*> parts;
    for (size_t i = 0, at = 0; i < weights.size(); at += all.columns[i++]) parts.push_back(rights + at);
    // u^T W v is the product of the vector that was normalised last with itself before that.
    const auto iterate = [&](bool of_u) {
      if (of_u) times_columns<T, A>(all, from, parts, lefts);
      else times_rows<T, A>(all, from, lefts, rights);
      normalise<A>(of_u ? lefts : rights, of_u ? sizes_of(u) : all.columns, eps, sigma);
    };
    for (int64_t k = 0; k < iterations; ++k) iterate(u_first), iterate(!u_first);
    if (!iterations) {
      std::vector<A> t(all.rows());
      times_columns<T, A>(all, from, parts, t.data());
      for (size_t i = 0; i < weights.size(); ++i) sigma[i] = dot<A>(lefts + all.first[i], t.data() + all.first[i], all.first[i + 1] - all.first[i]);
    }
    const auto to = write<T>(made);
    all.each_row([&](size_t i, int64_t r, int64_t) {
      divided<T>(from[i] + r * all.columns[i], sigma[i], all.columns[i], to[i] + r * all.columns[i]);
    });
  });
  return {made, left, right, sigmas};
}

std::vector<at::Tensor> spectral_norms_bwd_cpu(at::TensorList gw, at::TensorList weights, const at::Tensor& u, const at::Tensor& v, const at::Tensor& sigmas) {
  const Stacked all(weights, heights_of(weights));
  auto made = like(weights);
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, weights[0].scalar_type(), "spectral_norms_bwd_cpu", [&] {
    using T = scalar_t;
    using A = Acc<T>;
    const A *left = u.const_data_ptr<A>(), *right = v.const_data_ptr<A>(), *sigma = sigmas.const_data_ptr<A>();
    const auto upstream = read<T>(gw), from = read<T>(weights);
    const auto to = write<T>(made);
    std::vector<A> along(all.rows());
    all.each_row([&](size_t i, int64_t r, int64_t row) { along[row] = dot<A>(upstream[i] + r * all.columns[i], from[i] + r * all.columns[i], all.columns[i]); });
    std::vector<A> back(weights.size());
    std::vector<const A*> parts;
    for (size_t i = 0, at = 0; i < weights.size(); at += all.columns[i++]) {
      parts.push_back(right + at);
      double total = 0;
      for (int64_t r = all.first[i]; r < all.first[i + 1]; ++r) total += along[r];
      back[i] = static_cast<A>(total / sigma[i] / sigma[i]);
    }
    all.each_row([&](size_t i, int64_t r, int64_t row) {
      const int64_t count = all.columns[i];
      spectral_grad<T>(upstream[i] + r * count, parts[i], sigma[i], back[i] * left[row], count, to[i] + r * count);
    });
  });
  return made;
}

}  // namespace

TORCH_LIBRARY_IMPL(ganfast, CPU, m) {
  m.impl("weight_norms_fwd_native", &weight_norms_fwd_cpu);
  m.impl("weight_norms_bwd_native", &weight_norms_bwd_cpu);
  m.impl("spectral_norms_fwd_native", &spectral_norms_fwd_cpu);
  m.impl("spectral_norms_bwd_native", &spectral_norms_bwd_cpu);
}

}  // namespace ganfast
