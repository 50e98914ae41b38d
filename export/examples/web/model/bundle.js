// A bundle as the page sees it: the manifest, tables, and graphs as functions of named arrays.

import { Refused } from "./refused.js";

const ARRAYS = { float32: Float32Array, float64: Float64Array };

export const ORT = "ort/ort.wasm.bundle.min.mjs";
export const WASM = "ort/ort-wasm-simd-threaded.wasm";

const parse = (bytes) => JSON.parse(new TextDecoder().decode(bytes));

/**
 * ONNX Runtime Web from the bytes of its files, so that nothing else is loaded.
 *
 * One thread: more need headers (cross-origin isolation) that simple servers do not send.
 */
export async function openRuntime(read) {
    const url = URL.createObjectURL(new Blob([await read(ORT)], { type: "text/javascript" }));
    try {
        const ort = await import(url);
        ort.env.wasm.wasmBinary = await read(WASM);
        ort.env.wasm.numThreads = 1;
        ort.env.logLevel = "error";
        return ort;
    } finally {
        URL.revokeObjectURL(url);
    }
}

/** Tables by name, as {shape, values}, from tables.json (types, shapes and offsets) and tables.bin (little-endian). */
export async function readTables(read) {
    const index = parse(await read("bundle/tables.json"));
    const bytes = await read("bundle/tables.bin");
    const table = ({ dtype, shape, offset }) => {
        const length = shape.reduce((product, size) => product * size, 1);
        return { shape, values: new ARRAYS[dtype](bytes, offset, length) };
    };
    return Object.fromEntries(Object.entries(index).map(([name, entry]) => [name, table(entry)]));
}

/** The manifest's forcing with the series of its scenarios, {years, values: {name: series}}, if it has any. */
export function forcingOf(manifest, tables) {
    const forcing = manifest.denoiser.forcing;
    if (!forcing.scenarios?.length) return forcing;
    const { years, series } = { years: tables.forcing_years.values, series: tables.forcing_scenarios.values };
    const part = (i) => series.subarray(i * years.length, (i + 1) * years.length);
    return { ...forcing, years, values: Object.fromEntries(forcing.scenarios.map((name, i) => [name, part(i)])) };
}

/**
 * A graph as a function: `rows` and {input name: Float32Array of all rows} to a promise of the output of all rows.
 *
 * Dense maps, which are stored as bytes, become numbers when a graph is opened and not in each call.
 */
async function openGraph(ort, model, name) {
    const extra = { session: { disable_quant_qdq: "1" } };
    const session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"], extra });
    const shapes = Object.fromEntries(session.inputMetadata.map((input) => [input.name, input.shape.slice(1)]));
    return async (rows, given) => {
        const feeds = {};
        for (const [input, shape] of Object.entries(shapes)) {
            if (given[input] === undefined) throw new Refused(`The graph ${name} asks for ${input}, an unknown input.`);
            feeds[input] = new ort.Tensor("float32", given[input], [rows, ...shape]);
        }
        const result = await session.run(feeds);
        return result[session.outputNames[0]].data;
    };
}

/**
 * A bundle: its `manifest`, `tables`, `forcing`, and `graph(name)`, which opens each graph once.
 *
 * `read` takes the name of a file and promises its bytes (see files.js), `ort` is ONNX Runtime (see openRuntime).
 */
export async function openBundle(read, ort) {
    const manifest = parse(await read("bundle/manifest.json"));
    const tables = await readTables(read);
    const graphs = {};
    const open = async (name) => openGraph(ort, await read(`bundle/${name}.fp32.onnx`), name);
    const graph = (name) => (graphs[name] ??= open(name));
    return { manifest, tables, forcing: forcingOf(manifest, tables), graph };
}
