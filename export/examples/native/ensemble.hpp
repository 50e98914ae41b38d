// A member of an ensemble: forcing, white space, and windows drawn one after the other, as in fsae.runtime.ensemble.
#pragma once

#include "calendar.hpp"
#include "model.hpp"

// The part of a member that is asked for: see fsae_request in fsae.h.
struct Request {
    std::string start;
    size_t steps;
    uint64_t seed, member;
    const float *forcing, *initial;
    bool fast;
};

// The forcing of the training data at decimal years: these themselves or, for bundles with scenarios, the first of them
// as far as the climate has responded to it (fsae.runtime.climate.scenarios), linear between the middles of years.
inline std::vector<double> default_forcing(const Bundle& bundle, const Npz& tables, std::vector<double> decimal_years) {
    const size_t scenarios = bundle.forcing.scenarios;
    if (scenarios == 0) return decimal_years;
    const std::vector<double> years = tables.read("forcing_years", {0}).values;
    if (years.size() < 2) throw Failure(FSAE_BUNDLE, "found one year of the forcing", "two or more", again);
    std::vector<double> values = tables.read("forcing_scenarios", {scenarios, years.size()}).values;
    values.resize(years.size());
    const double response = bundle.forcing.response_years;
    const double share = response > 0 ? 1 - std::exp(-1 / response) : 1;
    for (size_t i = 1; i < values.size(); ++i) values[i] = values[i - 1] + share * (values[i] - values[i - 1]);
    for (double& year : decimal_years) {
        if (year < years.front() || year > years.back() + 1)
            throw Failure(FSAE_DATA, "found a step in the year " + std::to_string(year),
                          std::to_string(years.front()) + " to " + std::to_string(years.back()) +
                              ", where the forcing is known",
                          "give other steps, or a forcing of your own");
        const double last = static_cast<double>(values.size() - 1);
        const double place = std::min(std::max(year - years.front() - 0.5, 0.0), last);
        const size_t before = std::min(static_cast<size_t>(place), values.size() - 2);
        year = values[before] + (place - static_cast<double>(before)) * (values[before + 1] - values[before]);
    }
    return decimal_years;
}

// The forcing of all steps of the windows: given for those that are asked for, and held after them.
inline Floats forcing_of(const Bundle& bundle, const Npz& tables, const Request& request,
                         const std::vector<TimeStep>& steps) {
    Floats found;
    if (request.forcing != nullptr) {
        found.assign(request.forcing, request.forcing + request.steps);
        found.resize(steps.size(), found.back());
    } else {
        std::vector<double> years;
        for (const TimeStep& step : steps) years.push_back(step.decimal_year);
        if (bundle.forcing.scenarios > 0)
            for (double& year : years) year = std::min(year, years[request.steps - 1]);
        for (double value : default_forcing(bundle, tables, years)) found.push_back(static_cast<float>(value));
    }
    // Further outside the range of the training data, in its widths, the model says nothing about the climate.
    const double low = bundle.forcing.low, high = bundle.forcing.high, far = bundle.forcing.scenarios > 0 ? 5 : 3;
    for (size_t i = 0; i < request.steps; ++i)
        if (!(std::max(low - found[i], found[i] - high) <= far * (high - low)))
            throw Failure(FSAE_USAGE, "found the forcing " + std::to_string(found[i]) + " " + bundle.forcing.units,
                          "values near the " + std::to_string(low) + " to " + std::to_string(high) +
                              " that the model was trained on");
    return found;
}

// White space, in which noise and signal match on every level of the pyramid (fsae.runtime.diffusion.whitening).
class Whitening {
  public:
    Whitening(const Bundle& bundle, const Npz& tables)
        : bundle_(bundle), n_(pixels(bundle.latent_zoom)), levels_(bundle.latent_zooms.size()) {
        const size_t variables = bundle.variables.size();
        cell_ = tables.read("latent_cell_std", {variables, n_});
        level_ = tables.read("latent_level_std", {variables, levels_});
        wave_ = {{variables, 0, n_}, {}};  // bundles whose deviations have no season lack this table
        if (tables.has("latent_season_std")) wave_ = tables.read("latent_season_std", {variables, 0, n_});
        const auto is_positive = [](double value) { return value > 0; };
        const bool positive = std::all_of(cell_.values.begin(), cell_.values.end(), is_positive) &&
                              std::all_of(level_.values.begin(), level_.values.end(), is_positive);
        if (!positive || wave_.shape[1] > 2 * static_cast<size_t>(bundle.harmonics))
            throw Failure(FSAE_BUNDLE, "tables.npz holds impossible deviations of latents", "", again);
    }

    // Latents (variable, latent pixel) of one step, whose season features are given, from white space.
    void to_latent(const float* white, const float* season, float* latent) const {
        for (size_t v = 0; v < bundle_.variables.size(); ++v) {
            const std::vector<double> field = scaled(white + v * n_, v, 1);
            for (size_t p = 0; p < n_; ++p)
                latent[v * n_ + p] = static_cast<float>(field[p] * deviation(v, p, season));
        }
    }

