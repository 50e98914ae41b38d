"""Latents that were edited are refused where no checksum tells; real ones of every kind pass."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from msgspec.structs import replace
from repository_engines import ENGINES, NAMES

from fsae.runtime import Emulator, load
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.bundle.plausible import Plausible
from fsae.runtime.climate.climatology import season
from fsae.runtime.codec.edited import Decoded, check_edited
from fsae.runtime.codec.encoder_input import open_fields
from fsae.runtime.errors import DataError
from fsae.runtime.jobs.job import Writing

Change = Callable[[np.ndarray], np.ndarray]


@pytest.fixture(scope="module")
def emulators() -> dict[str, Emulator]:
    return {name: load(ENGINES / name, "cpu", threads=1) for name in NAMES}


@pytest.fixture(scope="module")
def months(sample_data: Path) -> xr.Dataset:
    """Two years that training never saw."""
    with xr.open_dataset(sample_data / "ncep1-tas-mon-200501-201412.nc") as data:
        return data[["tas"]].isel(time=slice(0, 24)).load()


@pytest.fixture(scope="module")
def latents(emulators: dict[str, Emulator], months: xr.Dataset) -> dict[str, xr.Dataset]:
    return {name: emulator.compress(months, climatology="training") for name, emulator in emulators.items()}


def edited(latents: xr.Dataset, change: Change) -> xr.Dataset:
    return latents.assign(tas=latents["tas"].copy(data=change(latents["tas"].values.copy())))


def in_another_order(values: np.ndarray) -> np.ndarray:
    return values[..., np.random.default_rng(1).permutation(values.shape[-1])]


def only_in(month: int, change: Change) -> Change:
    def changed(values: np.ndarray) -> np.ndarray:
        values[month] = change(values[month])
        return values

    return changed


@pytest.mark.parametrize("name", NAMES)
def test_real_latents_pass_without_a_word(
    name: str, emulators: dict[str, Emulator], latents: dict[str, xr.Dataset]
) -> None:  # oracle: real months, alone and together
    for part in (latents[name], latents[name].isel(time=[7])):
        assert "comment" not in emulators[name].decompress(part).attrs


@pytest.mark.parametrize(
    ("name", "change"),  # other engines have few cells, whose order does not show
    [
        ("default", in_another_order),
        ("ratio-4", in_another_order),
        ("ratio-4", only_in(10, in_another_order)),  # which is not among those that are looked at first
    ],
)
def test_cells_in_another_order_are_refused(
    name: str, change: Change, emulators: dict[str, Emulator], latents: dict[str, xr.Dataset]
) -> None:  # oracle: what was done to the latents
    with pytest.raises(DataError, match=r"the latents of tas in .* in random order .* --force goes on"):
        emulators[name].decompress(edited(latents[name], change))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [5.3, 0.0])
def test_one_value_everywhere_is_refused(
    name: str, value: float, emulators: dict[str, Emulator], latents: dict[str, xr.Dataset]
) -> None:  # oracle: what was done to the latents, of all months and of one
    def constant(values: np.ndarray) -> np.ndarray:
        return np.full_like(values, value)

    for change, when in ((constant, "2005-01"), (only_in(10, constant), "2005-11")):
        with pytest.raises(DataError, match=f"the latents of tas in .* are {value:g} in every cell at {when}"):
            emulators[name].decompress(edited(latents[name], change))


def test_stores_without_a_checksum_are_looked_at_and_force_is_recorded(
    emulators: dict[str, Emulator], latents: dict[str, xr.Dataset], tmp_path: Path
) -> None:  # oracle: the attributes; xarray writes no checksum, as fsae 0.1.0 did not
    emulator, store = emulators["default"], tmp_path / "edited.zarr"
    edited(latents["default"], in_another_order).to_zarr(store, consolidated=False)
    with pytest.raises(DataError, match=r"the latents of tas in edited\.zarr"):
        emulator.decompress_file(store, tmp_path / "fields.nc")
    assert not (tmp_path / "fields.nc").exists()
    emulator.decompress_file(store, tmp_path / "fields.nc", writing=Writing(force=True))
    with xr.open_dataset(tmp_path / "fields.nc") as fields:
        assert "random order" in fields.attrs["comment"]
        assert "(--force)" in fields.attrs["comment"]
        assert '"force": true' in fields.attrs["fsae_request"]
    forced = emulator.decompress(edited(latents["default"], in_another_order), force=True)
    assert "random order" in forced.attrs["comment"]


def test_fields_that_were_forced_in_come_out(emulators: dict[str, Emulator], months: xr.Dataset) -> None:
    # oracle: cells in another order, which the user wanted, as the latents say
    shuffled = months["tas"].values[:, np.random.default_rng(1).permutation(73)]
    wrong = months.assign(tas=months["tas"].copy(data=shuffled))
    latents = emulators["ratio-4"].compress(wrong, climatology="training", force=True)
    emulators["ratio-4"].decompress(latents)


def test_exchanged_variables_are_refused(tiny_bundle: Bundle) -> None:
    # oracle: Gaussian latents with the deviations in the bundle's table; the same with the variables exchanged
    known = Plausible(median=10, q99=20, warn_above=1e4, refuse_above=1e5)
    manifest = replace(tiny_bundle.manifest, plausible={"tas": known, "uas": known})
    bundle = dataclasses.replace(tiny_bundle, manifest=manifest)
    spread = np.stack([np.where(np.arange(48) < 24, 0.5, 1.5), np.ones(48)])
    tables = dataclasses.replace(tiny_bundle.tables, latent_cell_std=spread.astype(np.float32))
    bundle.__dict__["tables"] = tables  # a cached property
    noise = np.random.default_rng(3).normal(size=(12, 2, 48)) * spread
    real = noise.astype(np.float32)

    def part(latent: np.ndarray) -> Decoded:
        values = np.zeros((12, 2, 192), dtype=np.float32)
        return Decoded(latent=latent, values=values, phase=np.linspace(0, 1, 12), labels=("then",) * 12)

    check_edited(bundle, part(real), "1 month", "latents.nc")
    with pytest.raises(DataError, match=r"the latents of tas in latents\.nc vary where those of uas do"):
        check_edited(bundle, part(real[:, ::-1]), "1 month", "latents.nc")
    check_edited(tiny_bundle, part(real[:, ::-1]), "1 month", "latents.nc")  # has learned nothing to tell it by


def test_the_shipped_roughness_is_that_of_the_training_years(
    emulators: dict[str, Emulator], sample_data: Path
) -> None:  # oracle: its definition, cell by cell, on the latents of all training months
    emulator = emulators["ratio-64"]
    manifest, source = emulator.bundle.manifest, sample_data / "ncep1-tas-mon-194801-200412.nc"
    fields = open_fields(emulator.bundle, source)
    values, seasons = fields.read()[0], season(fields.phase, manifest.time.harmonics)
    mask = np.ones((len(values), len(manifest.zooms)), dtype=np.float32)
    latent = emulator.graphs.encode(values, seasons, mask)[:, 0].astype(np.float64)
    fine = np.stack([latent[:, p] - latent[:, p - p % 4 : p - p % 4 + 4].mean(axis=1) for p in range(latent.shape[1])])
    found = np.quantile(np.sqrt((fine**2).mean(axis=0)) / latent.std(axis=1), 0.99)
    np.testing.assert_allclose(manifest.distances["tas"].roughness, found, rtol=1e-3)
