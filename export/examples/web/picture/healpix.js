// HEALPix pixels (Gorski et al. 2005, ApJ 622, 759) in nested order.

/**
 * A function that gives the nested pixel of a zoom which holds a point, by the sine of its latitude and its longitude
 * [radians].
 */
export function pixelFinder(zoom) {
    const side = 1 << zoom; // pixels along the side of a face
    const spread = Int32Array.from({ length: side }, (_, index) => {
        let bits = 0; // those of the index, with zeros between them
        for (let bit = 0; bit < zoom; bit++) bits |= ((index >> bit) & 1) << (2 * bit);
        return bits;
    });
    const pixel = (face, x, y) => face * side * side + spread[x] + 2 * spread[y];

    return (sine, longitude) => {
        const turns = longitude / (2 * Math.PI);
        const quarters = 4 * (turns - Math.floor(turns)); // 0 to 4 around the globe
        const height = Math.abs(sine);
        if (height <= 2 / 3) {
            const [middle, slope] = [side * (0.5 + quarters), 0.75 * side * sine];
            const rising = Math.floor(middle - slope); // lines of pixels from south-west to north-east
            const falling = Math.floor(middle + slope);
            const [one, other] = [rising >> zoom, falling >> zoom];
            const face = one === other ? (one & 3) | 4 : one < other ? one & 3 : (other & 3) + 8;
            return pixel(face, falling & (side - 1), side - 1 - (rising & (side - 1)));
        }
        const quarter = Math.min(3, Math.floor(quarters));
        const part = quarters - quarter;
        const rings = side * Math.sqrt(3 * (1 - height)); // from the pole
        const rising = Math.min(side - 1, Math.floor(part * rings));
        const falling = Math.min(side - 1, Math.floor((1 - part) * rings));
        if (sine > 0) return pixel(quarter, side - 1 - falling, side - 1 - rising);
        return pixel(quarter + 8, rising, falling);
    };
}
