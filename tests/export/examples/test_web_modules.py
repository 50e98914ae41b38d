"""The modules of export/examples/web under Node give the numbers of the runtime."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import cftime
import numpy as np
import pytest

from fsae.runtime.climate.calendar import decimal_year, steps, time_index, year_phase
from fsae.runtime.climate.climatology import evaluate, season
from fsae.runtime.climate.scenarios import Scenarios
from fsae.runtime.climate.steps import CALENDARS
from fsae.runtime.diffusion.noise import member_integers, standard_normal
from fsae.runtime.diffusion.sampler import SAMPLERS, noise_features, noise_levels
from fsae.runtime.diffusion.whitening import seasonal_std, unwhiten
from fsae.runtime.pictures.projections import make_projection
from fsae.runtime.sphere.healpix import pixel_of

WEB = Path(__file__).parents[3] / "export" / "examples" / "web"
ULP32 = 1.2e-7  # of float32, relative


def node(script: str, given: object = None) -> Any:
    """The value of `result` after a script that imports from `web` and takes `given`; skipped without Node."""
    if shutil.which("node") is None:
        pytest.skip("there is no Node: apt-get install nodejs")
    code = f"""
const web = (name) => import({json.dumps(WEB.as_uri() + "/")} + name);
const given = JSON.parse(await new Response(process.stdin).text());
let result;
{script}
console.log(JSON.stringify(result));
"""
    command = ["node", "--input-type=module", "--no-warnings", "-e", code]  # no package.json says that .js are modules
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_noise_is_the_same_to_the_bit() -> None:  # oracle: NumPy's Philox; the normal numbers of the runtime
    cases = [(0, 0, 24000, 0, 8), (7, 3, 24047, 0, 768), (2**64 - 1, 2**63 - 1, -12, 2, 6), (2**53 + 1, 1, 0, 1, 5)]
    script = """
const { memberIntegers, standardNormal } = await web("model/noise.js");
result = given.map((words) => {
    const [seed, member, time, draw, count] = words.map(BigInt);
    const raw = memberIntegers(seed, member, time, draw, Number(count));
    return [Array.from(raw, String), raw.length % 2 ? [] : Array.from(standardNormal(raw))];
});
"""
    found = node(script, [[str(word) for word in case] for case in cases])
    for case, (raw, normal) in zip(cases, found, strict=True):
        expected = member_integers(*case)
        assert [int(word) for word in raw] == expected.tolist()
        if normal:
            same = np.float32(normal) == standard_normal(expected)
            assert same.mean() > 0.999  # log, cos and sin of two libraries differ in the last of 53 bits
            np.testing.assert_allclose(normal, standard_normal(expected), rtol=ULP32)


@pytest.mark.parametrize("name", ["dpm2m", "euler", "heun"])
def test_samplers_are_those_of_the_runtime(name: str) -> None:  # oracle: the runtime, on a denoiser that is no line
    facts = {"name": name, "steps": 5, "sigma_min": 0.03, "sigma_max": 80.0, "rho": 100.0}
    noise = np.random.default_rng(1).normal(size=64).astype(np.float32)
    script = """
const { SAMPLERS, denoiserCalls, noiseFeatures, noiseLevels } = await web("model/sampler.js");
let calls = 0;
const denoise = async (noisy, sigma) => { calls++; return noisy.map((x) => Math.tanh(x) / (1 + sigma)); };
const levels = noiseLevels(given.facts);
const state = await SAMPLERS[given.facts.name](denoise, Float32Array.from(given.noise), levels);
const features = Array.from(noiseFeatures(0.3, 16));
result = { levels, features, state: Array.from(state), calls: [calls, denoiserCalls(given.facts)] };
"""
    found = node(script, {"facts": facts, "noise": noise.tolist()})
    levels = noise_levels(5, 0.03, 80.0, 100.0)
    np.testing.assert_allclose(found["levels"], levels, rtol=1e-12)
    np.testing.assert_allclose(found["features"], noise_features(np.array([0.3]))[0], atol=ULP32)
    expected = SAMPLERS[name](lambda noisy, sigma: np.tanh(noisy) / np.float32(1 + sigma), noise, levels)
    np.testing.assert_allclose(found["state"], expected, atol=1e-5)  # of states up to 300: their rounding
    assert found["calls"][0] == found["calls"][1]


def test_whitening_and_climatology_are_those_of_the_runtime() -> None:  # oracle: the runtime
    draw, zooms = np.random.default_rng(5), (0, 1, 3)
    white, cells = (draw.normal(size=(2, 768)).astype(np.float32) for _ in range(2))
    waves, levels = draw.normal(scale=0.3, size=(2, 4, 768)).astype(np.float32), np.float32([[1, 2, 3], [0.5, 1, 2]])
    coefficients = draw.normal(size=(2, 9, 48)).astype(np.float32)
    features = season(np.array([0.37]), 4)[0]
    script = """
