// The forcing of an ensemble, as in forcing.py of fsae.runtime.ensemble and scenarios.py of fsae.runtime.climate: a
// scenario, a constant, the forcing of one year, or, for a bundle without scenarios, the calendar year.
//
// A choice is {scenario: name}, {constant: number} or {} (the calendar year). A bundle's forcing is {name, units,
// range, scenarios, response_years} of the manifest, with the series {years, values: {name: series}} of its tables.

import { Refused } from "./refused.js";

const FIRST_YEAR = 1000; // a constant from here on is a year, where the forcing has another unit
// Times the width of the training range: further outside the emulator says nothing about the climate.
const FAR = { years: 3, response: 5 };

/** The part of a yearly series that the climate has responded to: relaxation to each value within a year. */
export function responded(values, responseYears) {
    const found = Float64Array.from(values);
    const share = responseYears > 0 ? 1 - Math.exp(-1 / responseYears) : 1;
    for (let i = 1; i < found.length; i++) found[i] = found[i - 1] + share * (found[i] - found[i - 1]);
    return found;
}

/** The forcing of a scenario at a decimal year, linear between the middles of years; Refused outside its years. */
export function scenarioAt(forcing, name, decimalYear) {
    const [first, last] = [forcing.years[0], forcing.years[forcing.years.length - 1]];
    if (!(decimalYear >= first && decimalYear <= last + 1)) {
        throw new Refused(
            `The forcing "${name}" is known from ${first} to ${last}, found ${decimalYear.toFixed(2)}: ` +
                "choose months within these years, or a constant forcing.",
        );
    }
    const series = responded(forcing.values[name], forcing.response_years ?? 0);
    const place = Math.min(Math.max(decimalYear - first - 0.5, 0), series.length - 1);
    const before = Math.min(Math.floor(place), series.length - 2);
    return series[before] + (place - before) * (series[before + 1] - series[before]);
}

/**
 * The forcing (Float32Array) of steps at decimal years, of which the first `count` were asked for.
 *
 * The steps beyond these, which fill the last window, keep a scenario's last year that was asked for.
 */
export function forcingAt(forcing, choice, decimalYears, count) {
    if (choice.constant !== undefined) {
        const isYear = forcing.scenarios?.length > 0 && choice.constant >= FIRST_YEAR;
        const value = isYear ? scenarioAt(forcing, forcing.scenarios[0], choice.constant) : choice.constant;
        return new Float32Array(decimalYears.length).fill(value);
    }
    if (choice.scenario === undefined) return Float32Array.from(decimalYears);
    const last = decimalYears[count - 1];
    return Float32Array.from(decimalYears, (year) => scenarioAt(forcing, choice.scenario, Math.min(year, last)));
}

/** A warning if the forcing leaves the range of the training data, else ""; Refused if it is far outside. */
export function forcingNote(forcing, values) {
    const [low, high] = forcing.range;
    const [least, most] = [Math.min(...values), Math.max(...values)];
    if (low <= least && most <= high) return "";
    const known = forcing.scenarios?.length > 0;
    const runs = least === most ? `is ${least.toFixed(2)}` : `runs from ${least.toFixed(2)} to ${most.toFixed(2)}`;
    const range = `${low.toFixed(2)} to ${high.toFixed(2)} ${forcing.units} that the model was trained on`;
    if (Math.max(low - least, most - high) > (known ? FAR.response : FAR.years) * (high - low)) {
        throw new Refused(`The forcing (${forcing.name}) ${runs}, far outside the ${range}: choose a nearer one.`);
    }
    const beyond = known
        ? "the mean climate follows it at the rate of the training data"
        : "the nearer end of that range is used";
    return `The forcing (${forcing.name}) ${runs}, outside the ${range}: ${beyond} there.`;
}
