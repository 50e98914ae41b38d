// A member's first window: time steps, noise, the sampler around the denoiser, and decoding.
#pragma once

#include <algorithm>

#include "bundle.hpp"

// Days of each month of a year in a CF calendar.
inline std::vector<int> month_days(const std::string& calendar, int year) {
    if (calendar == "360_day") return std::vector<int>(12, 30);
    bool leap = year % 4 == 0 && (calendar == "julian" || year % 100 != 0 || year % 400 == 0);
    if (calendar == "noleap" || calendar == "365_day") leap = false;
    if (calendar == "all_leap" || calendar == "366_day") leap = true;
    if ((calendar == "standard" || calendar == "gregorian") && year < 1583)
        throw std::runtime_error("this program knows the calendar " + calendar + " from 1583 on only: start later");
    return {31, leap ? 29 : 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
}

// The fraction of the year passed in a month (1 to 12): at its middle for averages, otherwise at its beginning.
inline double month_phase(const Bundle& bundle, int year, int month) {
    const std::vector<int> days = month_days(bundle.manifest["time"]["calendar"].string(), year);
    const std::string& methods = bundle.manifest["variables"].array()[0]["cell_methods"].string();
    double before = methods.find("time: point") == std::string::npos ? days[month - 1] / 2.0 : 0, whole = 0;
    for (int i = 0; i < 12; ++i) {
        if (i < month - 1) before += days[i];
        whole += days[i];
    }
    return before / whole;
}

// Latents of one step from white space, by the standard deviations of cells in that season and of levels (see
// `unwhiten` and `seasonal_std` in fsae.runtime.diffusion.whitening). The residual of a level is the mean over the
// descendants of a pixel minus that of the next coarser level.
inline Floats unwhiten(const float* white, const Bundle& bundle, const Npz& tables, const Floats& season) {
    const size_t n = pixels(bundle.latent_zoom), levels = bundle.latent_zooms.size();
    const Array cell = tables.read("latent_cell_std", {bundle.variables, n});
    const Array level = tables.read("latent_level_std", {bundle.variables, levels});
    Array wave{{bundle.variables, 0, n}, {}};  // bundles whose deviations have no season lack this table
    if (tables.has("latent_season_std")) wave = tables.read("latent_season_std", {bundle.variables, 0, n});
    const size_t waves = wave.shape[1];
    if (waves > season.size()) throw std::runtime_error("latent_season_std has more waves than the season");
    Floats latent(bundle.latent_size());
    for (size_t v = 0; v < bundle.variables; ++v) {
        const float* field = white + v * n;
        std::vector<double> total(n, 0.0), below(n, 0.0);
        for (size_t k = 0; k < levels; ++k) {
            const int steps = bundle.latent_zoom - bundle.latent_zooms[k];
            const size_t block = size_t{1} << (2 * steps);
            const double gain = std::ldexp(level.values[v * levels + k], steps);
            for (size_t first = 0; first < n; first += block) {
                double mean = 0;
                for (size_t p = first; p < first + block; ++p) mean += field[p] / static_cast<double>(block);
                for (size_t p = first; p < first + block; ++p) total[p] += gain * (mean - below[p]), below[p] = mean;
            }
        }
        for (size_t p = 0; p < n; ++p) {
            double log_factor = 0;
            for (size_t k = 0; k < waves; ++k) log_factor += season[k] * wave.values[(v * waves + k) * n + p];
            latent[v * n + p] = static_cast<float>(total[p] * cell.values[v * n + p] * std::exp(log_factor));
        }
    }
    return latent;
}

// The default forcing at a decimal year: the calendar year itself or, for bundles with scenarios, the first of these as
// far as the climate has responded to it (see fsae.runtime.climate.scenarios), linear between the middles of years.
inline double default_forcing(const Bundle& bundle, const Npz& tables, double year) {
    const Json& forcing = bundle.manifest["denoiser"]["forcing"];
    if (!forcing.has("scenarios") || forcing["scenarios"].array().empty()) return year;
    const std::vector<double> years = tables.read("forcing_years", {0}).values;
    const size_t scenarios = forcing["scenarios"].array().size();
    std::vector<double> found = tables.read("forcing_scenarios", {scenarios, years.size()}).values;
    found.resize(years.size());
    if (year < years.front() || year > years.back() + 1)
        throw std::runtime_error("the forcing of that year is not known");
    const double response = forcing["response_years"].number();
    const double share = response > 0 ? 1 - std::exp(-1 / response) : 1;
    for (size_t i = 1; i < found.size(); ++i) found[i] = found[i - 1] + share * (found[i] - found[i - 1]);
    const double last = static_cast<double>(found.size() - 1);
    const double place = std::min(std::max(year - years.front() - 0.5, 0.0), last);
    const size_t before = std::min(static_cast<size_t>(place), found.size() - 2);
    return found[before] + (place - static_cast<double>(before)) * (found[before + 1] - found[before]);
}

// Fields (time, variable, pixel) of a member's first window, starting in a given month and drawn from the climate.
inline Floats first_window(Ort::Env& env, const Bundle& bundle, uint64_t seed, uint64_t member, int year, int month) {
    if (bundle.manifest["denoiser"].is_null()) throw std::runtime_error("this bundle does not generate");
    if (bundle.manifest["time"]["step"].string() != "1 month")
        throw std::runtime_error("this program generates only monthly steps: count other steps as calendar.py does");
    const Json &known = bundle.manifest["denoiser"], &sampler = bundle.manifest["sampler"];
    const std::string& name = sampler["name"].string();
    if (name != "dpm2m" && name != "euler") throw std::runtime_error("this program has no sampler " + name);
    const auto window = static_cast<size_t>(known["window"].number());
    const auto previous = static_cast<size_t>(known["previous"].number());
    const int harmonics = bundle.whole("time", "harmonics"), features = bundle.whole("denoiser", "noise_features");

    const Npz tables(bundle.folder / "tables.npz");
    Floats noise, seasons, forcing;
    for (size_t t = 0; t < window; ++t, year += month / 12, month = month % 12 + 1) {
        const double phase = month_phase(bundle, year, month);
        const Floats frame = member_noise(seed, member, int64_t{12} * year + month - 1, bundle.latent_size());
        const Floats waves = season(phase, harmonics);
        noise.insert(noise.end(), frame.begin(), frame.end());
        seasons.insert(seasons.end(), waves.begin(), waves.end());
        forcing.push_back(static_cast<float>(default_forcing(bundle, tables, year + phase)));
    }
    bool high_resolution = false;  // the label of the source, as its place in ("hr", "lr")
    for (const Json& source : known["sources"].array()) high_resolution = high_resolution || source.string() == "hr";

    Graph denoiser(env, bundle, "denoiser"), decoder(env, bundle, "decoder");
    std::map<std::string, Floats> inputs = {
        {"season", seasons},
        {"forcing", forcing},
        {"source", {high_resolution ? 0.0f : 1.0f}},
        {"previous", Floats(previous * bundle.latent_size(), 0.0f)},  // nothing is known before the first window
        {"previous_valid", Floats(previous, 0.0f)},
    };
    const auto denoise = [&](const Floats& noisy, double sigma) {
        inputs["noisy"] = noisy;
        inputs["sigma"] = {static_cast<float>(sigma)};
        inputs["noise_features"] = noise_features(sigma, features);
        return denoiser.run(1, inputs);
    };
    const auto levels = noise_levels(bundle.whole("sampler", "steps"), sampler["sigma_min"].number(),
                                     sampler["sigma_max"].number(), sampler["rho"].number());
    const Floats white = sample(denoise, noise, levels, name == "dpm2m");

    Floats latents;
    for (size_t t = 0; t < window; ++t) {
        const Floats waves(seasons.begin() + 2 * harmonics * t, seasons.begin() + 2 * harmonics * (t + 1));
        const Floats latent = unwhiten(white.data() + t * bundle.latent_size(), bundle, tables, waves);
        latents.insert(latents.end(), latent.begin(), latent.end());
    }
    return decoder.run(window, {{"latent", latents}, {"season", seasons}});
}