const { seasonalStd, unwhiten } = await web("model/whitening.js");
const { climatologyOf, seasonFeatures } = await web("model/climatology.js");
const table = ({ shape, values }) => ({ shape, values: Float32Array.from(values) });
const season = seasonFeatures(0.37, 4);
const deviation = seasonalStd(table(given.cells), table(given.waves), season);
result = {
    season: Array.from(season),
    latent: Array.from(unwhiten(Float32Array.from(given.white), [0, 1, 3], deviation, table(given.levels))),
    still: Array.from(seasonalStd(table(given.cells), undefined, season)),
    mean: Array.from(climatologyOf(table(given.coefficients), 1, season)),
};
"""
    arrays = {"cells": cells, "waves": waves, "levels": levels, "coefficients": coefficients}
    tables = {name: {"shape": array.shape, "values": array.ravel().tolist()} for name, array in arrays.items()}
    found = node(script, {**tables, "white": white.ravel().tolist()})
    np.testing.assert_allclose(found["season"], features, atol=ULP32)
    expected = unwhiten(white, zooms, seasonal_std(cells, waves, features), levels)
    np.testing.assert_allclose(found["latent"], expected.ravel(), atol=2e-5)  # of values up to 70
    np.testing.assert_allclose(found["still"], cells.ravel())
    np.testing.assert_allclose(found["mean"], evaluate(coefficients, features)[1], atol=2e-6)


@pytest.mark.parametrize("methods", ["time: mean", "area: mean time: point"])
def test_months_are_those_of_every_calendar(methods: str) -> None:  # oracle: the runtime, by cftime
    script = """
const { laterMonth, monthIndex, yearPhase } = await web("model/calendar.js");
result = given.calendars.map((calendar) => Array.from({ length: 30 }, (_, i) => {
    const month = laterMonth({ year: 1899, month: 11 }, i);
    return [monthIndex(month), month.year + yearPhase(calendar, given.methods, month)];
}));
"""
    found = node(script, {"calendars": CALENDARS, "methods": methods})
    for calendar, months in zip(CALENDARS, found, strict=True):
        stamps = steps(cftime.datetime(1899, 11, 1, calendar=calendar), 30, "1 month", calendar)
        index = [time_index(stamp, "1 month") for stamp in stamps]
        np.testing.assert_allclose(months, np.stack([index, decimal_year(stamps, "1 month", methods)], 1), rtol=1e-14)
        phases = [year % 1 for _, year in months]
        np.testing.assert_allclose(phases, year_phase(stamps, "1 month", methods), atol=1e-12)


def test_forcings_are_those_of_the_runtime() -> None:  # oracle: the runtime's scenarios
    years, values = np.arange(1990.0, 1996.0), {"past": np.array([0.0, 1, 2, 0, 3, 3]), "warm": np.full(6, 4.0)}
    scenarios = Scenarios(years=years, values=values, response_years=3.9)
    times = [1990.01, 1990.5, 1993.2, 1995.9, 1996.0]
    script = """
