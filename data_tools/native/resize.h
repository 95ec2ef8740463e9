// Antialiased resizes in fixed point. Resizer, for every crop: each axis averages by area where it shrinks, and is
// bilinear where it grows. LanczosResizer, for what is stored: sharper, and only for whole pictures in memory.
#pragma once

#include <algorithm>
#include <cmath>
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
    int i = 0;
    for (; i + 6 <= n; i += 4) {  // four pixels at a time, from 16 bytes: part of the sixth is read, too
        Bytes bytes;
        std::memcpy(&bytes, rgb + 3 * i, sizeof bytes);
        bytes = SHUFFLE(bytes, 0, 1, 2, 2, 3, 4, 5, 5, 6, 7, 8, 8, 9, 10, 11, 11);
        std::memcpy(rgbx + 4 * i, &bytes, sizeof bytes);
    }
    for (; i < n; i++) std::memcpy(rgbx + 4 * i, rgb + 3 * i, 3);
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

// One axis of Lanczos with 3 lobes, widened where it shrinks: as Axis, but with weights in 1/16384.
struct LanczosAxis {
    int taps = 0;  // a multiple of 4; the last weights of an output may be 0
    std::vector<int32_t> first;
    std::vector<int16_t> weight;

    void plan(int input, int output) {
        const double scale = double(input) / output, wide = std::max(1.0, scale);
        taps = (int(std::ceil(6 * wide)) + 3) / 4 * 4;
        first.resize(output);
        weight.assign(size_t(output) * taps, 0);
        std::vector<double> sums(taps + 1, 0.0);
        for (int o = 0; o < output; o++) {
            const double centre = (o + 0.5) * scale;
            const int from = std::max(0, int(centre - 3 * wide + 0.5));
            const int n = std::min({input, int(centre + 3 * wide + 0.5), from + taps}) - from;
            for (int k = 0; k < n; k++) sums[k + 1] = sums[k] + lobes(std::abs(from + k + 0.5 - centre) / wide);
            first[o] = from;
            const double unit = 16384 / sums[n];
            int done = 16384;  // rounded as in Axis::area; the sums are moved above 0, where int() rounds down
            for (int k = 0; k < n; k++) {
                const int sum = int(sums[k + 1] * unit + 16384.5);
                weight[size_t(o) * taps + k] = int16_t(sum - done);
                done = sum;
            }
        }
    }

    // sinc(x) sinc(x / 3), from a table: computing each weight takes as long as the resizing.
    static double lobes(double x) {
        static const std::vector<double> table = [] {
            std::vector<double> values(3 * SLICES + 2, 0.0);
            for (int i = 0; i < 3 * SLICES; i++) {
                double angle = M_PI * i / SLICES;
                values[i] = i ? 3 * std::sin(angle) * std::sin(angle / 3) / (angle * angle) : 1;
            }
            return values;
        }();
        return table[size_t(std::min(3.0, x) * SLICES + 0.5)];
    }
    static constexpr int SLICES = 8192;
};

// A pixel of 0 to 255 is given in 1/128, 1/64 after the first pass and 1/32 after the second, so that 16 bits hold what
// overshoots. Rounding each product to that takes one instruction for 16 values. A flat area stays flat up to 25
// times smaller, and is off by 1 in places at 50 times.
inline int16_t times(int16_t value, int16_t weight) { return int16_t(((int32_t(value) * weight >> 14) + 1) >> 1); }

FAST void weigh_four(const int16_t* const* rows, const int16_t* weight, int16_t* __restrict sum, int n) {
    const int16_t *a = rows[0], *b = rows[1], *c = rows[2], *d = rows[3];
    const int16_t p = weight[0], q = weight[1], r = weight[2], s = weight[3];
    for (int i = 0; i < n; i++) sum[i] = int16_t(times(a[i], p) + times(b[i], q) + times(c[i], r) + times(d[i], s));
}

FAST void weigh_four_more(const int16_t* const* rows, const int16_t* weight, int16_t* __restrict sum, int n) {
    const int16_t *a = rows[0], *b = rows[1], *c = rows[2], *d = rows[3];
    const int16_t p = weight[0], q = weight[1], r = weight[2], s = weight[3];
    for (int i = 0; i < n; i++)
        sum[i] = int16_t(sum[i] + times(a[i], p) + times(b[i], q) + times(c[i], r) + times(d[i], s));
}

FAST void to_fine(const uint8_t* bytes, int16_t* out, int n) {
    for (int i = 0; i < n; i++) out[i] = int16_t(bytes[i] << 7);
}

