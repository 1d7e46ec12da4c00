// What the host programs share: options, inputs, comparison with a float64 result, and a hash of every output bit.
//
//   program [--reversed] [--drop-barrier FILE:LINE] [--only PREFIX]... [--overrun]
//
// Prints one line per failing case and last "hash <hex>"; exits 1 on a failure. --overrun makes every kernel believe that
// its first dimension is one longer than the memory is: an address checker has to report it.
#pragma once
#include "../../csrc/common/launch.h"

namespace host_test {
using namespace ganfast;

inline uint64_t hash = 14695981039346656037ull;
inline int failures = 0, cases = 0;
inline int64_t overrun = 0;
inline std::string current;
inline std::vector<std::string> only;

inline bool wanted(const std::string& name) {
  current = name;
  bool run = only.empty();
  for (const auto& prefix : only) run = run || name.compare(0, prefix.size(), prefix) == 0;
  cases += run;
  return run;
}

inline double random_value() {  // in (-2, 2)
  static uint64_t state = 12345;
  state = state * 6364136223846793005ull + 1442695040888963407ull;
  return static_cast<double>(state >> 40) / (1 << 22) - 2;
}

// Memory of exactly `count` elements of T, seen as double; `shift` elements past a 16-byte boundary.
template <class T> struct Buffer {
  int64_t count;
  int shift;
  std::unique_ptr<T[]> memory;
  explicit Buffer(int64_t count_, int shift_ = 0) : count(count_), shift(shift_), memory(new T[count_ + shift_]) {
    std::memset(static_cast<void*>(memory.get()), 0xff, (count + shift) * sizeof(T));  // NaN: an unwritten output shows
  }
  T* data() { return memory.get() + shift; }
  double operator[](int64_t i) const { return to_float(memory[shift + i]); }
  Buffer& randomize(double scale = 1) {
    for (int64_t i = 0; i < count; ++i) memory[shift + i] = from_float<T>(static_cast<float>(random_value() * scale));
    return *this;
  }
  void set(int64_t i, double value) { memory[shift + i] = from_float<T>(static_cast<float>(value)); }
  double rounded(double value) const { return to_float(from_float<T>(static_cast<float>(value))); }
};

template <class T> Dtype dtype_of() { return std::is_same_v<T, float> ? Dtype::float32 : std::is_same_v<T, Half> ? Dtype::float16 : Dtype::bfloat16; }
template <class T> double epsilon() { return std::is_same_v<T, float> ? 0x1p-23 : std::is_same_v<T, Half> ? 0x1p-10 : 0x1p-7; }

// |got - want| <= eps(T) |want| (one rounding, with room) + 2e-6 * scale, scale[i] a bound on the sums behind element i. A scale of -1:
// no sums, and NaN where NaN is wanted; as memory begins as NaN, such a test writes something else first.
template <class T> void check(const char* what, const Buffer<T>& got, const std::vector<double>& want, const std::vector<double>& scale) {
  const auto* bytes = reinterpret_cast<const unsigned char*>(got.memory.get() + got.shift);
  for (size_t i = 0; i < got.count * sizeof(T); ++i) hash = (hash ^ bytes[i]) * 1099511628211ull;
  for (size_t i = 0; i < want.size(); ++i) {
    const double error = std::fabs(got[i] - want[i]), limit = epsilon<T>() * std::fabs(want[i]) + 2e-6 * (1 + scale[i % scale.size()]);
    if (error <= limit || (scale[i % scale.size()] < 0 && std::isnan(want[i]) && std::isnan(got[i]))) continue;
    std::printf("%s: %s[%zu] is %.9g, want %.9g, limit %.3g\n", current.c_str(), what, i, got[i], want[i], limit);
    ++failures;
    return;
  }
}

inline int finish() {
  std::printf("%d cases, %d failures\nhash %016llx\n", cases, failures, static_cast<unsigned long long>(hash));
  return failures > 0 || cases == 0;
}

inline void options(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) {
    const std::string option = argv[i];
    if (option == "--reversed") cuda_host::reversed = true;
    else if (option == "--overrun") overrun = 1;
    else if (option == "--drop-barrier" && i + 1 < argc) cuda_host::drop_barrier = argv[++i];
    else if (option == "--only" && i + 1 < argc) only.push_back(argv[++i]);
    else std::fprintf(stderr, "unknown option %s\n", argv[i]), std::exit(2);
  }
}
}  // namespace host_test
