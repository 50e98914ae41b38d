"""Input is held against what the model gives back of it: real months pass, noise and another level are told."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from msgspec import UNSET
from msgspec.structs import replace
from repository_engines import ENGINES, NAMES

from fsae.runtime import Emulator, load
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.bundle.plausible import Limits, Plausible, RoundTrip
from fsae.runtime.cli.main import main
from fsae.runtime.climate.climatology import evaluate, season
from fsae.runtime.codec.encoder_input import Reading, open_fields, open_input
from fsae.runtime.codec.plausibility import spread_out
from fsae.runtime.codec.round_trip import check_round_trip, learned, round_trip
from fsae.runtime.errors import BundleError, DataError
from fsae.runtime.sphere.healpix import coarsen


class Halving:
    """Graphs whose latents are half the field, every fourth pixel, and which give a field of the model's own back."""

    device, backend, precision = "cpu", "none", "fp32"

    def __init__(self, back: np.ndarray) -> None:
        self.back = back

    def encode(self, field: np.ndarray, season: np.ndarray, level_mask: np.ndarray) -> np.ndarray:
        self.mask = level_mask
        return field[..., ::4] / 2

    def decode(self, latent: np.ndarray, season: np.ndarray) -> np.ndarray:
        return self.back

    def denoise(self, inputs: object, graph: str = "denoiser") -> np.ndarray:
        raise NotImplementedError


@pytest.fixture(scope="module")
def emulators() -> dict[str, Emulator]:
    return {name: load(ENGINES / name, "cpu", threads=1) for name in NAMES}


@pytest.fixture(scope="module")
def months(sample_data: Path) -> xr.Dataset:
    """Real months that training never saw."""
    with xr.open_dataset(sample_data / "ncep1-tas-mon-200501-201412.nc") as data:
        return data[["tas"]].load()


def noisy(bundle: Bundle, months: xr.Dataset, deviation: float) -> xr.Dataset:
    """The climatology on HEALPix with noise from cell to cell."""
    zoom = bundle.manifest.grid.zoom
    phase = (np.arange(12) + 0.5) / 12
    fields = evaluate(bundle.tables.climatology, season(phase, bundle.manifest.time.harmonics))[:, 0]
    noise = np.random.default_rng(5).normal(size=fields.shape) * deviation
    mapping = {"grid_mapping_name": "healpix", "refinement_level": zoom, "indexing_scheme": "nested"}
    return xr.Dataset(
        {
            "tas": (("time", "cell"), (fields + noise).astype(np.float32), {"units": "K", "grid_mapping": "crs"}),
            "crs": ((), 0, mapping),
        },
        {"time": months["time"].values[:12], "cell": np.arange(fields.shape[-1])},
    )


def notes_on(emulator: Emulator, data: object, **reading: object) -> list[str]:
    given = open_input(
        emulator.bundle,
        "compress",
        data,  # type: ignore[arg-type]
        Reading(climatology="training", **reading),  # type: ignore[arg-type]
        graphs=emulator.graphs,
    )
    given.close()
    return [note for note in given.notes if "climatology" in note or "encoder and decoder" in note]


def test_error_and_size_in_closed_form() -> None:
    # oracle: 3 K on half of the coarse cells is an RMS of 3 / sqrt(2); a mean of 4 counts half, the spread 3 in full
    values = np.tile(np.array([8.0 + 6, 8.0 - 6], dtype=np.float32), 96)[None, None]  # zoom 2
    coarse = np.tile(np.float32([14, 2]), 24)[None, None]  # zoom 1
    fine = np.repeat(coarse, 4, axis=-1) + np.tile(np.float32([1, -1]), 96)
    back = fine + np.repeat(np.tile(np.float32([3, 0]), 24), 4)
    graphs = Halving(back)
    errors, sizes = round_trip(graphs, (0, 1, 2), ("none",), coarse, np.zeros((1, 2), np.float32))
    np.testing.assert_allclose(errors, [[3 / np.sqrt(2)]], rtol=1e-6)
    np.testing.assert_allclose(sizes, [[np.hypot(3, 2)]], rtol=1e-6)
    assert graphs.mask.tolist() == [[1, 1, 0]]  # the fields resolve no more
    errors, _ = round_trip(Halving(values), (0, 1, 2), ("sqrt",), 0 * values, np.zeros((1, 2), np.float32))
    np.testing.assert_allclose(errors, [[np.sqrt(8)]], rtol=1e-6)  # of square roots: the mean of 14 and 2


