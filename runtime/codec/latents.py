"""Latents that are read back: of this bundle, whole, and as they were written; DataError for others."""

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from fsae.runtime.arrays import F32
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.bundle.manifest import Manifest, Variable, graph_file
from fsae.runtime.climate.calendar import infer_step, year_phase
from fsae.runtime.errors import DataError
from fsae.runtime.input.dates import Dates, decode_dates, find_dates
from fsae.runtime.input.sources import READ_ERRORS, Source, reason
from fsae.runtime.input.variables import member_dim
from fsae.runtime.output.marks import sealed_among
from fsae.runtime.output.seal import damage_of
from fsae.runtime.output.times import LEAD, REFERENCE, ReferenceTimes, encode_times

if TYPE_CHECKING:
    import xarray as xr


LATENT = "latent"
NEAR = 0.09  # of a year, a month: how far a phase may be from that of its stamp, whatever the averaging period
ADVICE = "compress the data again"


def latent_key(bundle: Bundle) -> str:
    """A hash of the float32 encoder and decoder, which latents share with the bundles that can decompress them."""
    manifest = bundle.manifest
    return _key_in(manifest, manifest.precisions[0]) if manifest.latent.key is UNSET else manifest.latent.key


def graphs_key(encoder: str, decoder: str) -> str:
    """The key of latents of two graphs, given the SHA-256 of their files."""
    return hashlib.sha256(f"{encoder} {decoder}".encode()).hexdigest()


def _key_in(manifest: Manifest, precision: str) -> str:
    """The key by the graphs in one precision."""
    encoder, decoder = (manifest.files[graph_file(graph, precision)].sha256 for graph in ("encoder", "decoder"))
    return graphs_key(encoder, decoder)


def known_keys(bundle: Bundle) -> set[str]:
    """The keys of latents that a bundle can decompress: its own, and those by its graphs, which older stores have."""
    return {latent_key(bundle), *(_key_in(bundle.manifest, precision) for precision in bundle.manifest.precisions)}


def check_latents(bundle: Bundle, dataset: "xr.Dataset", name: str) -> None:
    """Raise DataError unless a dataset was written by this bundle's `compress`."""
    manifest = bundle.manifest
    if dataset.attrs.get("fsae_kind") != LATENT:
        raise DataError(f"{name} holds no latents", advice="give what `fsae-run compress` wrote")
    if dataset.attrs.get("fsae_latent_key") not in known_keys(bundle):
        made_by = dataset.attrs.get("fsae_bundle", "another one")
        raise DataError(
            f"{name} was compressed with bundle {made_by!r} in another version than "
            f"{manifest.name!r} at {bundle.folder}",
            advice="give the bundle it was made with as --model",
        )
    missing = sorted(
        {"time", "year_phase", *(v.name for v in manifest.variables)} - {str(n) for n in dataset.variables}
    )
    if missing:
        raise DataError(f"{name} lacks the variables {missing}", advice="compress the data again")
    cells = dataset.variables.get("cell")
    if cells is not None and not np.array_equal(cells.values, np.arange(cells.size)):
        raise DataError(f"{name} has its cells in another order than they were written in", advice=ADVICE)
    times = (REFERENCE, LEAD) if REFERENCE in dataset.dims else ("time",)
    for variable in manifest.variables:
        array, dims = dataset[variable.name], (*times, "cell")
        ours = tuple(dim for dim in array.dims if dim in dims)  # members stand before the time, in NetCDF after it
        if ours != dims or array.dims[-1] != "cell" or array.sizes["cell"] != manifest.latent.shape[1]:
            raise DataError(
                f"{variable.name} in {name} has the shape {dict(array.sizes)}",
                f"({', '.join(dims)}) with {manifest.latent.shape[1]} cells",
                "compress the data again",
            )


def is_unchanged(source: Source, dataset: "xr.Dataset", manifest: Manifest) -> bool:
    """True if a store is as it was written, by its checksums; DataError if it is ours but does not fit them.

    Ours by its mark and metadata: what another program has written of it, such as a part of its steps, has others.
    """
    sealed = sealed_among(source.paths, dataset.attrs)
    for path in sealed:
        if damaged := damage_of(path):
            for variable in [v for v in manifest.variables if v.name == damaged]:
                with contextlib.suppress(*READ_ERRORS):  # a more helpful sentence, if it can be read
                    check_finite(np.asarray(dataset[damaged].values)[:, None], [variable], path.name)
            raise DataError(
                f"cannot read {path.name}: {damaged} does not fit its checksum; is it damaged or incomplete, or was it "
                "changed after it was written",
                advice=ADVICE,
            )
    return bool(sealed) and len(sealed) == len(source.paths)


def check_phases(phases: NDArray[np.float64], dates: Sequence[Dates], manifest: Manifest, name: str) -> None:
    """Raise DataError unless the phases (start, time) are of a year, and those of the times."""
    methods = manifest.variables[0].cell_methods
    for own, found in zip(dates, phases, strict=True):
        step = infer_step(own.stamps, own.bounds) or manifest.time.step
        expected = year_phase(own.stamps, step, methods, own.bounds)
        away = np.abs((found - expected + 0.5) % 1.0 - 0.5)
        wrong = np.flatnonzero(~((found >= 0) & (found <= 1) & (away <= NEAR)))
        if wrong.size:
            place = int(wrong[0])
            raise DataError(
                f"{name} has the phase of the year {found[place]:.4g} at {own.stamps[place].isoformat()}",
                f"about {expected[place]:.4g}",
                ADVICE,
            )


