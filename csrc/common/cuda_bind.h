// From torch tensors to the launchers' raw pointers; shared by every cuda_bind.cpp. Worded checks live in Python.
#pragma once
#include <ATen/ATen.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <optional>
#include <string>

#include "launch.h"

namespace ganfast {

inline Dtype dtype_of(const at::Tensor& t) {
  if (t.scalar_type() == at::kFloat) return Dtype::float32;
  if (t.scalar_type() == at::kBFloat16) return Dtype::bfloat16;
  TORCH_INTERNAL_ASSERT(t.scalar_type() == at::kHalf);
  return Dtype::float16;
}

// Names arrive as string_view, as in the CPU kernels: the dispatcher refuses two C++ signatures of one operator.
inline Act act_of(c10::string_view name) {
  Act act = Act::linear;
  TORCH_INTERNAL_ASSERT(act_from_name(std::string(name).c_str(), &act) && act != Act::snake_beta);
  return act;
}

inline const float* floats(const std::optional<at::Tensor>& t) { return t ? t->const_data_ptr<float>() : nullptr; }

inline at::Tensor new_floats(const at::Tensor& like, at::IntArrayRef sizes) { return at::empty(sizes, like.options().dtype(at::kFloat)); }

inline at::Tensor new_like(const at::Tensor& like, at::IntArrayRef sizes, bool channels_last) {
  const auto last = sizes.size() == 5 ? at::MemoryFormat::ChannelsLast3d : at::MemoryFormat::ChannelsLast;
  return at::empty(sizes, like.options().memory_format(channels_last ? last : at::MemoryFormat::Contiguous));
}

// The device of `t` for the life of this object, and its current stream.
struct Place {
  c10::cuda::CUDAGuard guard;
  cudaStream_t stream;
  explicit Place(const at::Tensor& t) : guard(t.device()), stream(c10::cuda::getCurrentCUDAStream(t.device().index()).stream()) {}
};

}  // namespace ganfast
