// An antialiased resize in fixed point: each axis averages by area where it shrinks, and is bilinear where it grows.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <vector>

#include "base.h"

namespace {

// One axis of a separable resize: output o is the sum over k of weight[o*taps + k] * input[first[o] + k], / 256.
struct Axis {
    int taps = 0;
    std::vector<int32_t> first;
    std::vector<uint16_t> weight;  // each output's sum to exactly 256, so that a flat area stays flat

    void plan(int input, int output, bool flip);
    void area(int input, int output);
    void bilinear(int input, int output);
};

// Shrinking: output o covers the inputs from o*input/output to (o+1)*input/output, the ends in part. In units of
// 1/output input all of this is whole numbers. Rounding the running sum instead of each weight keeps the total.
void Axis::area(int input, int output) {
    taps = 1;
    for (int64_t o = 0; o < output; o++)
        taps = std::max(taps, int(((o + 1) * input + output - 1) / output - o * input / output));
    weight.assign(size_t(output) * taps, 0);
    for (int64_t o = 0; o < output; o++) {
        int64_t start = o * input, end = start + input, done = 0;
        int at = int(start / output);
        first[o] = std::min(at, input - taps);
        for (int64_t from = start; from < end; at++) {
            int64_t to = std::min<int64_t>(end, int64_t(at + 1) * output);
            int64_t sum = ((to - start) * 512 + input) / (2 * input);
            weight[o * taps + (at - first[o])] = uint16_t(sum - done);
            done = sum;
            from = to;
        }
    }
}

// Enlarging: the two nearest inputs by distance between pixel centres, the edge repeated.
void Axis::bilinear(int input, int output) {
    taps = std::min(input, 2);
    weight.assign(size_t(output) * taps, 0);
    for (int64_t o = 0; o < output; o++) {
        int64_t at = std::clamp<int64_t>((2 * o + 1) * input - output, 0, int64_t(input - 1) * 2 * output);
        first[o] = int32_t(std::min<int64_t>(at / (2 * output), input - taps));
        int64_t right = ((at - int64_t(first[o]) * 2 * output) * 256 + output) / (2 * output);
        weight[o * taps] = uint16_t(256 - right);
        if (taps == 2) weight[o * taps + 1] = uint16_t(right);
    }
}

void Axis::plan(int input, int output, bool flip) {
    first.resize(output);
    if (input >= output) area(input, output);
    else bilinear(input, output);
    if (!flip) return;
    std::reverse(first.begin(), first.end());
    for (int o = 0; o < output / 2; o++)
        std::swap_ranges(&weight[o * taps], &weight[o * taps] + taps, &weight[(output - 1 - o) * taps]);
}

// Down: rows of RGBX are weighted and summed to 8.8 bits; the last step of an output row makes floats of them.
FAST void weigh(const uint8_t* row, unsigned weight, uint16_t* sum, int n) {
    for (int i = 0; i < n; i++) sum[i] = uint16_t(row[i] * weight);
}

FAST void weigh_add(const uint8_t* row, unsigned weight, uint16_t* sum, int n) {
    for (int i = 0; i < n; i++) sum[i] = uint16_t(sum[i] + row[i] * weight);
}

FAST void weigh_add_last(const uint8_t* row, unsigned weight, const uint16_t* sum, float* out, int n) {
    for (int i = 0; i < n; i++) out[i] = float(uint16_t(sum[i] + row[i] * weight));
}

FAST void weigh_only(const uint8_t* row, unsigned weight, float* out, int n) {
    for (int i = 0; i < n; i++) out[i] = float(uint16_t(row[i] * weight));
}

FAST void weigh_two(const uint8_t* a, unsigned weight_a, const uint8_t* b, unsigned weight_b, float* out, int n) {
    for (int i = 0; i < n; i++) out[i] = float(uint16_t(a[i] * weight_a + b[i] * weight_b));
}

// Across: four output pixels at a time, each a vector of its channels. All floats are whole numbers: a sum of 16 bits
// times weights of 8 bits fits the 24 bits of a float, so only the result is rounded.
typedef float Pixel __attribute__((vector_size(16)));
typedef int32_t Words __attribute__((vector_size(16)));
typedef uint8_t Bytes __attribute__((vector_size(16)));

#ifdef __clang__
#define SHUFFLE(bytes, ...) __builtin_shufflevector(bytes, bytes, __VA_ARGS__)
#else
#define SHUFFLE(bytes, ...) __builtin_shuffle(bytes, Bytes{__VA_ARGS__})
#endif

template <int TAPS>
inline __attribute__((always_inline)) Words weighted(const float* row, const float* weight, int taps) {
    Pixel sum = {0.5f, 0.5f, 0.5f, 0.5f};
    for (int k = 0; k < (TAPS ? TAPS : taps); k++) {
        Pixel pixel;
        std::memcpy(&pixel, row + 4 * k, sizeof pixel);
        sum += pixel * weight[k];
    }
    return __builtin_convertvector(sum, Words);
}

template <int TAPS>
inline __attribute__((always_inline)) void across(const float* row, const int32_t* first, const float* weight, int taps,
                                                  uint8_t* out, int n) {
    if (TAPS) taps = TAPS;
    for (int o = 0; o < n; o += 4, first += 4, weight += 4 * taps, out += 12) {
        Words four = weighted<TAPS>(row + first[0], weight, taps) |
                     weighted<TAPS>(row + first[1], weight + taps, taps) << 8 |
                     weighted<TAPS>(row + first[2], weight + 2 * taps, taps) << 16 |
                     weighted<TAPS>(row + first[3], weight + 3 * taps, taps) << 24;
        Bytes rgb = SHUFFLE((Bytes)four, 0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11, 12, 12, 12, 12);
        std::memcpy(out, &rgb, o + 4 <= n ? 12 : 3 * (n - o));
    }
}

FAST void squeeze(const float* row, const int32_t* first, const float* weight, int taps, uint8_t* out, int n) {
    switch (taps) {
        case 1: return across<1>(row, first, weight, taps, out, n);
        case 2: return across<2>(row, first, weight, taps, out, n);
        case 3: return across<3>(row, first, weight, taps, out, n);
        case 4: return across<4>(row, first, weight, taps, out, n);
        default: return across<0>(row, first, weight, taps, out, n);
    }
}

FAST void widen_row(const uint8_t* rgb, uint8_t* rgbx, int n) {
    for (int i = 0; i < n; i++) {
        rgbx[4 * i] = rgb[3 * i];
        rgbx[4 * i + 1] = rgb[3 * i + 1];
        rgbx[4 * i + 2] = rgb[3 * i + 2];
    }
}

// Rows are read in order and each is used once or twice, so two of them are kept. `read` fills a row of RGBX.
struct Resizer {
    Axis x, y;
    std::vector<int32_t> x_first;  // of the row's floats, with three more entries: `squeeze` works in fours
    std::vector<float> x_weight, row;
    std::vector<uint8_t> rows[2];
    std::vector<uint16_t> sum;
    int values_in, width, height;

