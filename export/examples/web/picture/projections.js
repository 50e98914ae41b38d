// Map projections of the unit sphere, both ways, with a centre {lat, lon} [radians].
//
// forward(lat, lon, centre) gives the place [x, y] of a point [radians], y northward, or null on the far side.
// inverse(x, y, centre, point) sets point.sine, of the latitude, and point.lon [radians]; false outside the map.
// A map is 2 `width` wide and 2 `height` high, and `angle` is the longitude of a unit of x in its middle [radians].

/** See Snyder (1987), Map Projections: A Working Manual, USGS Professional Paper 1395, equations 20-3 to 20-15. */
const globe = {
    width: 1,
    height: 1,
    angle: 1,
    forward(lat, lon, centre) {
        const [up, out] = [Math.sin(lat), Math.cos(lat)];
        const [up0, out0] = [Math.sin(centre.lat), Math.cos(centre.lat)];
        const ahead = out * Math.cos(lon - centre.lon);
        if (up0 * up + out0 * ahead < 0) return null;
        return [out * Math.sin(lon - centre.lon), out0 * up - up0 * ahead];
    },
    inverse(x, y, centre, point) {
        const square = x * x + y * y;
        if (square > 1) return false;
        const [up0, out0] = [Math.sin(centre.lat), Math.cos(centre.lat)];
        const depth = Math.sqrt(1 - square);
        point.sine = depth * up0 + y * out0;
        point.lon = centre.lon + Math.atan2(x, depth * out0 - y * up0);
        return true;
    },
    outline: () => circle,
};

const circle = Array.from({ length: 361 }, (_, degree) => {
    const angle = (degree * Math.PI) / 180;
    return [Math.cos(angle), Math.sin(angle)];
});

// Equal Earth (Savric, Patterson and Jenny 2018, doi:10.1080/13658816.2018.1504949): cells keep their areas. The height
// y is a polynomial of the parametric latitude t, sin(t) = sqrt(3) / 2 sin(latitude), and the length of a parallel is
// proportional to cos(t) over the slope of that polynomial.
const A = [1.340264, -0.081106, 0.000893, 0.003796];
const ROOT = Math.sqrt(3);
const STEEPEST = Math.PI / 3; // the parametric latitude of the pole
const heightOf = (t) => t * (A[0] + A[1] * t ** 2 + t ** 6 * (A[2] + A[3] * t ** 2));
const slopeOf = (t) => A[0] + 3 * A[1] * t ** 2 + t ** 6 * (7 * A[2] + 9 * A[3] * t ** 2);
const lengthOf = (t) => (2 * Math.cos(t)) / (ROOT * slopeOf(t)); // of the parallel, for a radian of longitude

/** The parametric latitude of a height, by Newton's method. */
function parametric(y) {
    let t = y / A[0];
    for (let i = 0; i < 6; i++) t -= (heightOf(t) - y) / slopeOf(t);
    return t;
}

const turned = (lon) => lon - 2 * Math.PI * Math.round(lon / (2 * Math.PI)); // to -pi ... pi

const map = {
    width: Math.PI * lengthOf(0),
    height: heightOf(STEEPEST),
    angle: 1 / lengthOf(0),
    forward(lat, lon, centre) {
        const t = Math.asin((ROOT / 2) * Math.sin(lat));
        return [turned(lon - centre.lon) * lengthOf(t), heightOf(t)];
    },
    inverse(x, y, centre, point) {
        if (y !== point.row) {
            point.row = y; // all points of a row of the picture have the same latitude
            const t = parametric(y);
            point.across = lengthOf(t);
            point.up = (2 / ROOT) * Math.sin(t);
        }
        const lon = x / point.across;
        if (!(Math.abs(lon) <= Math.PI && Math.abs(point.up) <= 1)) return false;
        point.sine = point.up;
        point.lon = centre.lon + lon;
        return true;
    },
    outline() {
        const heights = Array.from({ length: 181 }, (_, i) => ((i - 90) / 90) * STEEPEST);
        const east = heights.map((t) => [Math.PI * lengthOf(t), heightOf(t)]);
        return [...east, ...east.map(([x, y]) => [-x, y]).reverse(), east[0]];
    },
};

export const PROJECTIONS = { globe, map };
