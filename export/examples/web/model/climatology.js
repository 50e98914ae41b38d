// The harmonic climatology, as in climatology.py of fsae.runtime.climate.

/** Season features (2K) of a phase of the year: cosine and sine of 2 pi k phase side by side, k = 1 ... K. */
export function seasonFeatures(phase, harmonics) {
    const features = new Float32Array(2 * harmonics);
    for (let k = 1; k <= harmonics; k++) {
        const angle = 2 * Math.PI * phase * k;
        features[2 * k - 2] = Math.cos(angle);
        features[2 * k - 1] = Math.sin(angle);
    }
    return features;
}

/** The climatology (pixel) of a variable at season features, from its coefficients (variable, 1 + 2K, pixel). */
export function climatologyOf({ shape, values }, variable, season) {
    const [, terms, n] = shape;
    const first = variable * terms * n;
    const mean = values.slice(first, first + n);
    season.forEach((wave, k) => {
        const term = values.subarray(first + (k + 1) * n, first + (k + 2) * n);
        for (let p = 0; p < n; p++) mean[p] += wave * term[p];
    });
    return mean;
}