    void plan(int height_in, int width_in, int height_, int width_, bool flip, int row_pixels) {
        values_in = 4 * width_in, width = width_, height = height_;
        x.plan(width_in, width, flip);
        y.plan(height_in, height, false);
        x_first.assign(width + 3, 0);
        x_weight.assign(size_t(width + 3) * x.taps, 0);
        for (int o = 0; o < width; o++) x_first[o] = 4 * x.first[o];
        for (int i = 0; i < width * x.taps; i++) x_weight[i] = float(x.weight[i]) / 65536;
        for (auto& each : rows) each.resize(4 * size_t(row_pixels) + 64);
        sum.resize(values_in);
        row.resize(values_in);
    }

    // libjpeg-turbo writes a row that is aligned to its vectors past the caches, and this code reads it next.
    static uint8_t* unaligned(std::vector<uint8_t>& row) {
        return reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(row.data()) + 31) / 32 * 32 + 4);
    }

    template <class Read>
    void run(Read read, int offset, uint8_t* out) {
        int have = 0;
        auto input = [&](int at) {
            for (; have <= at; have++) read(have, unaligned(rows[have & 1]));
            return unaligned(rows[at & 1]) + 4 * size_t(offset);
        };
        for (int o = 0; o < height; o++, out += 3 * size_t(width)) {
            const uint16_t* weight = &y.weight[size_t(o) * y.taps];
            int first = 0, last = y.taps - 1;
            while (!weight[first]) first++;
            while (!weight[last]) last--;
            int at = y.first[o];
            if (first == last) weigh_only(input(at + first), weight[first], row.data(), values_in);
            else down(input, at, first, last, weight);
            squeeze(row.data(), x_first.data(), x_weight.data(), x.taps, out, width);
        }
    }

    template <class Input>
    void down(Input input, int at, int first, int last, const uint16_t* weight) {
        if (last == first + 1) {
            const uint8_t* above = input(at + first);
            return weigh_two(above, weight[first], input(at + last), weight[last], row.data(), values_in);
        }
        weigh(input(at + first), weight[first], sum.data(), values_in);
        for (int k = first + 1; k < last; k++) weigh_add(input(at + k), weight[k], sum.data(), values_in);
        weigh_add_last(input(at + last), weight[last], sum.data(), row.data(), values_in);
    }
};

}  // namespace