def check_members(members: Sequence[int] | None, name: str) -> None:
    """Raise DataError if a member is there twice."""
    if members is not None and len(set(members)) < len(members):
        raise DataError(f"{name} has the members {', '.join(map(str, members))}", "each member once", ADVICE)


def check_finite(latent: F32, variables: Sequence[Variable], name: str) -> None:
    """DataError naming the variables whose latents (time, variable, pixel) are missing or infinite in some step."""
    bad = [variable.name for v, variable in enumerate(variables) if not np.isfinite(latent[:, v]).all()]
    if bad:
        raise DataError(
            f"{name} holds latents of {', '.join(bad)} that are not finite",
            "a number in every cell, as each variable is decoded with the help of all",
            "compress the data again",
        )


def went_on_with(dataset: "xr.Dataset") -> bool:
    """True if the fields of some latents were compressed although they are far from their climatology (--force)."""
    try:
        return bool(json.loads(str(dataset.attrs.get("fsae_request", "{}"))).get("force", False))
    except (ValueError, AttributeError):
        return False


@dataclass(frozen=True, kw_only=True, eq=False)
class Latents:
    """Latents that were read back; those of several forecasts side by side are `series` of their own, else one.

    A row is a member of a series.
    """

    name: str
    dataset: "xr.Dataset"
    variables: tuple[Variable, ...]
    series: "tuple[xr.Dataset, ...]"  # along `time`
    dates: tuple[Dates, ...]  # of each series
    phases: NDArray[np.float64]  # of the year, (start, time)
    reference_times: ReferenceTimes | None
    member: str | None  # the dimension of members
    members: tuple[int, ...] | None
    unchanged: bool  # since they were written, as their checksums show

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.members or (0,)) * len(self.series)

    def read(self, row: int, there: slice) -> F32:
        """Latents (time, variable, pixel) of some steps of a row."""
        place, start = divmod(row, len(self.series))
        here = {"time": there} if self.member is None else {"time": there, self.member: place}
        try:
            parts = [self.series[start][variable.name].isel(here).values for variable in self.variables]
        except READ_ERRORS as error:
            raise DataError(
                f"cannot read {self.name}: {reason(error)}",
                advice="compress the data again, as it may be damaged or incomplete",
            ) from None
        latent = np.stack(parts, axis=1).astype(np.float32)
        check_finite(latent, self.variables, self.name)
        return latent


def read_latents(bundle: Bundle, source: Source, dataset: "xr.Dataset", name: str) -> Latents:
    """The latents in a dataset, opened from `source`; DataError unless they are whole and of this bundle."""
    check_latents(bundle, dataset, name)
    manifest, series = bundle.manifest, _series(dataset)
    arrays = [one[manifest.variables[0].name] for one in series]
    member = member_dim(arrays[0])
    dates = tuple(find_dates(array, one, name) for array, one in zip(arrays, series, strict=True))
    try:
        members = tuple(int(m) for m in dataset[member].values) if member is not None else None
        phase = np.asarray(dataset["year_phase"].values, dtype=np.float64)
    except READ_ERRORS as error:
        raise DataError(
            f"cannot read {name}: {reason(error)}", advice="compress the data again, as it may be damaged or incomplete"
        ) from None
    if phase.size != len(series) * len(dates[0].stamps) or not np.isfinite(phase).all():
        raise DataError(
            f"{name} has no phase of the year for every step", advice="compress the data again: it is incomplete"
        )
    phases = phase.reshape(len(series), -1)  # (start, time)
    check_phases(phases, dates, manifest, name)
    check_members(members, name)
    return Latents(
        name=name,
        dataset=dataset,
        variables=manifest.variables,
        series=series,
        dates=dates,
        phases=phases,
        reference_times=_reference_times(dataset, name),
        member=member,
        members=members,
        unchanged=is_unchanged(source, dataset, manifest),
    )


def _series(dataset: "xr.Dataset") -> "tuple[xr.Dataset, ...]":
    """Latents along `time`, those of each start by themselves."""
    if REFERENCE not in dataset.dims:
        return (dataset,)
    count = dataset.sizes[REFERENCE]
    return tuple(dataset.isel({REFERENCE: place}).swap_dims({LEAD: "time"}) for place in range(count))


def _reference_times(dataset: "xr.Dataset", name: str) -> ReferenceTimes | None:
    """The reference times of latents of several forecasts; None if there are none."""
    if REFERENCE not in dataset.dims:
        return None
    axis, lead = dataset.variables[REFERENCE], dataset.variables[LEAD]
    references = decode_dates(axis, axis, f"the reference times of {name}")
    leads = np.asarray(lead.values, dtype=np.float64)
    units = str(lead.attrs.get("units", "1"))
    times = encode_times(references, None, str(references[0].calendar))
    return ReferenceTimes(times=times, leads=leads, lead_units=units)
