// Deterministic samplers of the EDM probability flow (Karras et al. 2022, "EDM"), as in sampler.py of
// fsae.runtime.diffusion. A denoiser takes (noisy, sigma), a state in float32 and one noise level, and promises the
// expected clean state.

/** Falling noise levels, `steps` of them and a final zero (EDM eq. 5). */
export function noiseLevels({ steps, sigma_min: least, sigma_max: most, rho }) {
    const [first, last] = [most ** (1 / rho), least ** (1 / rho)];
    const levels = Array.from({ length: steps }, (_, i) => {
        const ramp = steps > 1 ? i / (steps - 1) : 0;
        return (first + ramp * (last - first)) ** rho;
    });
    return [...levels, 0];
}

/** Fourier features of ln(sigma): first the cosines, then the sines of 2**(i / 2) / 4 * ln(sigma). */
export function noiseFeatures(sigma, count) {
    const features = new Float32Array(count);
    for (let i = 0; i < count / 2; i++) {
        const angle = Math.log(sigma) * 0.25 * 2 ** (i / 2);
        features[i] = Math.cos(angle);
        features[i + count / 2] = Math.sin(angle);
    }
    return features;
}

/** Calls of the denoiser that a sampler makes for a window. */
export function denoiserCalls({ name, steps }) {
    return name === "heun" ? 2 * steps - 1 : steps;
}

/** Clean state by Euler's method (DDIM, Song et al. 2021, eq. 13): first order, one call a step. */
async function euler(denoise, noise, levels) {
    let state = noise.map((x) => x * levels[0]);
    for (let i = 0; i + 1 < levels.length; i++) {
        const clean = await denoise(state, levels[i]);
        const ratio = Math.fround(levels[i + 1] / levels[i]);
        state = state.map((x, p) => ratio * x + (1 - ratio) * clean[p]);
    }
    return state;
}

/** Clean state by Heun's method (EDM algorithm 1): second order, two calls a step but the last. */
async function heun(denoise, noise, levels) {
    let state = noise.map((x) => x * levels[0]);
    for (let i = 0; i + 1 < levels.length; i++) {
        const [now, after] = [levels[i], levels[i + 1]];
        const clean = await denoise(state, now);
        let slope = state.map((x, p) => (x - clean[p]) / now);
        let trial = state.map((x, p) => x + (after - now) * slope[p]);
        if (after > 0) {
            const cleaner = await denoise(trial, after);
            slope = slope.map((s, p) => (s + (trial[p] - cleaner[p]) / after) / 2);
            trial = state.map((x, p) => x + (after - now) * slope[p]);
        }
        state = trial;
    }
    return state;
}

/**
 * Clean state by DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): second order, one call a step.
 *
 * The target of a step extrapolates the last two denoised states; the first step and the last one, to zero noise, use
 * the newest alone.
 */
async function dpmSolver2m(denoise, noise, levels) {
    let state = noise.map((x) => x * levels[0]);
    let older = null;
    let olderStep = 0;
    for (let i = 0; i + 1 < levels.length; i++) {
        const [now, after] = [levels[i], levels[i + 1]];
        const newest = await denoise(state, now);
        if (after === 0) return newest;
        const step = Math.log(now / after);
        const weight = older === null ? 0 : Math.fround(step / (2 * olderStep));
        const past = older ?? newest;
        const ratio = Math.fround(after / now);
        state = state.map((x, p) => ratio * x + (1 - ratio) * (newest[p] + weight * (newest[p] - past[p])));
        older = newest;
        olderStep = step;
    }
    return state;
}

export const SAMPLERS = { dpm2m: dpmSolver2m, euler, heun };
