// An opened model: its bundle, the graphs that are loaded when they are first needed, and fields in and out of them.
#pragma once

#include <map>
#include <memory>
#include <mutex>
#include <sstream>

#include "calendar.hpp"
#include "graphs.hpp"
#include "sampler.hpp"
#include "tables.hpp"

class Model {
  public:
    const Bundle bundle;

    Model(const std::filesystem::path& folder, const std::string& precision, int threads)
        : bundle(folder, precision), threads_(threads) {
        if (precision == "bf16")
            throw Failure(FSAE_DEVICE, "ONNX Runtime has no kernels for bf16 on CPUs", "", "take another precision");
        backend();
    }

    // Season features (step, 2K) of phases of the year.
    Floats seasons(const std::vector<double>& phases) const {
        Floats found;
        for (double phase : phases) {
            const Floats one = season(phase, bundle.harmonics);
            found.insert(found.end(), one.begin(), one.end());
        }
        return found;
    }
    Floats seasons(const std::vector<TimeStep>& steps) const {
        std::vector<double> phases;
        for (const TimeStep& step : steps) phases.push_back(step.phase);
        return seasons(phases);
    }

    // Latents (step, variable, latent pixel) of fields (step, variable, pixel) in the seasons of the steps.
    void encode(size_t steps, const float* fields, const Floats& seasons, float* latents) {
        check(steps, fields, 0, FSAE_DATA, "the fields hold", "are the units right, and are missing values filled?");
        const std::vector<float> every_level(steps * bundle.zooms.size(), 1.0f);
        graph("encoder").run(steps, {fields, seasons.data(), every_level.data()}, latents);
    }

    // The inverse.
    void decode(size_t steps, const float* latents, const Floats& seasons, float* fields) {
        if (!std::all_of(latents, latents + steps * bundle.latent_size(), [](float x) { return std::isfinite(x); }))
            throw Failure(FSAE_DATA, "the latents hold values that are not finite", "",
                          "are they those of fsae_encode?");
        graph("decoder").run(steps, {latents, seasons.data()}, fields);
        check(steps, fields, overshoot, FSAE_TOLERANCE, "the model gave", "check the input and run `fsae-run verify`");
    }

    // A graph, whose file is checked and loaded at the first call.
    Graph& graph(const std::string& name) {
        const std::lock_guard<std::mutex> guard(lock_);
        std::unique_ptr<Graph>& place = graphs_[name];
        if (!place) {
            const Port output = name == "encoder"   ? Port{"latent", bundle.latent_size()}
                                : name == "decoder" ? Port{"field", bundle.field_size()}
                                                    : Port{"denoised", bundle.window * bundle.latent_size()};
            place = std::make_unique<Graph>(bundle, name, inputs_of(name), output, threads_);
        }
        return *place;
    }

  private:
    static constexpr double overshoot = 0.05;  // of the width of a valid range: what a model may be beyond its ends
    const int threads_;
    std::mutex lock_;
    std::map<std::string, std::unique_ptr<Graph>> graphs_;

    std::vector<Port> inputs_of(const std::string& name) const {
        const size_t waves = 2 * bundle.harmonics, window = bundle.window, previous = bundle.previous;
        if (name == "encoder")
            return {{"field", bundle.field_size()}, {"season", waves}, {"level_mask", bundle.zooms.size()}};
        if (name == "decoder") return {{"latent", bundle.latent_size()}, {"season", waves}};
        return {{"noisy", window * bundle.latent_size()},
                {"sigma", 1},
                {"noise_features", static_cast<size_t>(bundle.noise_features)},
                {"season", window * waves},
                {"forcing", window},
                {"source", 1},
                {"previous", previous * bundle.latent_size()},
                {"previous_valid", previous}};
    }

    // Failure for fields that are not finite, or further outside the valid range than some part of its width.
    void check(size_t steps, const float* fields, double beyond, int status, const char* who,
               const char* advice) const {
        const size_t n = pixels(bundle.zoom);
        for (size_t i = 0; i < steps * bundle.field_size(); ++i) {
            const Variable& variable = bundle.variables[i / n % bundle.variables.size()];
            const double margin = beyond * (variable.high - variable.low);
            if (!(fields[i] >= variable.low - margin && fields[i] <= variable.high + margin)) {
                std::ostringstream found, expected;
                found << who << " " << variable.name << " = " << fields[i] << " at step " << i / bundle.field_size()
                      << ", pixel " << i % n << " (both from 0)";
                expected << variable.low << " to " << variable.high << " " << variable.units;
                throw Failure(status, found.str(), expected.str(), advice);
            }
        }
    }
};