def test_limits_follow_from_the_figures() -> None:  # oracle: quantiles of 0 ... 100, and the stated factors
    found = learned(3, np.arange(101.0), np.arange(101.0) / 10, usual=2.0)
    assert found.error == Limits(median=50.0, q99=99.0, warn_above=495.0)
    assert found.latent == Limits(median=5.0, q99=9.9, warn_above=29.7)
    small = learned(0, np.zeros(9), np.ones(9), usual=2.0)  # of a level that is kept as it is
    assert small.error == Limits(median=0.0, q99=0.0, warn_above=1.0)


def test_the_sentence_has_the_figures_and_the_question(default_bundle: Bundle) -> None:  # oracle: the golden sentence
    limits = RoundTrip(
        zoom=5,
        error=Limits(median=0.23, q99=0.29, warn_above=1.0),
        latent=Limits(median=0.9, q99=1.5, warn_above=4.0),
    )
    known = Plausible(median=1, q99=2, warn_above=3, refuse_above=4, round_trips=(limits,))
    manifest = replace(default_bundle.manifest, plausible={"tas": known})
    values = np.full((2, 1, 12288), 280, dtype=np.float32)
    values[1] += 3.1
    graphs = Halving(np.full_like(values, 280))
    notes = check_round_trip(manifest, graphs, values, np.array([0.0, 0.1]), "x.nc", ("2005-01", "2005-02"))
    assert notes == (
        "tas in x.nc comes back from the encoder and decoder with an error of 3.1 K (RMS) at 2005-02 where training "
        "fields have 0.23 K, 99 % of them less than 0.29 K, and latents of size 71 at 2005-02 where training fields "
        "have 0.9, 99 % of them less than 1.5: is this tas, monthly, in K?",
    )
    older = replace(manifest, plausible={"tas": replace(known, round_trips=UNSET)})
    assert check_round_trip(older, graphs, values, np.array([0.0, 0.1]), "x.nc", ("2005-01", "2005-02")) == ()
    coarse = coarsen(values.astype(np.float64), 1).astype(np.float32)
    assert check_round_trip(manifest, graphs, coarse, np.array([0.0, 0.1]), "x.nc", ("2005-01", "2005-02")) == ()


@pytest.mark.parametrize("name", NAMES)
def test_real_months_pass_at_every_zoom(emulators: dict[str, Emulator], months: xr.Dataset, name: str) -> None:
    for zoom in (None, 4, 3, 2, 1, 0):  # oracle: the data, which training never saw
        assert notes_on(emulators[name], months, zoom=zoom) == []


def test_months_of_other_models_pass(emulators: dict[str, Emulator], shared_data: Path) -> None:
    # oracle: they are what the model takes
    for file, names in (
        ("access-esm15-tas-mon-historical-200001-201412-10deg.nc", None),
        ("mpi-esm-lr-tas-uas-vas-mon-2005.nc", None),
        ("glosea4-ts-mon-2011-10members.nc", {"tas": "ts"}),
        ("eraint-5vars-mon-201702-201703.nc", None),
    ):
        for name, emulator in emulators.items():
            assert notes_on(emulator, shared_data / file, names=names) == [], (file, name)


def test_temperature_at_850_hpa_is_told(emulators: dict[str, Emulator], shared_data: Path) -> None:
    # oracle: the level in its name
    with xr.open_dataset(shared_data / "era5-eda-ta-zg-20170101-8members-3deg.nc") as data:
        hourly = data[["ta850"]].load()
    for emulator in emulators.values():
        (note,) = [n for n in notes_on(emulator, hourly, names={"tas": "ta850"}) if "encoder and decoder" in n]
        assert note.endswith("is this tas, monthly, in K?")


