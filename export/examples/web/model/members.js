// A member drawn window after window, as in members.py and generate.py of fsae.runtime.ensemble.

import { laterMonth, monthIndex, yearPhase } from "./calendar.js";
import { seasonFeatures } from "./climatology.js";
import { forcingAt } from "./forcing.js";
import { memberIntegers, standardNormal } from "./noise.js";
import { SAMPLERS, denoiserCalls, noiseFeatures, noiseLevels } from "./sampler.js";
import { seasonalStd, unwhiten } from "./whitening.js";

const DRAW = 0; // the first noise of a step
const SOURCES = ["hr", "lr"]; // labels of the data a model was trained on, by their number

/** Several arrays of numbers as one Float32Array. */
function joined(arrays) {
    const whole = new Float32Array(arrays.reduce((length, array) => length + array.length, 0));
    let place = 0;
    for (const array of arrays) {
        whole.set(array, place);
        place += array.length;
    }
    return whole;
}

/** Let the page draw and listen before the next long computation; timers would be slow while the page is hidden. */
function breathe() {
    const { port1, port2 } = new MessageChannel();
    return new Promise((resume) => {
        port1.onmessage = () => {
            port1.close();
            resume();
        };
        port2.postMessage(null);
    });
}

/**
 * The months of a request as the model sees them: {month, season, index, forcing} each, whole windows of them.
 *
 * A request is {start: {year, month}, months, member, seed, forcing, fast}.
 */
export function timeline(bundle, request) {
    const { manifest, forcing } = bundle;
    const { calendar, harmonics } = manifest.time;
    const methods = manifest.variables[0].cell_methods; // the variables of a bundle share their time axis
    const size = manifest.denoiser.window;
    const length = Math.ceil(request.months / size) * size;
    const months = Array.from({ length }, (_, i) => laterMonth(request.start, i));
    const phases = months.map((month) => yearPhase(calendar, methods, month));
    const years = months.map(({ year }, i) => year + phases[i]);
    const values = forcingAt(forcing, request.forcing, years, request.months);
    return months.map((month, i) => ({
        month,
        season: seasonFeatures(phases[i], harmonics),
        index: monthIndex(month),
        forcing: values[i],
    }));
}

/** A window in white space, (time, variable, latent pixel), from its noise and the last clean steps, oldest first. */
async function sampleWindow(bundle, sampler, denoiser, steps, noise, known, called) {
    const { sources, noise_features: features } = bundle.manifest.denoiser;
    const fixed = {
        season: joined(steps.map((step) => step.season)),
        forcing: Float32Array.from(steps, (step) => step.forcing),
        source: Float32Array.of(SOURCES.indexOf(sources.includes("hr") ? "hr" : sources[0])),
        ...known,
    };
    const denoise = async (noisy, sigma) => {
        await breathe();
        called();
        const level = { noisy, sigma: Float32Array.of(sigma), noise_features: noiseFeatures(sigma, features) };
        return denoiser(1, { ...fixed, ...level });
    };
    return SAMPLERS[sampler.name](denoise, noise, noiseLevels(sampler));
}

/**
 * Draw a member: yields each month of the request, as in timeline, with its field (variable, pixel) in physical units.
 *
 * `progress(share)` is called before each call of a graph with the share of the work that is done; `signal`, an
 * AbortSignal, ends the drawing with its reason.
 */
export async function* drawMember(bundle, request, progress = () => {}, signal = undefined) {
    const { manifest, tables } = bundle;
    const { window: size, previous } = manifest.denoiser;
    const sampler = request.fast ? manifest.fast : manifest.sampler;
    const zooms = manifest.zooms.filter((zoom) => zoom <= manifest.latent.zoom);
    const count = manifest.latent.shape[0] * manifest.latent.shape[1];
    const steps = timeline(bundle, request);
    const denoiser = await bundle.graph(request.fast ? "fast" : "denoiser");
    const decoder = await bundle.graph("decoder");

    const total = (steps.length / size) * denoiserCalls(sampler) + request.months;
    let calls = 0;
    const called = () => {
        signal?.throwIfAborted();
        progress(calls++ / total);
    };
    let known = { previous: new Float32Array(previous * count), previous_valid: new Float32Array(previous) };
    for (let first = 0; first < request.months; first += size) {
        const part = steps.slice(first, first + size);
        const integers = ({ index }) => memberIntegers(request.seed, request.member, index, DRAW, count);
        const noise = joined(part.map((step) => standardNormal(integers(step))));
        const white = await sampleWindow(bundle, sampler, denoiser, part, noise, known, called);
        for (let i = 0; i < part.length && first + i < request.months; i++) {
            await breathe();
            called();
            const deviation = seasonalStd(tables.latent_cell_std, tables.latent_season_std, part[i].season);
            const one = white.subarray(i * count, (i + 1) * count);
            const latent = unwhiten(one, zooms, deviation, tables.latent_level_std);
            yield { ...part[i], field: await decoder(1, { latent, season: part[i].season }) };
        }
        const clean = joined([known.previous, white]);
        const valid = joined([known.previous_valid, new Float32Array(size).fill(1)]);
        known = {
            previous: clean.slice(clean.length - previous * count),
            previous_valid: valid.slice(valid.length - previous),
        };
    }
}