// Rows that are resized at once. A pixel of all of them, with 4 values of which the last is not used, is a cache line.
constexpr int BAND = 8, COLUMN = 4 * BAND;

FAST void transpose(const int16_t* rows, size_t n, int16_t* __restrict columns, int width) {
    for (int i = 0; i < width; i++, rows += 3, columns += COLUMN)
        for (int o = 0; o < BAND; o++) std::memcpy(columns + 4 * o, rows + n * o, 8);
}

inline int16_t four_columns(const int16_t* value, const int16_t* weight) {
    return int16_t(times(value[0], weight[0]) + times(value[COLUMN], weight[1]) + times(value[2 * COLUMN], weight[2]) +
                   times(value[3 * COLUMN], weight[3]));
}

// One pixel of every row of a band, as bytes.
inline __attribute__((always_inline)) void weigh_column(const int16_t* columns, const int16_t* weight, int taps,
                                                        uint8_t* __restrict out) {
    int16_t sum[COLUMN];
    for (int i = 0; i < COLUMN; i++) sum[i] = four_columns(columns + i, weight);
    for (int k = 4; k < taps; k += 4)
        for (int i = 0; i < COLUMN; i++) sum[i] = int16_t(sum[i] + four_columns(columns + COLUMN * k + i, weight + k));
    for (int i = 0; i < COLUMN; i++) {
        const int16_t rounded = int16_t(int16_t(sum[i] + 16) >> 5);  // 16 bits all the way: twice as fast
        out[i] = uint8_t(std::clamp<int16_t>(rounded, 0, 255));
    }
}

FAST void across(const int16_t* columns, const LanczosAxis& x, int width, int rows, uint8_t* out) {
    uint8_t four[4][COLUMN] = {};
    for (int o = 0; o < width; o += 4) {
        const int n = std::min(4, width - o);
        for (int i = 0; i < n; i++)
            weigh_column(columns + size_t(COLUMN) * x.first[o + i], &x.weight[size_t(o + i) * x.taps], x.taps, four[i]);
        for (int row = 0; row < rows; row++) {
            int32_t pixels[4];
            for (int i = 0; i < 4; i++) std::memcpy(&pixels[i], &four[i][4 * row], 4);
            const Words words = {pixels[0], pixels[1], pixels[2], pixels[3]};
            const Bytes rgb = SHUFFLE((Bytes)words, 0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 12, 12, 12, 12);
            std::memcpy(out + 3 * (size_t(width) * row + o), &rgb, n == 4 ? 12 : 3 * n);
        }
    }
}

// Down, then across. Both add rows to each other, which is fast, because a band of rows is transposed in between.
struct LanczosResizer {
    LanczosAxis x, y;
    std::vector<int16_t> ring, sums, columns;
    int width_in, height_in, height, have;

    void run(const uint8_t* rgb, int height_in_, int width_in_, int height_, int width, uint8_t* out) {
        height_in = height_in_, width_in = width_in_, height = height_, have = 0;
        x.plan(width_in, width);
        y.plan(height_in, height);
        ring.assign(size_t(3) * width_in * y.taps, 0);
        sums.resize(BAND * 3 * size_t(width_in) + 1);
        columns.resize(size_t(COLUMN) * (width_in + x.taps + 1));
        auto column = reinterpret_cast<int16_t*>((reinterpret_cast<uintptr_t>(columns.data()) + 63) / 64 * 64);
        for (int top = 0; top < height; top += BAND, out += size_t(3) * width * BAND) {
            const int rows = std::min(BAND, height - top);
            for (int o = 0; o < rows; o++) down(rgb, top + o, &sums[3 * size_t(width_in) * o]);
            transpose(sums.data(), 3 * size_t(width_in), column, width_in);
            across(column, x, width, rows, out);
        }
    }

    void down(const uint8_t* rgb, int o, int16_t* sum) {
        const size_t n = 3 * size_t(width_in);
        for (; have < std::min(height_in, y.first[o] + y.taps); have++)
            to_fine(rgb + n * have, &ring[n * (have % y.taps)], int(n));
        auto row = [&](int k) { return &ring[n * ((y.first[o] + k) % y.taps)]; };
        for (int k = 0; k < y.taps; k += 4) {
            const int16_t* four[] = {row(k), row(k + 1), row(k + 2), row(k + 3)};
            (k ? weigh_four_more : weigh_four)(four, &y.weight[size_t(o) * y.taps + k], sum, int(n));
        }
    }
};

}  // namespace
