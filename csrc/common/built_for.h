#pragma once

#ifndef GANFAST_CPU_ARCH
#define GANFAST_CPU_ARCH "unknown"
#endif

// The instructions that the compiler may use of itself, by the names that Linux has for them in /proc/cpuinfo. All files are compiled with
// the same flags, so what holds here holds for all. ganfast/_processor.py finds the text in the extension's file and compares it with the
// processor before the extension is loaded: loading already runs its static initialisers.
__attribute__((used)) static const char kBuiltFor[] =
    "ganfast built for " GANFAST_CPU_ARCH ":"
#ifdef __SSE3__
    " pni"
#endif
#ifdef __SSSE3__
    " ssse3"
#endif
#ifdef __SSE4_1__
    " sse4_1"
#endif
#ifdef __SSE4_2__
    " sse4_2"
#endif
#ifdef __POPCNT__
    " popcnt"
#endif
#ifdef __LAHF_SAHF__
    " lahf_lm"
#endif
#ifdef __PCLMUL__
    " pclmulqdq"
#endif
#ifdef __MOVBE__
    " movbe"
#endif
#ifdef __LZCNT__
    " abm"
#endif
#ifdef __BMI__
    " bmi1"
#endif
#ifdef __BMI2__
    " bmi2"
#endif
#ifdef __TBM__
    " tbm"
#endif
#ifdef __AVX__
    " avx"
#endif
#ifdef __AVX2__
    " avx2"
#endif
#ifdef __F16C__
    " f16c"
#endif
#ifdef __FMA__
    " fma"
#endif
#ifdef __FMA4__
    " fma4"
#endif
#ifdef __XOP__
    " xop"
#endif
#ifdef __GFNI__
    " gfni"
#endif
#ifdef __AVXVNNI__
    " avx_vnni"
#endif
#ifdef __AVXVNNIINT8__
    " avx_vnni_int8"
#endif
#ifdef __AVXIFMA__
    " avx_ifma"
#endif
#ifdef __AVXNECONVERT__
    " avx_ne_convert"
#endif
#ifdef __AVX512F__
    " avx512f"
#endif
#ifdef __AVX512CD__
    " avx512cd"
#endif
#ifdef __AVX512BW__
    " avx512bw"
#endif
#ifdef __AVX512DQ__
    " avx512dq"
#endif
#ifdef __AVX512VL__
    " avx512vl"
#endif
#ifdef __AVX512IFMA__
    " avx512ifma"
#endif
#ifdef __AVX512VBMI__
    " avx512vbmi"
#endif
#ifdef __AVX512VBMI2__
    " avx512_vbmi2"
#endif
#ifdef __AVX512VNNI__
    " avx512_vnni"
#endif
#ifdef __AVX512BITALG__
    " avx512_bitalg"
#endif
#ifdef __AVX512VPOPCNTDQ__
    " avx512_vpopcntdq"
#endif
#ifdef __AVX512BF16__
    " avx512_bf16"
#endif
#ifdef __AVX512FP16__
    " avx512_fp16"
#endif
#ifdef __GCC_HAVE_SYNC_COMPARE_AND_SWAP_16
#ifdef __x86_64__
    " cx16"
#endif
#endif
#ifdef __ARM_FEATURE_ATOMICS
    " atomics"
#endif
#ifdef __ARM_FEATURE_DOTPROD
    " asimddp"
#endif
#ifdef __ARM_FEATURE_FP16_VECTOR_ARITHMETIC
    " asimdhp"
#endif
#ifdef __ARM_FEATURE_MATMUL_INT8
    " i8mm"
#endif
#ifdef __ARM_FEATURE_BF16_VECTOR_ARITHMETIC
    " bf16"
#endif
#ifdef __ARM_FEATURE_SVE
    " sve"
#endif
#ifdef __ARM_FEATURE_SVE2
    " sve2"
#endif
    ";";
