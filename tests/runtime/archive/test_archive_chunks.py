"""Chunks of the archive codec: bounds, the same bits everywhere, damage; with the tables of the shipped bundle."""

import hashlib
import itertools
from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from fsae.runtime.archive import corrections, entropy, transform
from fsae.runtime.archive.chunk import figures_of
from fsae.runtime.archive.codec import Codec
from fsae.runtime.archive.lookup import FILE, find_archive, open_codec
from fsae.runtime.archive.quality import Quality, read_quality
from fsae.runtime.archive.trials import Trials, furthest
from fsae.runtime.codec.encoder_input import open_fields
from fsae.runtime.errors import BundleError, DataError, UsageError
from fsae.runtime.sphere.grids import LatLonGrid
from fsae.runtime.sphere.healpix import surroundings

SAMPLE = "ncep1-tas-mon-200501-201412.nc"
STEPS = 12


@pytest.fixture(scope="module")
def codec(default_bundle):
    return open_codec(default_bundle, "tas", 5)


@pytest.fixture(scope="module")
def months(default_bundle, sample_data):
    """Twelve months of a year nobody trained on (time, cell) [K], and their phases."""
    fields = open_fields(default_bundle, sample_data / SAMPLE)
    return fields.read(slice(0, STEPS))[0, :, 0], fields.phase[:STEPS]


@pytest.mark.parametrize(
    "quality",
    [
        Quality(rmse=0.2),
        Quality(rmse=0.01),
        Quality(max_error=0.5),
        Quality(max_error=0.01),
        Quality(max_error=0.001, relative=True),
        Quality(ratio=64),
    ],
    ids=str,
)
def test_what_was_asked_for_holds(codec: Codec, months, quality: Quality):
    """Oracle: the definition of each quality, computed here from what `decode` gives."""
    values, phase = months
    data, figures = codec.encode(values, phase, quality)
    error = codec.decode(data).astype(np.float64) - values
    if quality.rmse:
        assert np.sqrt((error**2).mean()) <= quality.rmse * (1 + 1e-9)
    if quality.max_error:
        assert (np.abs(error) <= quality.max_error * (np.abs(values) if quality.relative else 1)).all()
    if quality.ratio:
        assert values.nbytes / len(data) >= quality.ratio
    assert figures.largest == np.abs(error).max()
    assert figures.rmse == pytest.approx(np.sqrt((error**2).mean()), rel=1e-9)
    assert figures_of(data).rmse == pytest.approx(figures.rmse, rel=1e-6)


def test_half_the_error_of_jpeg2000_at_64_times(codec: Codec, default_bundle, sample_data):
    """Oracle: the error of the best classical codec at equal bytes on these years, 0.207 K (docstring of the bench)."""
    fields = open_fields(default_bundle, sample_data / SAMPLE)
    values = fields.read(slice(0, 60))[0, :, 0]
    data, figures = codec.encode(values, fields.phase[:60], Quality(ratio=64))
    assert values.nbytes / len(data) >= 64
    assert figures.rmse <= 0.115


def test_missing_and_infinite_values_come_back_exactly(codec: Codec, months):
    """Oracle: the input's own mask and values."""
    values, phase = months[0].copy(), months[1]
    values[:, :100] = np.nan
    values[3, 200] = np.nan
    made = codec.decode(codec.encode(values, phase, Quality(max_error=0.5))[0])
    assert np.array_equal(np.isnan(made), np.isnan(values))
    assert np.nanmax(np.abs(made - values)) <= 0.5


def test_a_season_of_zeros_and_a_wild_value_hold_their_bound(codec: Codec, months):
    """Oracle: the bound, for values that no training field has."""
    values, phase = months[0].copy(), months[1]
    values[0] = 0.0
    values[1, 7] = 3e8
    made = codec.decode(codec.encode(values, phase, Quality(max_error=0.25))[0])
    assert np.abs(made - values).max() <= 0.25


@pytest.mark.parametrize("bound", [1e-12, 1e-17, 1e-300])
def test_a_bound_below_all_resolution_keeps_the_values_exactly(codec: Codec, months, bound):
    """Oracle: the values themselves, as float32 has no other within the bound."""
    values, phase = months
    made = codec.decode(codec.encode(values, phase, Quality(max_error=bound))[0])
    assert np.array_equal(made, values)


