// Shared by all parts: vectorisation, error codes and the crop.
#pragma once

#include <cstdint>
#include <cstdio>
#include <exception>

#if defined(__x86_64__) && defined(__GLIBC__) && !defined(__clang__) && __GNUC__ >= 12
#define FAST_LEVEL "x86-64-v3"
#define FAST __attribute__((target_clones("default", "arch=" FAST_LEVEL)))
#elif defined(__x86_64__) && defined(__GLIBC__) && (!defined(__clang__) || __clang_major__ >= 17)
#define FAST_LEVEL "avx2"
#define FAST __attribute__((target_clones("default", FAST_LEVEL)))
#else
#define FAST
#endif
#define API extern "C" __attribute__((visibility("default")))

namespace {

enum Code : int32_t {
    OK = 0,
    DAMAGED = 1,
    NOT_RGB = 2,
    BAD_ARGUMENT = 3,
    NO_MEMORY = 4,
    CUT_SHORT = 5,
    BYTES_SKIPPED = 6,
    TOO_LARGE = 7
};

struct Error {
    char text[256];
};

Code fail(Error* error, Code code, const char* text) {
    std::snprintf(error->text, sizeof error->text, "%s", text);
    return code;
}

// A part of a stored image, and whether to mirror it.
struct Crop {
    int32_t top, left, height, width, flip;
};

template <class Body>
Code guarded(Error* error, Body body) {
    try {
        return body();
    } catch (const std::exception&) {
        return fail(error, NO_MEMORY, "out of memory");
    }
}

}  // namespace
