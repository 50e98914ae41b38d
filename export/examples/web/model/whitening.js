// Latents from the whitened ones that the diffusion model draws, as in whitening.py of fsae.runtime.diffusion.

/** Pixels of a HEALPix grid: 12 * 4**zoom. */
export const pixels = (zoom) => 12 * 4 ** zoom;

/**
 * Standard deviations (variable, pixel) of latent cells at the season features (2K) of a step.
 *
 * Their logarithm varies with the season: cellStd (variable, pixel) is its mean, seasonStd (variable, 2H, pixel) its
 * harmonics, H <= K; bundles whose deviations have no season lack it.
 */
export function seasonalStd(cellStd, seasonStd, season) {
    const [variables, n] = cellStd.shape;
    const waves = seasonStd === undefined ? 0 : seasonStd.shape[1];
    const deviation = new Float32Array(variables * n);
    for (let v = 0; v < variables; v++) {
        for (let p = 0; p < n; p++) {
            let logarithm = 0;
            for (let k = 0; k < waves; k++) logarithm += season[k] * seasonStd.values[(v * waves + k) * n + p];
            deviation[v * n + p] = cellStd.values[v * n + p] * Math.exp(logarithm);
        }
    }
    return deviation;
}

/**
 * A latent (variable, pixel) from a whitened one, on rising `zooms`, the last being its own.
 *
 * The residual of a level is the mean over the descendants of a pixel minus that of the next coarser level. Each level
 * k is multiplied by levelStd (variable, level) and by 2**(z_last - z_k), the sum by `deviation` (see seasonalStd).
 */
export function unwhiten(white, zooms, deviation, levelStd) {
    const finest = zooms[zooms.length - 1];
    const n = pixels(finest);
    const [variables, levels] = levelStd.shape;
    const latent = new Float32Array(variables * n);
    for (let v = 0; v < variables; v++) {
        const field = white.subarray(v * n, (v + 1) * n);
        const [total, below] = [new Float64Array(n), new Float64Array(n)];
        for (let k = 0; k < levels; k++) {
            const steps = finest - zooms[k];
            const block = 4 ** steps;
            const gain = Math.fround(2 ** steps * levelStd.values[v * levels + k]);
            for (let first = 0; first < n; first += block) {
                let mean = 0;
                for (let p = first; p < first + block; p++) mean += field[p] / block;
                for (let p = first; p < first + block; p++) {
                    total[p] += gain * (mean - below[p]);
                    below[p] = mean;
                }
            }
        }
        for (let p = 0; p < n; p++) latent[v * n + p] = total[p] * deviation[v * n + p];
    }
    return latent;
}