    // The inverse.
    void to_white(const float* latent, const float* season, float* white) const {
        Floats standard(n_);
        for (size_t v = 0; v < bundle_.variables.size(); ++v) {
            for (size_t p = 0; p < n_; ++p)
                standard[p] = static_cast<float>(latent[v * n_ + p] / deviation(v, p, season));
            const std::vector<double> field = scaled(standard.data(), v, -1);
            std::transform(field.begin(), field.end(), white + v * n_, [](double x) { return static_cast<float>(x); });
        }
    }

  private:
    const Bundle& bundle_;
    size_t n_, levels_;
    Array cell_, level_, wave_;

    // The standard deviation of a cell in a season, whose logarithm has waves.
    double deviation(size_t v, size_t p, const float* season) const {
        double log_factor = 0;
        const size_t waves = wave_.shape[1];
        for (size_t k = 0; k < waves; ++k) log_factor += season[k] * wave_.values[(v * waves + k) * n_ + p];
        return cell_.values[v * n_ + p] * std::exp(log_factor);
    }

    // A field whose levels, the means over blocks of cells without those over larger ones, are multiplied by a power of
    // their deviations.
    std::vector<double> scaled(const float* field, size_t v, int power) const {
        std::vector<double> total(n_, 0.0), below(n_, 0.0);
        for (size_t k = 0; k < levels_; ++k) {
            const int steps = bundle_.latent_zoom - bundle_.latent_zooms[k];
            const size_t block = size_t{1} << (2 * steps);
            const double gain = std::pow(std::ldexp(level_.values[v * levels_ + k], steps), power);
            for (size_t first = 0; first < n_; first += block) {
                double mean = 0;
                for (size_t p = first; p < first + block; ++p) mean += field[p] / static_cast<double>(block);
                for (size_t p = first; p < first + block; ++p) total[p] += gain * (mean - below[p]), below[p] = mean;
            }
        }
        return total;
    }
};

// Draw fields (step, variable, pixel) of a member.
inline void draw(Model& model, const Request& request, float* fields) {
    const Bundle& bundle = model.bundle;
    const size_t latent = bundle.latent_size(), field = bundle.field_size(), features = 2 * bundle.harmonics;
    const auto window = static_cast<size_t>(bundle.window), previous = static_cast<size_t>(bundle.previous);
    const Npz tables(bundle.read("tables.npz"));
    const Whitening whitening(bundle, tables);
    const TimeAxis axis(bundle.calendar, bundle.step, bundle.variables[0].cell_methods);
    const auto steps = axis.steps(request.start, (request.steps + window - 1) / window * window);
    const Floats forcing = forcing_of(bundle, tables, request, steps);
    const Sampler& sampler = bundle.samplers[request.fast];
    const auto levels = noise_levels(sampler.steps, sampler.sigma_min, sampler.sigma_max, sampler.rho);

    Floats known(previous * latent, 0.0f);  // the last steps in white space
    Floats valid(previous, request.initial == nullptr ? 0.0f : 1.0f);
    if (request.initial != nullptr) {
        const Floats seasons = model.seasons(axis.steps(request.start, previous, bundle.previous));
        Floats latents(previous * latent);
        model.encode(previous, request.initial, seasons, latents.data());
        for (size_t t = 0; t < previous; ++t)
            whitening.to_white(&latents[t * latent], &seasons[t * features], &known[t * latent]);
    }
    const float label = bundle.low_resolution ? 1.0f : 0.0f;
    for (size_t first = 0; first < request.steps; first += window) {
        const std::vector<TimeStep> now(steps.begin() + first, steps.begin() + first + window);
        const Floats seasons = model.seasons(now);
        Floats noise;
        for (const TimeStep& step : now) {
            const Floats frame = member_noise(request.seed, request.member, step.index, latent);
            noise.insert(noise.end(), frame.begin(), frame.end());
        }
        const auto denoise = [&](const Floats& noisy, double sigma) {
            const auto level = static_cast<float>(sigma);
            const Floats of_level = noise_features(sigma, bundle.noise_features);
            Floats clean(noisy.size());
            model.graph(request.fast ? "fast" : "denoiser")
                .run(1,
                     {noisy.data(), &level, of_level.data(), seasons.data(), &forcing[first], &label, known.data(),
                      valid.data()},
                     clean.data());
            return clean;
        };
        const Floats white = sample(sampler.name, denoise, std::move(noise), levels);
        known.insert(known.end(), white.begin(), white.end());
        known.erase(known.begin(), known.end() - previous * latent);
        valid.insert(valid.end(), window, 1.0f);
        valid.erase(valid.begin(), valid.end() - previous);

        Floats latents(window * latent), drawn(window * field);
        for (size_t t = 0; t < window; ++t)
            whitening.to_latent(&white[t * latent], &seasons[t * features], &latents[t * latent]);
        model.decode(window, latents.data(), seasons, drawn.data());
        std::copy_n(drawn.begin(), std::min(window, request.steps - first) * field, fields + first * field);
    }
}
