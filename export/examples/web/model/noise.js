// Noise of a member as a pure function of (seed, member, time, draw), as in noise.py of fsae.runtime.diffusion.

const MULTIPLIERS = [0xd2e7470ee14c6c93n, 0xca5a826395121157n];
const WEYL = [0x9e3779b97f4a7c15n, 0xbb67ae8584caa73bn];
const ROUNDS = 10;

const low = (x) => BigInt.asUintN(64, x);

/** The block of four 64-bit integers (BigInt) of Philox4x64-10 (Salmon et al. 2011) for a counter and a key. */
export function philox(counter, key) {
    let [c0, c1, c2, c3] = counter;
    let [k0, k1] = key;
    for (let round = 0; round < ROUNDS; round++) {
        const first = MULTIPLIERS[0] * c0;
        const second = MULTIPLIERS[1] * c2;
        [c0, c1, c2, c3] = [(second >> 64n) ^ c1 ^ k0, low(second), (first >> 64n) ^ c3 ^ k1, low(first)];
        k0 = low(k0 + WEYL[0]);
        k1 = low(k1 + WEYL[1]);
    }
    return [c0, c1, c2, c3];
}

/**
 * `count` raw 64-bit integers (BigUint64Array): key (seed, member), counter (block, draw, time index, 0).
 *
 * Numbers and BigInts are taken modulo 2**64. Blocks of four count from 1: NumPy increments before it draws.
 */
export function memberIntegers(seed, member, timeIndex, draw, count) {
    const key = [low(BigInt(seed)), low(BigInt(member))];
    const time = low(BigInt(timeIndex));
    const raw = new BigUint64Array(4 * Math.ceil(count / 4));
    for (let block = 0; 4 * block < count; block++) {
        raw.set(philox([BigInt(block + 1), low(BigInt(draw)), time, 0n], key), 4 * block);
    }
    return raw.subarray(0, count);
}

/**
 * Standard normal numbers (Float32Array) by Box and Muller (1958), as many as raw integers (even), pairs side by side.
 *
 * u = (top 53 bits + 1) / 2**53 lies in (0, 1], so the logarithm is finite; computed in float64, given in float32.
 */
export function standardNormal(raw) {
    const uniform = (integer) => Number((integer >> 11n) + 1n) * 2 ** -53;
    const normal = new Float32Array(raw.length);
    for (let i = 0; i < raw.length; i += 2) {
        const radius = Math.sqrt(-2 * Math.log(uniform(raw[i])));
        const angle = 2 * Math.PI * uniform(raw[i + 1]);
        normal[i] = radius * Math.cos(angle);
        normal[i + 1] = radius * Math.sin(angle);
    }
    return normal;
}
