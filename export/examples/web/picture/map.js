// A field on a canvas, as a globe or as a map of the whole sphere that can be turned by pointer and arrow keys.

import { shadeOf } from "./colours.js";
import { pixelFinder } from "./healpix.js";
import { PROJECTIONS } from "./projections.js";

const COARSE = 2; // canvas pixels to a side of the squares drawn while the map is being turned
const MOST_RATIO = 2; // device pixels to a side of a CSS pixel: more are not seen, and take long
const SETTLED_MS = 150; // after the last turn, the map is drawn finely
const STEP = Math.PI / 18; // of the arrow keys
const TURNS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
const MISSING = 0xffb0b0b0;
const HOME = { lat: (25 * Math.PI) / 180, lon: (10 * Math.PI) / 180 };

/** Parallels and meridians every 30 degrees, as lines of [lat, lon] in radians. */
function graticule() {
    const radians = (from, to, step) => {
        const count = Math.round((to - from) / step) + 1;
        return Array.from({ length: count }, (_, i) => ((from + i * step) * Math.PI) / 180);
    };
    const meridians = radians(-180, 150, 30).map((lon) => radians(-90, 90, 2).map((lat) => [lat, lon]));
    const parallels = radians(-60, 60, 30).map((lat) => radians(-180, 180, 2).map((lon) => [lat, lon]));
    return [...meridians, ...parallels];
}

/** Lines in radians of coastlines.json: each [lat, lon, lat, lon, ...] in hundredths of a degree. */
export function linesOf(coastlines) {
    const radians = (hundredths) => (hundredths * Math.PI) / 18_000;
    return coastlines.map((flat) =>
        Array.from({ length: flat.length / 2 }, (_, i) => [radians(flat[2 * i]), radians(flat[2 * i + 1])]),
    );
}

export class FieldMap {
    /** A map on a canvas of fields of a HEALPix zoom, with coastlines as of linesOf. */
    constructor(canvas, zoom, coastlines) {
        this.canvas = canvas;
        this.coastlines = coastlines;
        this.graticule = graticule();
        this.pixelOf = pixelFinder(zoom);
        this.projection = PROJECTIONS.globe;
        this.centre = { ...HOME };
        this.field = null;
        this.scale = null;
        this.cells = null; // of the points of the last drawing: {places, width, height, coarse}
        this.shaded = document.createElement("canvas");
        this.waiting = 0;
        new ResizeObserver(() => this.look()).observe(canvas);
        canvas.addEventListener("pointerdown", (event) => this.drag(event));
        canvas.addEventListener("keydown", (event) => this.key(event));
    }

    /** Show a field (Float32Array of all pixels) in the colours of a scale (see scaleOf). */
    show(field, scale) {
        this.field = field;
        this.scale = scale;
        this.draw();
    }

    /** Change to the projection "globe" or "map". */
    project(name) {
        this.projection = PROJECTIONS[name];
        this.look();
    }

    /** Turn the centre eastward and northward [radians]; a map of the whole sphere stays upright. */
    turn(east, north) {
        const { lat, lon } = this.centre;
        this.centre = { lat: Math.min(Math.max(lat + north, -Math.PI / 2), Math.PI / 2), lon: lon + east };
        this.look(true);
        clearTimeout(this.settled);
        this.settled = setTimeout(() => this.look(), SETTLED_MS);
    }

    /** The pixel under a pointer as {pixel, lat, lon} [degrees], or null outside the map. */
    under(event) {
        const point = {};
        const { scale, left, top } = this.frame(1);
        const [x, y] = [(event.offsetX - left) / scale, (top - event.offsetY) / scale];
        if (!this.projection.inverse(x, y, this.centre, point)) return null;
        const degrees = (angle) => (angle * 180) / Math.PI;
        const lon = degrees(point.lon);
        return {
            pixel: this.pixelOf(point.sine, point.lon),
            lat: degrees(Math.asin(Math.min(Math.max(point.sine, -1), 1))),
            lon: lon - 360 * Math.round(lon / 360),
        };
    }

    /** Follow a pointer until it is released. */
    drag(start) {
        this.canvas.setPointerCapture(start.pointerId);
        let last = start;
        const move = (event) => {
            const radians = this.projection.angle / this.frame(1).scale; // of a CSS pixel
            this.turn((last.offsetX - event.offsetX) * radians, (event.offsetY - last.offsetY) * radians);
            last = event;
        };
        const end = () => this.canvas.removeEventListener("pointermove", move);
        this.canvas.addEventListener("pointermove", move);
        this.canvas.addEventListener("pointerup", end, { once: true });
        this.canvas.addEventListener("pointercancel", end, { once: true });
    }

