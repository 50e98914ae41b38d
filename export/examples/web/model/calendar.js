// Months of a CF calendar as the model sees them, as in calendar.py of fsae.runtime.climate.
// A month is {year, month}, the month from 1 to 12.

import { Refused } from "./refused.js";

/** Days of each month of a year; Refused before 1583 in the mixed calendar, which changes from Julian to Gregorian. */
export function monthDays(calendar, year) {
    if (calendar === "360_day") return Array(12).fill(30);
    let leap = year % 4 === 0 && (calendar === "julian" || year % 100 !== 0 || year % 400 === 0);
    if (calendar === "noleap" || calendar === "365_day") leap = false;
    if (calendar === "all_leap" || calendar === "366_day") leap = true;
    if ((calendar === "standard" || calendar === "gregorian") && year < 1583) {
        throw new Refused(`The page knows the calendar ${calendar} from 1583 on only: choose a later start.`);
    }
    return [31, leap ? 29 : 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
}

/** True if cell_methods say that values are those of an instant, not averages. */
export function isPoint(cellMethods) {
    return /\btime:\s*(?:\w+:\s*)*(\w+)/.exec(cellMethods)?.[1] === "point";
}

/** The fraction of the year passed in a month: at its middle for averages, at its beginning for instants. */
export function yearPhase(calendar, cellMethods, { year, month }) {
    const days = monthDays(calendar, year);
    const sum = (part) => part.reduce((total, count) => total + count, 0);
    const within = isPoint(cellMethods) ? 0 : days[month - 1] / 2;
    return (sum(days.slice(0, month - 1)) + within) / sum(days);
}

/** The number of a month, which names its noise: 12 * year + month - 1. */
export const monthIndex = ({ year, month }) => 12 * year + month - 1;

/** The month that is `count` months after another one. */
export function laterMonth(from, count) {
    const index = monthIndex(from) + count;
    return { year: Math.floor(index / 12), month: (index % 12) + 1 };
}
