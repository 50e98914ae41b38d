// The page: controls, what has been drawn, and the picture of it.

import { openBundle, openRuntime, ORT, WASM } from "./model/bundle.js";
import { climatologyOf } from "./model/climatology.js";
import { forcingNote } from "./model/forcing.js";
import { drawMember, timeline } from "./model/members.js";
import { Refused } from "./model/refused.js";
import { drawBar, scaleOf } from "./picture/colours.js";
import { FieldMap, linesOf } from "./picture/map.js";

const MONTHS = "January February March April May June July August September October November December".split(" ");
const FRAME_MS = 250; // of the animation
const CONSTANT = "constant";

/** What was drawn last: the request, and its months as drawMember yields them. */
export const drawn = { request: null, months: [] };

const differences = new WeakMap(); // by months that were drawn: the fields of variables minus their climatology
let bundle, map, drawing, playing;

const at = (id) => document.getElementById(id);
const dateOf = ({ year, month }) => `${MONTHS[month - 1]} ${year}`;
const settings = () => at("request").elements;

/** Load what the page needs, offer the controls, and draw a first member. */
export async function run(files) {
    const first = [ORT, WASM, "coastlines.json", ...files.names.filter((name) => /^bundle\/(?!fast)/.test(name))];
    const total = first.reduce((sum, name) => sum + files.size(name), 0);
    const megabytes = (bytes) => (bytes / 1e6).toFixed(1);
    let loaded = 0;
    const read = async (name) => {
        const bytes = await files.read(name);
        loaded += bytes.byteLength;
        if (loaded <= total) tell(`Loading: ${megabytes(loaded)} of ${megabytes(total)} MB.`, loaded / total);
        return bytes;
    };
    tell("Loading.", 0);
    const ort = await openRuntime(read);
    bundle = await openBundle(read, ort);
    const coastlines = JSON.parse(new TextDecoder().decode(await read("coastlines.json")));
    map = new FieldMap(at("map"), bundle.manifest.grid.zoom, linesOf(coastlines));
    offer(ort.env.versions.web);
    listen();
    await Promise.all([bundle.graph("denoiser"), bundle.graph("decoder")]);
    await draw();
}

/** Say what the page is doing, and how much of it is done; without a share the bar goes. */
function tell(sentence, share) {
    at("status").textContent = sentence;
    at("progress").hidden = share === undefined;
    at("progress").value = share ?? 0;
}

/** Say why something that was asked for cannot be done; an empty sentence takes an earlier one away. */
function refuse(sentence) {
    at("problem").textContent = sentence;
    at("problem").hidden = sentence === "";
}

/** Fill the controls with what the bundle offers. */
function offer(version) {
    const { manifest, forcing } = bundle;
    const { month, year, variable, values, sampler, forcing: choice } = settings();
    MONTHS.forEach((name, i) => month.add(new Option(name, i + 1)));
    year.value = Number(manifest.provenance.period[1].slice(0, 4)); // the last year of the training data
    (forcing.scenarios ?? []).forEach((name) => choice.add(new Option(name)));
    if (!forcing.scenarios?.length) choice.add(new Option(forcing.name, ""));
    choice.add(new Option("constant, or of a year", CONSTANT));
    settings().level.value = forcing.range[1];
    at("level").title = `The ${forcing.name} [${forcing.units}], or a year that has it`;
    sampler.add(new Option("default", "default"));
    if (manifest.fast) sampler.add(new Option(`fast (${manifest.fast.steps} steps)`, "fast"));
    manifest.variables.forEach(({ long_name: name }, i) => variable.add(new Option(name, i)));
    at("several").hidden = manifest.variables.length === 1;
    values.add(new Option("as they are", "field"));
    values.add(new Option("anomalies", "difference"));
    const fields = manifest.variables.map(({ long_name: name }) => name).join(", ");
    at("lead").textContent =
        `The diffusion model of the bundle \u201c${manifest.name}\u201d draws ${fields} in this browser; ` +
        "nothing is sent anywhere.";
    at("foot").textContent =
        `HEALPix zoom ${manifest.grid.zoom}, ${12 * 4 ** manifest.grid.zoom} cells, ` +
        `latents of ${manifest.latent.shape[1]} \u00b7 ONNX Runtime Web ${version} \u00b7 ` +
        "equal to fsae-run generate with the same member, seed, start and forcing, to rounding";
    at("what").disabled = at("view").disabled = false;
}

/** Let the controls do what they say. */
function listen() {
    at("request").addEventListener("submit", (event) => {
        event.preventDefault();
        draw();
    });
    at("stop").addEventListener("click", () => drawing.abort(new Refused("")));
    settings().forcing.addEventListener("change", () => {
        at("level").hidden = settings().forcing.value !== CONSTANT;
    });
    at("time").addEventListener("input", show);
    at("play").addEventListener("click", () => play(!playing));
    at("view").addEventListener("change", (event) => {
        if (event.target.name === "projection") map.project(event.target.value);
        else show();
    });
    at("map").addEventListener("pointermove", (event) => readOut(map.under(event)));
    at("map").addEventListener("pointerleave", () => readOut(null));
    new ResizeObserver(show).observe(at("bar"));
}

/** A whole number of a control, as BigInt; Refused if it is none, or not below a limit. */
function whole(control, limit) {
    const number = /^\d+$/.test(control.value) ? BigInt(control.value) : limit;
    if (number >= limit) {
        const found = `Found the ${control.name} "${control.value}"`;
        throw new Refused(`${found}, expected 0 to ${limit - 1n}: write its digits.`);
    }
    return number;
}

