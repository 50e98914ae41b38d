// The functions of fsae.h: arguments checked, and every exception turned into a status and a sentence.
#include "fsae.h"

#include <cfenv>
#include <cstdio>

#include "ensemble.hpp"

struct fsae_model : Model {
    using Model::Model;
};

namespace {

constexpr int64_t most_steps = 10000000;

thread_local char last_error[2048] = "";

// Keep a sentence, as one line for a terminal: control characters become '?'.
int keep(int status, const char* sentence) noexcept {
    std::snprintf(last_error, sizeof last_error, "%s", sentence);
    for (char* c = last_error; *c; ++c)
        if (static_cast<unsigned char>(*c) < ' ' || *c == '\x7f') *c = '?';
    return status;
}

// The floating-point environment of the host, restored at the end. Within, no exception traps: models are often run
// with traps, which the vectorised code of ONNX Runtime would spring without need.
class NoTraps {
  public:
    NoTraps() { std::feholdexcept(&before_); }
    ~NoTraps() { std::fesetenv(&before_); }

  private:
    std::fenv_t before_;
};

template <class Work> int guarded(Work work) noexcept {
    const NoTraps quiet;
    try {
        work();
        return FSAE_OK;
    } catch (const Failure& failure) {
        return keep(failure.status, failure.what());
    } catch (const std::bad_alloc&) {
        return keep(FSAE_FAILED, "there is too little memory: give fewer steps");
    } catch (const std::exception& error) {
        return keep(FSAE_FAILED, error.what());
    } catch (...) {
        return keep(FSAE_FAILED, "found an unknown exception");
    }
}

void expect(bool given, const char* what) {
    if (!given) throw Failure(FSAE_USAGE, std::string("found no ") + what, "one that is not NULL");
}

size_t steps_of(int64_t steps) {
    if (steps < 1 || steps > most_steps)
        throw Failure(FSAE_USAGE, "found " + std::to_string(steps) + " steps", "1 to " + std::to_string(most_steps));
    return static_cast<size_t>(steps);
}

void expect_count(const char* what, size_t found, size_t steps, size_t each) {
    if (found / each != steps || found % each)
        throw Failure(FSAE_DATA, "found " + std::to_string(found) + " numbers of " + what,
                      std::to_string(steps) + " steps of " + std::to_string(each), "are they of this bundle's grid?");
}

Floats seasons_of(const fsae_model& model, size_t steps, const double* phases) {
    for (size_t i = 0; i < steps; ++i)
        if (!(phases[i] >= 0 && phases[i] <= 1))
            throw Failure(FSAE_USAGE, "found the phase " + std::to_string(phases[i]), "0 to 1", "see fsae_phase");
    return model.seasons(std::vector<double>(phases, phases + steps));
}

void expect_denoiser(const Bundle& bundle, bool fast) {
    if (bundle.samplers.empty())
        throw Failure(FSAE_BUNDLE, "bundle " + bundle.name + " has no diffusion model, so it cannot generate", "",
                      "take one that has");
    if (fast && bundle.samplers.size() < 2)
        throw Failure(FSAE_BUNDLE, "bundle " + bundle.name + " has no distilled denoiser", "", "set fast to 0");
}

}  // namespace