def test_decoding_is_the_same_to_the_bit_everywhere(codec: Codec, months):
    """Oracle: the hash of the values of a chunk as first decoded; any machine, any number of threads."""
    values, phase = months
    data, _ = codec.encode(values, phase, Quality(rmse=0.2))
    symbols = np.zeros((STEPS, codec.tables.entries.size), np.int32)
    symbols[:, ::7] = (np.arange(symbols[:, ::7].size).reshape(STEPS, -1) % 41) - 20
    whole = transform.synthesise(codec.tables, symbols)
    assert np.array_equal(whole, np.round(whole))  # integers, so that no order of a sum changes them
    turned = np.asfortranarray(symbols)  # other strides, so other paths through BLAS
    assert np.array_equal(whole, transform.synthesise(codec.tables, turned))
    assert np.array_equal(codec.decode(data), codec.decode(bytes(bytearray(data))))


def test_a_golden_chunk_decodes_to_the_same_bits(codec: Codec):
    """Oracle: the hash of the values when the chunk was written, with one thread or several."""
    folder = Path(__file__).parents[2] / "golden" / "archive"
    data = (folder / "year-2005.fsac").read_bytes()
    known = (folder / "year-2005.sha256").read_text(encoding="ascii").strip()
    for threads in (1, 2):
        with threadpool_limits(threads):
            assert hashlib.sha256(codec.decode(data).astype("<f4").tobytes()).hexdigest() == known


def test_synthesis_undoes_analysis(codec: Codec, months):
    """Oracle: the identity, up to the rounding of coefficients to a fine step."""
    values, phase = months
    anomalies = values - codec.expected(np.round(phase * 4096).astype(int))
    step = 1 / 256
    symbols = np.round(transform.analyse(codec.tables, anomalies) / step).astype(np.int32)
    back = transform.synthesise(codec.tables, symbols) * (step / transform.FINER)
    assert np.sqrt(((back - anomalies) ** 2).mean()) < step


def test_symbols_survive_the_coder(codec: Codec):
    """Oracle: the symbols themselves, with some beyond the tables; their bits are those of the frequencies."""
    tables = codec.tables
    deviation = entropy.deviations(tables, 4)
    corrections = np.zeros(int(tables.groups.max()) + 1, dtype=np.int64)
    corrections[3] = 5
    classes = entropy.classify(tables, deviation, corrections, -64)
    rng = np.random.default_rng(1)
    symbols = np.where(classes >= 0, np.round(rng.normal(size=classes.shape) * 3), 0).astype(np.int32)
    symbols[0, np.flatnonzero(classes[0] >= 0)[:3]] = (1000, -70000, 101)
    coded = entropy.encode(tables, symbols, classes, corrections)
    decoder = entropy.Decoder(coded.words)
    assert np.array_equal(decoder.corrections(corrections.size), corrections)
    assert np.array_equal(decoder.symbols(tables, classes, coded.escapes), symbols)
    assert coded.escapes.size == 3
    alive = (classes >= 0) & (np.abs(symbols) <= 100)
    bits = tables.bits[classes[alive], symbols[alive] + 100].sum()
    assert coded.words.nbytes * 8 == pytest.approx(bits, rel=0.01)


