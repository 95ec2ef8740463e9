// Shared by all parts: vectorisation, error codes, the crop and XXH64.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
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

// XXH64 with seed 0: https://github.com/Cyan4973/xxHash/blob/dev/doc/xxhash_spec.md
constexpr uint64_t P1 = 0x9E3779B185EBCA87, P2 = 0xC2B2AE3D27D4EB4F, P3 = 0x165667B19E3779F9, P4 = 0x85EBCA77C2B2AE63,
                   P5 = 0x27D4EB2F165667C5;

inline uint64_t rotate(uint64_t x, int by) { return x << by | x >> (64 - by); }
inline uint64_t mix(uint64_t sum, uint64_t word) { return rotate(sum + word * P2, 31) * P1; }

template <class Word>
inline uint64_t load(const uint8_t* at) {  // the hash is defined on little-endian words, as is the file format
    Word word;
    std::memcpy(&word, at, sizeof word);
    return word;
}

uint64_t xxh64(const uint8_t* at, size_t size) {
    const uint8_t* end = at + size;
    uint64_t hash = P5;
    if (size >= 32) {
        uint64_t lanes[4] = {P1 + P2, P2, 0, 0 - P1};
        for (; end - at >= 32; at += 32)
            for (int i = 0; i < 4; i++) lanes[i] = mix(lanes[i], load<uint64_t>(at + 8 * i));
        hash = rotate(lanes[0], 1) + rotate(lanes[1], 7) + rotate(lanes[2], 12) + rotate(lanes[3], 18);
        for (uint64_t lane : lanes) hash = (hash ^ mix(0, lane)) * P1 + P4;
    }
    hash += size;
    for (; end - at >= 8; at += 8) hash = rotate(hash ^ mix(0, load<uint64_t>(at)), 27) * P1 + P4;
    for (; end - at >= 4; at += 4) hash = rotate(hash ^ load<uint32_t>(at) * P1, 23) * P2 + P3;
    for (; at < end; at++) hash = rotate(hash ^ *at * P5, 11) * P1;
    hash = (hash ^ hash >> 33) * P2;
    hash = (hash ^ hash >> 29) * P3;
    return hash ^ hash >> 32;
}

}  // namespace