/** The request that the controls describe; Refused for one that cannot be. */
function requested() {
    const { member, seed, month, year, months, forcing, level, sampler } = settings();
    const choice = forcing.value === "" ? {} : { scenario: forcing.value };
    if (forcing.value === CONSTANT && level.value === "") throw new Refused("The forcing has no value: give one.");
    return {
        member: whole(member, 2n ** 63n),
        seed: whole(seed, 2n ** 64n),
        start: { year: Number(year.value), month: Number(month.value) },
        months: Number(months.value),
        forcing: forcing.value === CONSTANT ? { constant: Number(level.value) } : choice,
        fast: sampler.value === "fast",
    };
}

/** Draw the member that is asked for, in place of what is being drawn, and show it as it comes. */
async function draw() {
    let request, note;
    try {
        request = requested();
        const asked = timeline(bundle, request).slice(0, request.months);
        note = forcingNote(bundle.forcing, asked.map((step) => step.forcing));
    } catch (error) {
        refuse(sentenceOf(error));
        return;
    }
    drawing?.abort(new Refused(""));
    const mine = (drawing = new AbortController());
    play(false);
    refuse("");
    at("note").textContent = note;
    at("note").hidden = note === "";
    at("stop").disabled = false;
    at("time").value = 0;
    Object.assign(drawn, { request, months: [] });
    const began = performance.now();
    const told = (share) => tell(`Drawing member ${request.member}: ${Math.round(100 * share)} %.`, share);
    try {
        for await (const month of drawMember(bundle, request, told, mine.signal)) {
            drawn.months.push(month);
            at("time").max = drawn.months.length - 1;
            at("time").disabled = at("play").disabled = drawn.months.length < 2;
            if (drawn.months.length === 1) show();
        }
        show();
        const seconds = ((performance.now() - began) / 1000).toFixed(1);
        tell(`Member ${request.member}, ${request.months} months: drawn in ${seconds} s.`);
    } catch (error) {
        if (drawing !== mine) return; // another request has taken its place
        tell(`Stopped after ${drawn.months.length} of ${request.months} months.`);
        refuse(sentenceOf(error));
    }
    at("stop").disabled = true;
}

/** The sentence of an error, empty if the user stopped it. */
function sentenceOf(error) {
    return error instanceof Refused ? error.message : `Drawing failed: ${error.message}.`;
}

/** The values (pixel) of a variable in a month that was drawn, or their difference from the climatology. */
function valuesOf(month, variable, isDifference) {
    const n = month.field.length / bundle.manifest.variables.length;
    const values = month.field.subarray(variable * n, (variable + 1) * n);
    if (!isDifference) return values;
    if (!differences.has(month)) differences.set(month, []);
    const known = differences.get(month);
    if (known[variable] === undefined) {
        const mean = climatologyOf(bundle.tables.climatology, variable, month.season);
        known[variable] = values.map((value, p) => value - mean[p]);
    }
    return known[variable];
}

/** Show the month that the slider stands at. */
function show() {
    if (drawn.months.length === 0) return;
    const { variable, values: kind } = settings();
    const facts = bundle.manifest.variables[variable.value];
    const isDifference = kind.value === "difference" && facts.transform === "none"; // else of other units
    const fields = drawn.months.map((month) => valuesOf(month, Number(variable.value), isDifference));
    const place = Math.min(Number(at("time").value), fields.length - 1);
    const scale = scaleOf(fields, isDifference); // of all months, so that colours mean the same in each
    map.show(fields[place], scale);
    const years = bundle.manifest.provenance.period.map((date) => date.slice(0, 4)).join("\u2013");
    const label = isDifference ? `${facts.units}, minus the mean annual cycle of ${years}` : facts.units;
    drawBar(at("bar"), scale, label);
    const date = dateOf(drawn.months[place].month);
    const mean = fields[place].reduce((sum, value) => sum + value / fields[place].length, 0);
    at("date").textContent = date;
    at("time").setAttribute("aria-valuetext", date);
    at("title").textContent = `${facts.long_name} \u00b7 member ${drawn.request.member} \u00b7 ${date}`;
    const ends = `${scale.low.toPrecision(4)} to ${scale.high.toPrecision(4)} ${label}`;
    at("bar").setAttribute("aria-label", `Colour bar, ${ends}`);
    const said = `${at("title").textContent}, global mean ${mean.toFixed(2)} ${facts.units}`;
    at("map").setAttribute("aria-label", said);
    readOut(null);
}

/** Write the value of the cell that is pointed at, or the global mean. */
function readOut(place) {
    if (map.field === null) return;
    const { units } = bundle.manifest.variables[settings().variable.value];
    const minus = (text) => text.replace("-", "\u2212");
    if (place === null) {
        const mean = map.field.reduce((sum, value) => sum + value / map.field.length, 0);
        at("reading").textContent = `Global mean: ${minus(mean.toFixed(2))} ${units}`;
        return;
    }
    const [lat, lon] = [Math.abs(place.lat).toFixed(1), Math.abs(place.lon).toFixed(1)];
    const where = `${lat}\u00b0 ${place.lat < 0 ? "S" : "N"}, ${lon}\u00b0 ${place.lon < 0 ? "W" : "E"}`;
    at("reading").textContent = `${where}: ${minus(map.field[place.pixel].toFixed(2))} ${units}`;
}

/** Start or stop the animation through the months that are drawn. */
function play(on) {
    clearInterval(playing);
    playing = undefined;
    at("play").textContent = on ? "Pause" : "Play";
    at("play").setAttribute("aria-pressed", String(on));
    if (!on) return;
    playing = setInterval(() => {
        at("time").value = (Number(at("time").value) + 1) % drawn.months.length;
        show();
    }, FRAME_MS);
}
