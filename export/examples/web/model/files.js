// Files of the page, each compared with the size and SHA-256 of files.json before it is used.

import { Refused } from "./refused.js";

const AGAIN = "write the page again with fsae-export --web, or copy all of it";

/** The integrity metadata of fetch() for a hexadecimal SHA-256: the browser itself refuses other bytes. */
function integrity(sha256) {
    const bytes = sha256.match(/../g).map((pair) => parseInt(pair, 16));
    return `sha256-${btoa(String.fromCharCode(...bytes))}`;
}

/** The reason why a file cannot be had: it is not there, or its bytes are other ones. */
async function reason(url, name) {
    const plain = await fetch(url).catch(() => null);
    if (plain === null) return `${name} cannot be loaded: is the server still running?`;
    if (!plain.ok) return `${name} cannot be loaded (${plain.status}): ${AGAIN}.`;
    return `${name} is not the file that files.json lists: ${AGAIN}.`;
}

/** What the page consists of: `sizes` of its files by name [bytes], and `read(name)`, which promises an ArrayBuffer. */
export async function openFiles(base) {
    const url = new URL("files.json", base);
    const answer = await fetch(url, { cache: "no-cache" }).catch(() => null);
    if (!answer?.ok) throw new Refused(await reason(url, "files.json"));
    const { files } = await answer.json();
    const read = async (name) => {
        const place = new URL(name, base);
        const options = { integrity: integrity(files[name].sha256), cache: "no-cache" };
        const found = await fetch(place, options).catch(() => null);
        if (!found?.ok) throw new Refused(await reason(place, name));
        return found.arrayBuffer();
    };
    return { names: Object.keys(files), size: (name) => files[name].size, read };
}