    /** Turn by the arrow keys, and back by Home. */
    key(event) {
        if (event.key === "Home") this.centre = { ...HOME };
        else if (!(event.key in TURNS)) return;
        event.preventDefault();
        const [east, north] = TURNS[event.key] ?? [0, 0];
        this.turn(east * STEP, north * STEP);
    }

    /** Draw anew, in the next frame, for another look at the sphere; coarsely while it is being turned. */
    look(coarse = false) {
        cancelAnimationFrame(this.waiting);
        this.waiting = requestAnimationFrame(() => {
            this.cells = null;
            this.draw(coarse ? COARSE : 1);
        });
    }

    /** The scale of the projection and the place of its middle, for a canvas whose pixels are multiplied by `ratio`. */
    frame(ratio) {
        const [width, height] = [this.canvas.clientWidth * ratio, this.canvas.clientHeight * ratio];
        const margin = 2 * ratio;
        const scale = Math.min(
            (width / 2 - margin) / this.projection.width,
            (height / 2 - margin) / this.projection.height,
        );
        return { width, height, scale, left: width / 2, top: height / 2 };
    }

    /** The pixel of the sphere at each point of the canvas, -1 outside the map. */
    locate(frame, coarse) {
        const [width, height] = [Math.ceil(frame.width / coarse), Math.ceil(frame.height / coarse)];
        const places = new Int32Array(width * height).fill(-1);
        const point = {};
        for (let row = 0; row < height; row++) {
            const y = (frame.top - (row + 0.5) * coarse) / frame.scale;
            for (let column = 0; column < width; column++) {
                const x = ((column + 0.5) * coarse - frame.left) / frame.scale;
                if (this.projection.inverse(x, y, this.centre, point)) {
                    places[row * width + column] = this.pixelOf(point.sine, point.lon);
                }
            }
        }
        return { places, width, height, coarse };
    }

    /** Draw the field, coastlines, graticule and outline. */
    draw(coarse = 1) {
        const frame = this.frame(Math.min(window.devicePixelRatio || 1, MOST_RATIO));
        if (frame.scale <= 0) return; // the canvas has no size yet
        if (this.canvas.width !== Math.round(frame.width)) this.canvas.width = Math.round(frame.width);
        if (this.canvas.height !== Math.round(frame.height)) this.canvas.height = Math.round(frame.height);
        const pen = this.canvas.getContext("2d");
        pen.clearRect(0, 0, frame.width, frame.height);
        this.cells ??= this.locate(frame, coarse);
        if (this.field !== null) this.paint(pen);
        const ratio = frame.width / this.canvas.clientWidth;
        const path = (lines) => this.path(lines, frame);
        pen.lineJoin = "round";
        this.stroke(pen, path(this.graticule), "rgb(128 134 148 / 45%)", 0.7 * ratio);
        this.stroke(pen, path(this.coastlines), "rgb(20 24 32 / 85%)", 0.9 * ratio);
        const edge = new Path2D();
        for (const [x, y] of this.projection.outline()) {
            edge.lineTo(frame.left + x * frame.scale, frame.top - y * frame.scale);
        }
        this.stroke(pen, edge, "#3a4250", 1.6 * ratio);
    }

    /** Fill the pixels of the sphere with the colours of the field. */
    paint(pen) {
        const { places, width, height, coarse } = this.cells;
        const colours = Uint32Array.from(this.field, (value) =>
            Number.isFinite(value) ? shadeOf(value, this.scale) : MISSING,
        );
        const image = new ImageData(width, height);
        const bits = new Uint32Array(image.data.buffer);
        for (let i = 0; i < places.length; i++) if (places[i] >= 0) bits[i] = colours[places[i]];
        this.shaded.width = width;
        this.shaded.height = height;
        this.shaded.getContext("2d").putImageData(image, 0, 0);
        pen.imageSmoothingEnabled = false;
        pen.drawImage(this.shaded, 0, 0, width * coarse, height * coarse);
    }

    /** Lines on the canvas, parted where they are hidden or leave one side of the map for the other. */
    path(lines, frame) {
        const path = new Path2D();
        for (const line of lines) {
            let before = null;
            for (const [lat, lon] of line) {
                const place = this.projection.forward(lat, lon, this.centre);
                const joins = place && before && Math.abs(place[0] - before[0]) < this.projection.width;
                const to = place && [frame.left + place[0] * frame.scale, frame.top - place[1] * frame.scale];
                if (joins) path.lineTo(...to);
                else if (place) path.moveTo(...to);
                before = place;
            }
        }
        return path;
    }

    stroke(pen, path, colour, width) {
        pen.strokeStyle = colour;
        pen.lineWidth = width;
        pen.stroke(path);
    }
}
