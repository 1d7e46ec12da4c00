// Included before all else by files whose loops stream: GCC's own choice, on processors that have vectors of 512 bits, is vectors of 256.
#pragma once
#if defined(__AVX512F__) && defined(__GNUC__) && !defined(__clang__)
#pragma GCC target("prefer-vector-width=512")
#endif