def test_damage_is_refused(codec: Codec, months):
    """Oracle: any flipped bit is a DataError, and never values."""
    values, phase = months
    data, _ = codec.encode(values, phase, Quality(max_error=0.5))
    for place in (*range(40), *range(40, len(data), len(data) // 50)):
        broken = bytearray(data)
        broken[place] ^= 1 << (place % 8)
        with pytest.raises(DataError):
            codec.decode(bytes(broken))
    for size in (0, 3, 20, len(data) - 1):
        with pytest.raises(DataError):
            codec.decode(data[:size])


def test_surroundings_hold_all_neighbours():
    """Oracle: healpy's own neighbours."""
    healpy = pytest.importorskip("healpy", reason="the independent implementation is not installed")
    for zoom in (1, 3, 4):
        around = surroundings(zoom)
        pixels = np.arange(12 << 2 * zoom)
        assert np.array_equal(around[:, 12], pixels)
        for pixel, neighbours in zip(pixels, healpy.get_all_neighbours(1 << zoom, pixels, nest=True).T, strict=True):
            assert set(neighbours[neighbours >= 0]) <= set(around[pixel])


def test_steps_are_powers_of_two():
    """Oracle: 2**(exponent / 32)."""
    for exponent in itertools.chain(range(-70, 70, 7), (320,)):
        assert transform.step_of(exponent) == pytest.approx(2 ** (exponent / 32), rel=1e-6)


def test_a_bundle_is_found_by_the_hash_of_its_tables(default_bundle):
    """Oracle: the SHA-256 of the file; a hash nobody has is a sentence that names it."""
    key = hashlib.sha256((default_bundle.folder / FILE).read_bytes()).hexdigest()
    assert find_archive(key, "default").folder == default_bundle.folder
    with pytest.raises(BundleError, match="no bundle with the archive codec 000000000000"):
        find_archive("0" * 64, "default")
    with pytest.raises(BundleError, match="zoom 5"):
        open_codec(default_bundle, "tas", 3)


def test_qualities_of_options():
    """Oracle: the numbers themselves."""
    assert read_quality("ratio", "64") == Quality(ratio=64)
    assert read_quality("max-error", "0.5%") == Quality(max_error=0.005, relative=True)
    for kind, text in (("rmse", "x"), ("rmse", "-1"), ("rmse", "nan"), ("ratio", "0.5"), ("rmse", "")):
        with pytest.raises(UsageError):
            read_quality(kind, text)


def test_a_lat_lon_grid_is_fitted_well(default_bundle):
    """Oracle: fields of degree 3 are resolved, so interpolating what was fitted gives them back."""
    lat, lon = np.linspace(90, -90, 73), np.arange(144) * 2.5
    grid = open_codec(default_bundle, "tas", LatLonGrid(lat_deg=lat, lon_deg=lon)).grid
    up, around = np.meshgrid(np.radians(lat), np.radians(lon), indexing="ij")
    field = (np.sin(up) ** 3 + np.cos(up) ** 2 * np.cos(2 * around)).reshape(1, -1)
    error = grid.interpolate(grid.fit(field)) - field
    assert np.sqrt((error**2 @ grid.area).item()) < 0.002


def test_trials_foresee_bytes_and_errors(codec: Codec, months):
    """Oracle: the words of the coder, three bytes for each escape, and the errors of its symbols."""
    values, phase = months
    coefficients = transform.analyse(codec.tables, values - codec.expected(np.round(phase * 4096).astype(int)))
    found = Trials(codec.tables, coefficients, cells=values.size, left=0.0)
    for exponent in (-100, -20, 60):
        trial = found.trial(exponent)
        symbols, classes = found.symbols(trial), found.classes(trial)
        coded = entropy.encode(codec.tables, symbols, classes, trial.corrections)
        assert coded.words.nbytes + 3 * coded.escapes.size == pytest.approx(found.size(exponent), rel=0.01, abs=60)
        error = coefficients - symbols * transform.step_of(exponent)
        assert found.error(exponent) == pytest.approx(np.sqrt((error**2).sum() / values.size), rel=1e-9)
        deviation = entropy.deviations(codec.tables, len(coefficients))
        assert np.array_equal(classes, entropy.classify(codec.tables, deviation, trial.corrections, exponent))


def test_the_furthest_number_with_slack():
    """Oracle: a search of all numbers."""
    for edge in (-40, -3, 0, 17, 39, 41):
        found = furthest(lambda number, edge=edge: 0.7 * (edge - number), 5, -40, 40)
        assert found == max((n for n in range(-40, 41) if n <= edge), default=None)
    assert furthest(lambda _: -1.0, 5, -40, 40) is None


def test_few_corrections_take_few_bytes():
    """Oracle: the entropy of 20 ones among 60 x 1,000 zeros, about 290 bits."""
    for points in range(990, 1010):  # rounding may not take a frequency out of its 16 bits
        steps = np.zeros((60, points), dtype=np.int64)
        steps.reshape(-1)[::3001] = 1
        packed = corrections.pack(steps, np.zeros(0, np.intp), np.zeros(0, np.float32))
        assert len(packed) < 150
        assert np.array_equal(corrections.unpack(packed, steps.shape)[0], steps)
