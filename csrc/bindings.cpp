#include <pybind11/pybind11.h>
#include <torch/version.h>

#ifndef GANFAST_CUDA_ARCHS
#define GANFAST_CUDA_ARCHS ""
#endif

// The module exists to be imported (that registers the kernels of csrc/<op>/) and to say what it was built with.
PYBIND11_MODULE(TORCH_EXTENSION_NAME, m) {
  m.def("build_info", [] {
    pybind11::dict info;
    info["torch"] = TORCH_VERSION;
#ifdef GANFAST_WITH_CUDA
    info["cuda"] = true;
#else
    info["cuda"] = false;
#endif
    info["archs"] = GANFAST_CUDA_ARCHS;
    return info;
  });
}
