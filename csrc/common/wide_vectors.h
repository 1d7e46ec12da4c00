// Included before all else by files whose loops stream: GCC's own choice is vectors of 256 bits, with which a layer norm's rows take 1.3
// times as long on processors that have 512.
#pragma once
#if defined(__AVX512F__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("prefer-vector-width=512")
#endif
