#include <Python.h>
#include <torch/version.h>

#include "common/built_for.h"

#ifndef GANFAST_CUDA_ARCHS
#define GANFAST_CUDA_ARCHS ""
#endif
#ifdef GANFAST_WITH_CUDA
#define GANFAST_HAS_CUDA Py_True
#else
#define GANFAST_HAS_CUDA Py_False
#endif

// The module exists to be imported (that registers the kernels of csrc/<op>/) and to say what it was built with. By Python's own
// interface: pybind11's headers take longer to read than most of our files.
static PyObject* build_info(PyObject*, PyObject*) {
  return Py_BuildValue("{s:s, s:O, s:s, s:s}", "torch", TORCH_VERSION, "cuda", GANFAST_HAS_CUDA, "archs", GANFAST_CUDA_ARCHS, "cpu",
                       GANFAST_CPU_ARCH);
}

static PyMethodDef functions[] = {{"build_info", build_info, METH_NOARGS, "What the extension was built with."}, {}};
static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, functions, nullptr, nullptr, nullptr, nullptr};

PyMODINIT_FUNC PyInit__C() { return PyModule_Create(&module); }