extern "C" {

int fsae_open(const char* folder, const char* precision, int threads, fsae_model** model) {
    return guarded([&] {
        expect(model, "place for the model");
        *model = nullptr;
        expect(folder, "folder");
        if (threads < 0 || threads > 4096)
            throw Failure(FSAE_USAGE, "found " + std::to_string(threads) + " threads", "0 to 4096");
        *model = new fsae_model(folder, precision ? precision : "fp32", threads);
    });
}

void fsae_close(fsae_model* model) { delete model; }

int fsae_describe(const fsae_model* model, fsae_description* description) {
    return guarded([&] {
        expect(model, "model");
        expect(description, "place for the description");
        const Bundle& bundle = model->bundle;
        *description = {bundle.name.c_str(),
                        bundle.precision.c_str(),
                        bundle.step.c_str(),
                        bundle.calendar.c_str(),
                        static_cast<int64_t>(bundle.variables.size()),
                        static_cast<int64_t>(pixels(bundle.zoom)),
                        static_cast<int64_t>(pixels(bundle.latent_zoom)),
                        bundle.zoom,
                        bundle.latent_zoom,
                        bundle.window,
                        bundle.previous,
                        bundle.samplers.size() > 1,
                        bundle.forcing.name.c_str(),
                        bundle.forcing.units.c_str(),
                        {bundle.forcing.low, bundle.forcing.high}};
    });
}

int fsae_describe_variable(const fsae_model* model, int64_t place, fsae_variable* variable) {
    return guarded([&] {
        expect(model, "model");
        expect(variable, "place for the variable");
        const auto count = static_cast<int64_t>(model->bundle.variables.size());
        if (place < 0 || place >= count)
            throw Failure(FSAE_USAGE, "found the variable " + std::to_string(place),
                          "0 to " + std::to_string(count - 1));
        const Variable& one = model->bundle.variables[static_cast<size_t>(place)];
        *variable = {one.name.c_str(), one.standard_name.c_str(), one.units.c_str(), one.cell_methods.c_str(),
                     {one.low, one.high}};
    });
}

int fsae_phase(const fsae_model* model, const char* date, double* phase) {
    return guarded([&] {
        expect(model, "model");
        expect(date, "date");
        expect(phase, "place for the phase");
        const Bundle& bundle = model->bundle;
        const TimeAxis axis(bundle.calendar, bundle.step, bundle.variables[0].cell_methods);
        *phase = axis.steps(date, 1)[0].phase;
    });
}

int fsae_encode(fsae_model* model, int64_t steps, const double* phases, const float* fields, size_t field_count,
                float* latents, size_t latent_count) {
    return guarded([&] {
        expect(model, "model");
        expect(phases && fields && latents, "phases, fields or latents");
        const size_t rows = steps_of(steps);
        expect_count("fields", field_count, rows, model->bundle.field_size());
        expect_count("latents", latent_count, rows, model->bundle.latent_size());
        model->encode(rows, fields, seasons_of(*model, rows, phases), latents);
    });
}

int fsae_decode(fsae_model* model, int64_t steps, const double* phases, const float* latents, size_t latent_count,
                float* fields, size_t field_count) {
    return guarded([&] {
        expect(model, "model");
        expect(phases && fields && latents, "phases, fields or latents");
        const size_t rows = steps_of(steps);
        expect_count("latents", latent_count, rows, model->bundle.latent_size());
        expect_count("fields", field_count, rows, model->bundle.field_size());
        model->decode(rows, latents, seasons_of(*model, rows, phases), fields);
    });
}

int fsae_draw(fsae_model* model, const fsae_request* request, float* fields, size_t field_count) {
    return guarded([&] {
        expect(model, "model");
        expect(request && request->start && fields, "request, start or fields");
        const size_t steps = steps_of(request->steps);
        if (request->member < 0)
            throw Failure(FSAE_USAGE, "found the member " + std::to_string(request->member), "0 or more");
        if (request->fast != 0 && request->fast != 1)
            throw Failure(FSAE_USAGE, "found fast = " + std::to_string(request->fast), "0 or 1");
        expect_denoiser(model->bundle, request->fast);
        if (request->initial && !model->bundle.previous)
            throw Failure(FSAE_BUNDLE, "bundle " + model->bundle.name + " draws every window alone, so it cannot start "
                          "from known steps", "", "leave out the initial fields");
        expect_count("fields", field_count, steps, model->bundle.field_size());
        draw(*model, {request->start, steps, request->seed, static_cast<uint64_t>(request->member), request->forcing,
                      request->initial, request->fast == 1}, fields);
    });
}

const char* fsae_error(void) { return last_error; }

}  // extern "C"
