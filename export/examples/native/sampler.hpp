// Noise, features and sampler of an ensemble member, as in noise.py, climatology.py and sampler.py of fsae.runtime.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

using Floats = std::vector<float>;
using Denoiser = std::function<Floats(const Floats&, double)>;

constexpr double pi = 3.14159265358979323846;

// The upper 64 bits of a product of two 64-bit integers.
inline uint64_t high(uint64_t a, uint64_t b) {
    const uint64_t half = 0xffffffff, a0 = a & half, a1 = a >> 32, b0 = b & half, b1 = b >> 32;
    const uint64_t middle = a1 * b0 + (a0 * b0 >> 32), other = a0 * b1 + (middle & half);
    return a1 * b1 + (middle >> 32) + (other >> 32);
}

// Four random integers: Philox4x64-10 (Salmon et al. 2011).
inline std::array<uint64_t, 4> philox(std::array<uint64_t, 4> counter, std::array<uint64_t, 2> key) {
    constexpr uint64_t m0 = 0xD2E7470EE14C6C93, m1 = 0xCA5A826395121157;
    for (int round = 0; round < 10; ++round) {
        counter = {high(m1, counter[2]) ^ counter[1] ^ key[0], m1 * counter[2],
                   high(m0, counter[0]) ^ counter[3] ^ key[1], m0 * counter[0]};
        key[0] += 0x9E3779B97F4A7C15, key[1] += 0xBB67AE8584CAA73B;
    }
    return counter;
}

// `count` normal numbers for a member's step by Box and Muller (1958), with the key (seed, member) and the counter
// (block, draw, time index, 0). Draw is 0, and blocks of four integers count from 1: NumPy increments before it draws.
inline Floats member_noise(uint64_t seed, uint64_t member, int64_t time_index, size_t count) {
    Floats noise;
    for (uint64_t block = 1; noise.size() < count; ++block) {
        const auto raw = philox({block, 0, static_cast<uint64_t>(time_index), 0}, {seed, member});
        for (size_t pair = 0; pair < 4; pair += 2) {
            const double u = static_cast<double>((raw[pair] >> 11) + 1) * 0x1p-53;
            const double angle = 2 * pi * (static_cast<double>((raw[pair + 1] >> 11) + 1) * 0x1p-53);
            const double radius = std::sqrt(-2 * std::log(u));
            noise.push_back(static_cast<float>(radius * std::cos(angle)));
            noise.push_back(static_cast<float>(radius * std::sin(angle)));
        }
    }
    noise.resize(count);
    return noise;
}

// Decreasing noise levels and a final zero (Karras et al. 2022, eq. 5).
inline std::vector<double> noise_levels(int steps, double sigma_min, double sigma_max, double rho) {
    std::vector<double> levels;
    const double first = std::pow(sigma_max, 1 / rho), last = std::pow(sigma_min, 1 / rho);
    for (int i = 0; i < steps; ++i)
        levels.push_back(std::pow(first + (steps > 1 ? i / (steps - 1.0) : 0.0) * (last - first), rho));
    levels.push_back(0);
    return levels;
}

// Season features (2K) of a phase of the year, 0 to 1: cosine and sine of 2 pi k phase in pairs, k = 1 ... K.
inline Floats season(double phase, int harmonics) {
    Floats waves;
    for (int k = 1; k <= harmonics; ++k) {
        const double angle = 2 * pi * phase * k;
        waves.push_back(static_cast<float>(std::cos(angle)));
        waves.push_back(static_cast<float>(std::sin(angle)));
    }
    return waves;
}

// Fourier features of ln(sigma): first the cosines, then the sines of 2^(i / 2) / 4 ln(sigma).
inline Floats noise_features(double sigma, int count) {
    Floats features(static_cast<size_t>(count));
    for (int i = 0; i < count / 2; ++i) {
        const double angle = std::log(sigma) * 0.25 * std::pow(2.0, i / 2.0);
        features[i] = static_cast<float>(std::cos(angle));
        features[i + count / 2] = static_cast<float>(std::sin(angle));
    }
    return features;
}

// Clean state from unit noise by DPM-Solver++(2M) (Lu et al. 2022, algorithm 2), or by its first order (Euler).
inline Floats multistep(const Denoiser& denoise, Floats state, const std::vector<double>& levels, bool second_order) {
    Floats older;
    double older_step = 0;
    for (size_t i = 0; i + 1 < levels.size(); ++i) {
        const double now = levels[i], after = levels[i + 1];
        Floats newest = denoise(state, now);
        if (after == 0) return newest;
        const double step = std::log(now / after);
        const bool extrapolate = second_order && !older.empty();
        const float weight = extrapolate ? static_cast<float>(step / (2 * older_step)) : 0;
        const float ratio = static_cast<float>(after / now);
        for (size_t p = 0; p < state.size(); ++p) {
            const float target = extrapolate ? newest[p] + weight * (newest[p] - older[p]) : newest[p];
            state[p] = ratio * state[p] + (1 - ratio) * target;
        }
        older = std::move(newest), older_step = step;
    }
    return state;
}

// Clean state by Heun's method (Karras et al. 2022, algorithm 1): second order, two calls a step but the last.
inline Floats heun(const Denoiser& denoise, Floats state, const std::vector<double>& levels) {
    for (size_t i = 0; i + 1 < levels.size(); ++i) {
        const auto now = static_cast<float>(levels[i]), after = static_cast<float>(levels[i + 1]);
        const auto step = static_cast<float>(levels[i + 1] - levels[i]);
        const Floats clean = denoise(state, levels[i]);
        Floats slope(state.size()), trial(state.size());
        for (size_t p = 0; p < state.size(); ++p) {
            slope[p] = (state[p] - clean[p]) / now;
            trial[p] = state[p] + step * slope[p];
        }
        if (after > 0) {
            const Floats next = denoise(trial, levels[i + 1]);
            for (size_t p = 0; p < state.size(); ++p)
                trial[p] = state[p] + step * ((slope[p] + (trial[p] - next[p]) / after) / 2);
        }
        state = std::move(trial);
    }
    return state;
}

// Clean state from unit noise by the sampler of a name: dpm2m, euler or heun.
inline Floats sample(const std::string& name, const Denoiser& denoise, Floats noise,
                     const std::vector<double>& levels) {
    for (float& x : noise) x *= static_cast<float>(levels[0]);
    if (name == "heun") return heun(denoise, std::move(noise), levels);
    return multistep(denoise, std::move(noise), levels, name == "dpm2m");
}