def test_noise_as_far_from_the_climatology_as_real_months_is_told_by_its_error(
    emulators: dict[str, Emulator], months: xr.Dataset, tmp_path: Path
) -> None:  # oracle: noise of 1.9 K is nearer than 99 % of the training fields; no code of 16 to 1 holds it
    emulator = emulators["default"]
    noise = noisy(emulator.bundle, months, 1.9)
    (note,) = notes_on(emulator, noise)
    assert "with an error of 1.9 K (RMS) at 2005-" in note
    with pytest.raises(DataError, match=r"error of 1.9 K.* --strict"):
        notes_on(emulator, noise, strict=True)
    emulator.compress_file(noise, tmp_path / "latents.nc", climatology="training")
    with xr.open_dataset(tmp_path / "latents.nc") as latents:
        assert "with an error of 1.9 K" in latents.attrs["comment"]


def test_every_command_tells_it(
    emulators: dict[str, Emulator], months: xr.Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # oracle: the exit codes of the README
    noisy(emulators["default"].bundle, months, 1.9).to_netcdf(tmp_path / "noise.nc")
    data, out = str(tmp_path / "noise.nc"), str(tmp_path / "out.zarr")
    for words in (
        ["compress", data, out],
        ["compress", data, out, "--lossless-latents", "--climatology", "training"],
        ["superres", data, out, "--climatology", "training"],
        ["generate", "--initial", data, "--climatology", "training", "--members", "1", "--steps", "1", "--out", out],
    ):
        assert main(["--model", "default", "--device", "cpu", *words, "--strict"]) == 5, words
        assert "is this tas, monthly, in K" in capsys.readouterr().err


@pytest.mark.parametrize("zoom", [5, 3])
def test_the_shipped_figures_are_those_of_training_months(
    emulators: dict[str, Emulator], sample_data: Path, zoom: int
) -> None:  # oracle: the graphs, called here, on other months of training; quantiles of samples differ a little
    emulator = emulators["default"]
    manifest = emulator.bundle.manifest
    fields = open_fields(emulator.bundle, sample_data / "ncep1-tas-mon-194801-200412.nc")
    places = spread_out(len(fields.times), 50)
    full = np.concatenate([fields.read(slice(place, place + 1))[0] for place in places])
    phase = fields.phase[places]
    fields.close()
    seen = coarsen(full.astype(np.float64), 5 - zoom)
    entered = np.repeat(seen, 4 ** (5 - zoom), axis=-1).astype(np.float32)
    mask = np.tile(np.float32([level <= zoom for level in range(6)]), (len(entered), 1))
    waves = season(phase, manifest.time.harmonics)
    latent = emulator.graphs.encode(entered, waves, mask)
    error = coarsen(emulator.graphs.decode(latent, waves).astype(np.float64), 5 - zoom) - seen
    known = manifest.distances["tas"].round_trip(zoom)
    assert known is not None
    np.testing.assert_allclose(known.error.median, np.median(np.sqrt((error**2).mean(axis=-1))), rtol=0.05)
    sizes = np.hypot(latent.std(axis=-1), latent.mean(axis=-1) / 2)
    np.testing.assert_allclose(known.latent.median, np.median(sizes), rtol=0.1)


def test_a_manifest_has_each_zoom_once_and_only_the_models_own(default_bundle: Bundle) -> None:  # oracle: the sentence
    manifest = default_bundle.manifest
    known = manifest.distances["tas"]
    assert known.round_trips
    with pytest.raises(ValueError, match="round_trips has 2 entries of zoom 0, expected one"):
        replace(known, round_trips=(known.round_trips[0],) * 2)
    strange = replace(known, round_trips=(replace(known.round_trips[0], zoom=7),))
    with pytest.raises(ValueError, match=r"round_trips of tas are of zooms \[7\], expected some of"):
        replace(manifest, plausible={"tas": strange})
    text = manifest.to_json().replace('"q99": 0.184', '"q99": 0.1')
    with pytest.raises(BundleError, match=r"round_trips.* expected rising ones"):
        type(manifest).from_json(text)
