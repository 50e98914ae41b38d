"""Known steps that an ensemble continues: found in a file, encoded as by `compress`, and whitened."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import cftime
import numpy as np

from fsae.runtime.backends.graphs import Graphs
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.bundle.manifest import Time
from fsae.runtime.climate.calendar import Date, steps, time_method
from fsae.runtime.climate.steps import parse_step, same_step
from fsae.runtime.codec.encoder_input import Input, Reading, encode, found_step, open_input
from fsae.runtime.diffusion.whitening import whiten
from fsae.runtime.errors import BundleError, DataError
from fsae.runtime.input.fields import Fields
from fsae.runtime.input.sources import Given, Source
from fsae.runtime.output.store import Attribute, Coordinate
from fsae.runtime.output.times import encode_times

from .members import Initial, latent_model

if TYPE_CHECKING:
    pass


SECONDS_A_DAY = 86_400


@dataclass(frozen=True, kw_only=True, eq=False)
class KnownSteps:
    """The last known steps as a denoiser takes them, and where the first step after them begins.

    `reference` is when the last of them is over, the stamp of instantaneous values; `record` is what a request keeps;
    `labels` are those of the source's members, None if it has no such dimension.
    """

    initial: Initial
    labels: tuple[int, ...] | None
    start: Date
    reference: Date
    record: dict[str, Any]
    notes: tuple[str, ...]


def read_initial(
    bundle: Bundle,
    graphs: Graphs,
    source: Given,
    reading: Reading,
    start: Date | None = None,
) -> KnownSteps:
    """Read the last steps of a source, or those just before the step that holds `start`.

    DataError if the source has another time step, missing values, or not all the steps that are needed.
    """
    model = latent_model(bundle)
    if not model.previous:
        raise BundleError(
            f"bundle {bundle.manifest.name} draws every window alone, so it cannot start from known steps",
            advice="leave out --initial, or take a bundle that can",
        )
    source = Source.of(source)
    name = source.name
    given = open_input(bundle, "generate", source, reading, graphs=graphs, side_by_side=False)
    try:
        check_steps(given.fields, bundle.manifest.time, name)
        times, begin = last_steps(given.fields, bundle.manifest.time, model.previous, start, name)
        white, digest = [], hashlib.sha256()
        phase = given.phase[times]
        for member in range(len(given.fields.members or (0,))):
            values = given.fields.read(times, member)[0]  # (time, variable, pixel)
            given.check(bundle.manifest, values, given.fields, times)
            digest.update(values.astype("<f4").tobytes())
            latent, season = encode(bundle, graphs, given, values, phase)
            white.append(whiten(latent, model.zooms, model.deviation(season), model.level_std).astype(np.float32))
    finally:
        given.close()
    if given.own is not None:
        digest.update(given.own.astype("<f4").tobytes())
    methods = bundle.manifest.variables[0].cell_methods  # of what is generated
    last = in_calendar(given.fields.times[times.stop - 1], bundle.manifest.time.calendar, name)
    return KnownSteps(
        labels=given.fields.members,
        initial=Initial(white=np.stack(white), valid=np.ones(model.previous, dtype=np.float32)),
        start=begin,
        reference=last if time_method(methods) == "point" else begin,
        record=_record(given, times, digest.hexdigest()),
        notes=given.notes,
    )


def _record(given: Input, times: slice, digest: str) -> dict[str, Any]:
    """The known steps as the output records them: source, members, times, and a hash of values and climatology."""
    record: dict[str, Any] = {key: value for key, value in given.request.items() if key != "verb"}
    record |= {"read": {name: origin.record() for name, origin in given.origins.items()}}
    labels = given.fields.members or ()
    record |= {"members": list(labels)} if len(labels) > 1 else {}
    record |= {"force": True} if "force" in given.request else {}
    stamps = [date.isoformat() for date in given.fields.times[times]]
    return record | {"times": stamps, "values_sha256": digest}


def check_steps(fields: Fields, time: Time, name: str) -> None:
    """Raise DataError if the fields have another time step than the model."""
    found = found_step(fields)
    if found is not None and not same_step(found, time.step):
        raise DataError(f"{name} has the time step {found}", f"{time.step} as the model", "average or select first")


def last_steps(fields: Fields, time: Time, count: int, start: Date | None, name: str) -> tuple[slice, Date]:
    """Find the last `count` consecutive steps before `start`, and the beginning of the step that holds `start`.

    Without a start they are the source's last.
    """
    firsts = period_starts(fields, time, name)
    after = steps(firsts[-1], 2, time.step, time.calendar)[1]
    begin = after if start is None else steps(start, 1, time.step, time.calendar)[0]
    stop = next((i + 1 for i in reversed(range(len(firsts))) if firsts[i] < begin), 0)
    known = firsts[max(0, stop - count) : stop]
    needed = f"{count} consecutive steps of {time.step} up to {begin.isoformat()}"
    if len(known) < count:
        raise DataError(f"{name} holds {len(known)} of the steps to start from", needed, "give a longer series")
    for before, now in zip(known, [*known[1:], begin], strict=True):
        if steps(before, 2, time.step, time.calendar)[1] != now:
            raise DataError(
                f"{name} has a gap between {before.isoformat()} and {now.isoformat()}",
                needed,
                "give the missing ones, or another start",
            )
    return slice(stop - count, stop), begin


def period_starts(fields: Fields, time: Time, name: str) -> Sequence[Date]:
    """Start of the model's step that each step of the fields is, in the bundle's calendar."""
    inside: Sequence[Date] = fields.times
    if fields.bounds is not None:  # half a month, day or hour in: bounds that are hours off mean the same step
        count, _ = parse_step(time.step)
        inside = [start + (end - start) / (2 * count) for start, end in fields.bounds]
    dates = [in_calendar(date, time.calendar, name) for date in inside]
    return [steps(date, 1, time.step, time.calendar)[0] for date in dates]


def in_calendar(date: Date, calendar: str, name: str) -> Date:
    """The same date in another calendar; DataError if it does not exist there."""
    try:
        return cftime.datetime(*date.timetuple()[:6], date.microsecond, calendar=calendar)
    except ValueError:
        raise DataError(
            f"{name} has the date {date.isoformat()} of the calendar {date.calendar!r}",
            f"one that the model's calendar {calendar!r} has",
            "give the times in that calendar",
        ) from None


def state_coordinate(known: KnownSteps, members: Sequence[int]) -> tuple[Coordinate, ...]:
    """The source's member that each member (realization) continues; empty if there is only one state."""
    if known.labels is None or len(known.labels) == 1:
        return ()
    labels = np.array([known.labels[known.initial.place(member)] for member in members], dtype=np.int64)
    attributes: dict[str, Attribute] = {"long_name": "member of the initial data that it goes on from", "units": "1"}
    return (Coordinate(name="initial_member", dims=("realization",), values=labels, attributes=attributes),)


def lead_coordinates(reference: Date, stamps: Sequence[Date], calendar: str) -> tuple[Coordinate, Coordinate]:
    """CF coordinates of a forecast: when it starts, and how long after that each stamp is [days]."""
    axis = encode_times([reference], None, calendar)
    leads = [(stamp - reference).total_seconds() / SECONDS_A_DAY for stamp in stamps]
    return (
        Coordinate(
            name="forecast_reference_time",
            dims=(),
            values=axis.values[0],
            attributes={
                "standard_name": "forecast_reference_time",
                "long_name": "end of the last known step",
                "units": axis.units,
                "calendar": axis.calendar,
            },
        ),
        Coordinate(
            name="lead_time",
            dims=("time",),
            values=np.array(leads),
            attributes={
                "standard_name": "forecast_period",
                "long_name": "time since the end of the last known step",
                "units": "day",  # xarray would make time differences of "days"
            },
        ),
    )