const { forcingAt, forcingNote } = await web("model/forcing.js");
const sentence = (run) => { try { return run(); } catch (error) { return `${error.name}: ${error.message}`; } };
const { known, times } = given;
result = {
    past: Array.from(forcingAt(known, { scenario: "past" }, times, 5)),
    kept: Array.from(forcingAt(known, { scenario: "past" }, times, 3)),
    year: Array.from(forcingAt(known, { constant: 1993.2 }, times, 5)),
    watts: Array.from(forcingAt(known, { constant: 2.5 }, times, 5)),
    calendar: Array.from(forcingAt({ range: [1990, 2000] }, {}, times, 5)),
    outside: sentence(() => forcingAt(known, { scenario: "past" }, [1989.9], 1)),
    beyond: [forcingNote(known, [0, 1]), forcingNote(known, [0, 2]), sentence(() => forcingNote(known, [99]))],
};
"""
    known = {"name": "forcing", "units": "W m-2", "range": [0, 1], "scenarios": list(values), "response_years": 3.9}
    known |= {"years": years.tolist(), "values": {name: series.tolist() for name, series in values.items()}}
    found = node(script, {"known": known, "times": times})
    past = scenarios.at("past", np.array(times))
    np.testing.assert_allclose(found["past"], past, rtol=ULP32)
    np.testing.assert_allclose(found["kept"], [*past[:3], past[2], past[2]], rtol=ULP32)
    np.testing.assert_allclose(found["year"], [past[2]] * 5, rtol=ULP32)
    assert found["watts"] == [2.5] * 5
    np.testing.assert_allclose(found["calendar"], times, rtol=ULP32)
    assert found["outside"].startswith('Refused: The forcing "past" is known from 1990 to 1995, found 1989.90')
    assert found["beyond"][0] == ""
    assert "outside the 0.00 to 1.00 W m-2" in found["beyond"][1]
    assert found["beyond"][2].startswith("Refused: The forcing (forcing) is 99.00, far outside")


def test_places_are_found_on_globe_and_map() -> None:
    # oracles: the library healpix; the runtime's orthographic projection; there and back, and even areas, for the map
    draw = np.random.default_rng(4)
    lat, lon = np.degrees(np.arcsin(draw.uniform(-1, 1, 2000))), draw.uniform(-360, 360, 2000)
    script = """
const { pixelFinder } = await web("picture/healpix.js");
const { PROJECTIONS } = await web("picture/projections.js");
const radians = (degrees) => (degrees * Math.PI) / 180;
const centre = { lat: radians(25), lon: radians(10) };
const points = given.lat.map((lat, i) => [radians(lat), radians(given.lon[i])]);
const back = (name, [lat, lon]) => {
    const { forward, inverse } = PROJECTIONS[name];
    const [place, point] = [forward(lat, lon, centre), {}];
    if (place === null) return 0;
    if (!inverse(...place, centre, point)) return 9;
    return Math.hypot(point.sine - Math.sin(lat), Math.cos(lat) * Math.sin((point.lon - lon) / 2));
};
const corners = (lat, lon, step) => [[0, 0], [0, step], [step, step], [step, 0]].map(([a, b]) => [lat + a, lon + b]);
const area = (shape) => shape.reduce((sum, [x, y], i) => {
    const [across, up] = shape[(i + 1) % shape.length];
    return sum + (x * up - across * y) / 2;
}, 0);
result = {
    pixels: [0, 1, 5, 9].map((zoom) => points.map(([lat, lon]) => pixelFinder(zoom)(Math.sin(lat), lon))),
    globe: points.map(([lat, lon]) => PROJECTIONS.globe.forward(lat, lon, centre)),
    back: ["globe", "map"].map((name) => Math.max(...points.map((point) => back(name, point)))),
    areas: [-80, -30, 0, 60, 85].map((degrees) => {
        const [lat, step] = [radians(degrees), 1e-4];
        const shape = corners(lat, 0.3, step).map(([a, b]) => PROJECTIONS.map.forward(a, b, { lat: 0, lon: 0 }));
        return area(shape) / (step * (Math.sin(lat + step) - Math.sin(lat)));
    }),
    size: [PROJECTIONS.map.width, PROJECTIONS.map.height],
};
"""
    found = node(script, {"lat": lat.tolist(), "lon": lon.tolist()})
    for zoom, pixels in zip((0, 1, 5, 9), found["pixels"], strict=True):
        np.testing.assert_array_equal(pixels, pixel_of(zoom, lat, lon))
    x, y = make_projection("orthographic", "10,25").forward(lat, lon)
    places = np.array([place or (np.nan, np.nan) for place in found["globe"]])
    np.testing.assert_allclose(places, np.stack([x, y], axis=1), atol=1e-12)
    assert max(found["back"]) < 1e-6  # the square root of rounding, at the edge of the globe
    np.testing.assert_allclose(found["areas"], 1, atol=1e-6)
    np.testing.assert_allclose(found["size"], [2.7066, 1.3174], atol=1e-4)  # Savric et al. 2018
