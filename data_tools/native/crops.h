// Random crops for training, keyed by sample.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "base.h"

namespace {

// Draw number n of a sample is a hash of (seed, epoch, sample, n): SplitMix64 started at a hash of the first three.
// There is no state between samples, so a crop does not depend on the thread or the order.

inline uint64_t splitmix(uint64_t x) {
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9;
    x = (x ^ x >> 27) * 0x94D049BB133111EB;
    return x ^ x >> 31;
}

struct Draws {
    uint64_t state;
    Draws(uint64_t seed, uint64_t epoch, uint64_t sample) : state(splitmix(seed + GOLDEN)) {
        state = splitmix(state ^ splitmix(epoch + 2 * GOLDEN));
        state = splitmix(state ^ splitmix(sample + 3 * GOLDEN));
    }
    double unit() { return double(splitmix(state += GOLDEN) >> 11) * 0x1p-53; }
    double between(double low, double high) { return low + unit() * (high - low); }
    int below(int n) { return std::min(int(unit() * n), n - 1); }
    static constexpr uint64_t GOLDEN = 0x9E3779B97F4A7C15;
};

struct CropRule {
    uint64_t seed, epoch;
    double min_scale, max_scale, min_ratio, max_ratio;
};

// A seed for generators that others bring along, of another stream than the crops' draws.
inline uint32_t sample_key(const CropRule& rule, uint64_t sample) {
    Draws draws(~rule.seed, rule.epoch, sample);
    return uint32_t(splitmix(draws.state));
}

// torchvision's RandomResizedCrop.get_params, then a coin for the flip.
Crop random_crop(const CropRule& rule, uint64_t sample, int width, int height) {
    Draws draws(rule.seed, rule.epoch, sample);
    int flip = draws.unit() < 0.5;
    double area = double(width) * height, low = std::log(rule.min_ratio), high = std::log(rule.max_ratio);
    for (int i = 0; i < 10; i++) {
        double target = area * draws.between(rule.min_scale, rule.max_scale);
        double ratio = std::exp(draws.between(low, high));
        int w = int(std::nearbyint(std::sqrt(target * ratio))), h = int(std::nearbyint(std::sqrt(target / ratio)));
        if (0 < w && w <= width && 0 < h && h <= height) {
            int top = draws.below(height - h + 1);
            return {top, draws.below(width - w + 1), h, w, flip};
        }
    }
    double ratio = double(width) / height;
    int w = width, h = height;
    if (ratio < rule.min_ratio) h = std::min(height, int(std::nearbyint(w / rule.min_ratio)));
    else if (ratio > rule.max_ratio) w = std::min(width, int(std::nearbyint(h * rule.max_ratio)));
    return {(height - h) / 2, (width - w) / 2, h, w, flip};
}

}  // namespace
