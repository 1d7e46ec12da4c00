// The vectors and small matrices that the CPU's passes read beside images and weights, as one run of memory.
#pragma once
#include "../common/cpu_rows.h"

namespace ganfast {

using MaybeTensor = std::optional<at::Tensor>;

template <class A> const A* contiguous_ptr(const at::Tensor& t, const char* name) {
  TORCH_CHECK(t.is_contiguous(), "modulated_conv: ", name, " has strides ", t.strides(), ", wants contiguous memory");
  return t.const_data_ptr<A>();
}

// null where there is none
template <class A> const A* contiguous_ptr(const MaybeTensor& t, const char* name) {
  return t && t->defined() ? contiguous_ptr<A>(*t, name) : nullptr;
}

}  // namespace ganfast
