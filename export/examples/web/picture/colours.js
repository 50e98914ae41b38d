// Colours of a field, as in colours.py of fsae.runtime.pictures: a sequential scale, or a diverging one around zero.

// 17 even steps of viridis (van der Walt and Smith 2015) and of RdBu reversed (Brewer 2003), linear between them.
const MAPS = {
    viridis:
        "440154 48186a 472d7b 424086 3b528b 33638d 2c728e 26828e 21918c " +
        "1fa088 28ae80 3fbc73 5ec962 84d44b addc30 d8e219 fde725",
    difference:
        "053061 175290 2a71b2 3f8ec0 6bacd1 9bc9e0 c2ddec e0ecf3 f7f6f6 " +
        "fbe5d8 fbccb4 f5aa89 e48066 d05548 ba2832 930e26 67001f",
};
const SHARES = [0.01, 0.99]; // quantiles that are the ends of the scale
const SAMPLE = 50_000; // values that quantiles are taken of, at most
const SHADES = 256;

/** Colours of a map as 32-bit pixels of a canvas, from its low to its high end. */
function shades(name) {
    const steps = MAPS[name].split(" ").map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));
    const bytes = new Uint8ClampedArray(4 * SHADES);
    for (let i = 0; i < SHADES; i++) {
        const place = (i / (SHADES - 1)) * (steps.length - 1);
        const before = Math.min(Math.floor(place), steps.length - 2);
        const part = place - before;
        steps[before].forEach((from, c) => (bytes[4 * i + c] = from + part * (steps[before + 1][c] - from)));
        bytes[4 * i + 3] = 255;
    }
    return new Uint32Array(bytes.buffer);
}

/** The scale of some fields, {low, high, below, above, shades}: around zero for differences. */
export function scaleOf(fields, isDifference) {
    const length = fields.reduce((sum, field) => sum + field.length, 0);
    const stride = Math.ceil(length / SAMPLE);
    const sample = [];
    for (const field of fields) {
        for (let i = 0; i < field.length; i += stride) if (Number.isFinite(field[i])) sample.push(field[i]);
    }
    const sorted = Float32Array.from(sample.length ? sample : [0, 1]).sort();
    let [low, high] = SHARES.map((share) => sorted[Math.round(share * (sorted.length - 1))]);
    if (isDifference) {
        high = Math.max(Math.abs(low), Math.abs(high));
        low = -high;
    }
    if (!(high > low)) {
        const room = Math.max(Math.abs(high) * 1e-3, 1e-9); // a constant field
        [low, high] = [low - room, high + room];
    }
    const [below, above] = [sorted[0] < low, sorted[sorted.length - 1] > high];
    return { low, high, below, above, shades: shades(isDifference ? "difference" : "viridis") };
}

/** The shade of a value on a scale; the nearer end outside it. */
export function shadeOf(value, { low, high, shades }) {
    const place = Math.floor(((value - low) / (high - low)) * SHADES);
    return shades[Math.min(Math.max(place, 0), SHADES - 1)];
}

/** Round numbers between two ends, about five of them, as {value, text}. */
export function ticksBetween(low, high) {
    const rough = (high - low) / 5;
    const power = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough);
    const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
    const ticks = [];
    for (let i = Math.ceil(low / step); i * step <= high; i++) {
        ticks.push({ value: i * step, text: (i * step).toFixed(digits).replace("-", "\u2212") });
    }
    return ticks;
}

/** Draw the colour bar of a scale on a canvas, pointed where values lie beyond an end, with ticks and a label. */
export function drawBar(canvas, scale, label) {
    const ratio = window.devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: height } = canvas;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    const style = getComputedStyle(canvas);
    const [left, right, top, thick, point] = [24.5, width - 24.5, 2.5, 13, 12];

    const strip = new ImageData(new Uint8ClampedArray(scale.shades.buffer.slice(0)), SHADES, 1);
    const shaded = Object.assign(document.createElement("canvas"), { width: SHADES, height: 1 });
    shaded.getContext("2d").putImageData(strip, 0, 0);
    const css = (shade) => `rgb(${shade & 255} ${(shade >> 8) & 255} ${(shade >> 16) & 255})`;
    const path = new Path2D();
    path.moveTo(left, top);
    path.lineTo(right, top);
    if (scale.above) path.lineTo(right + point, top + thick / 2);
    path.lineTo(right, top + thick);
    path.lineTo(left, top + thick);
    if (scale.below) path.lineTo(left - point, top + thick / 2);
    path.closePath();
    pen.save();
    pen.clip(path);
    pen.fillStyle = css(scale.shades[0]);
    pen.fillRect(0, 0, left + 1, height);
    pen.fillStyle = css(scale.shades[SHADES - 1]);
    pen.fillRect(right - 1, 0, width - right + 1, height);
    pen.drawImage(shaded, left, 0, right - left, height);
    pen.restore();

    pen.strokeStyle = pen.fillStyle = style.color;
    pen.lineWidth = 1;
    pen.stroke(path);
    pen.font = style.font;
    pen.textBaseline = "top";
    pen.textAlign = "center";
    for (const { value, text } of ticksBetween(scale.low, scale.high)) {
        const x = left + ((value - scale.low) / (scale.high - scale.low)) * (right - left);
        pen.fillRect(x - 0.5, top + thick, 1, 4);
        pen.fillText(text, x, top + thick + 7);
    }
    pen.textBaseline = "bottom";
    pen.fillText(label, (left + right) / 2, height - 1);
}
