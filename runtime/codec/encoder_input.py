"""Open the encoder's input, adapt it to the training climate and encode it."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fsae.runtime.arguments import check_judgement, pairs, switch, whole
from fsae.runtime.arrays import F32
from fsae.runtime.backends.graphs import Graphs
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.bundle.manifest import Manifest
from fsae.runtime.climate.calendar import centres, infer_step, time_method
from fsae.runtime.climate.climatology import season
from fsae.runtime.climate.steps import same_step
from fsae.runtime.errors import DataError, UsageError
from fsae.runtime.input.fields import Fields, Wanted, fields_of
from fsae.runtime.input.forecasts import Forecast, find_forecasts
from fsae.runtime.input.joining import join_opened, open_wanted
from fsae.runtime.input.meaning import Origin, joined
from fsae.runtime.input.sources import Given, Opened, Source
from fsae.runtime.jobs.job import Writing
from fsae.runtime.log import log
from fsae.runtime.output.times import ReferenceTimes, TimeAxis, encode_series, encode_times
from fsae.runtime.sphere.grids import LatLonGrid
from fsae.runtime.sphere.regrid import WeightMaker, once_a_grid
from fsae.runtime.sphere.regrid import make_weights as make_own_weights
from fsae.runtime.sphere.weights import Weights

from .plausibility import Expected, check_fields, expected_near, refuse, spread_out, went_on
from .round_trip import check_round_trip, encode_fields
from .source_climatology import TRAINING, UNKNOWN, exchange, known_climatology, read_source

if TYPE_CHECKING:
    import xarray as xr


def check_alike(parts: Sequence[Fields]) -> None:
    """Raise DataError if the forecasts differ in their members or in the number of their steps."""
    for part in parts:
        if part.members != parts[0].members or len(part.times) != len(parts[0].times):
            raise DataError(
                f"the forecasts that begin with {parts[0].times[0]} and {part.times[0]} have "
                "different members or steps",
                advice="give them in separate runs",
            )


def check_no_times(times: str | None) -> None:
    """Raise UsageError if a period is given, which forecasts from several reference times do not have in common."""
    if times is not None:
        raise UsageError(
            f"found the times {times} for forecasts from several reference times",
            "none",
            "select reference times or lead times of the data first",
        )


def open_fields(
    bundle: Bundle, source: Given, zoom: int | None = None, names: Mapping[str, str] | None = None
) -> Fields:
    """The model's variables in a file, files or a dataset, which may call them otherwise: `names` maps names to those.

    Data on the training data's own grid is regridded by the bundle's own weights. Where stamps and bounds do not tell
    the step, as for one stamp alone, it is taken for the model's: a monthly mean stays one whatever its stamp.
    """
    source = Source.of(source)
    return _in_steps_of(bundle, open_wanted(source, _wanted(bundle, zoom, names, source.units)))


def _wanted(bundle: Bundle, zoom: int | None, names: Mapping[str, str] | None, units: Mapping[str, str]) -> Wanted:
    """The model's variables; UsageError for names or units of others."""
    known = [v.name for v in bundle.manifest.variables]
    for what, given in (("names", names or {}), ("units", units)):
        if unknown := sorted(set(given) - set(known)):
            raise UsageError(
                f"found {what} for {', '.join(unknown)}",
                f"for variables of the model: {', '.join(known)}",
                "`fsae-run info` lists them; name one of them, as in --name tas=ts",
            )
    return Wanted(
        variables=bundle.manifest.variables,
        names=names or {},
        units=units,
        zoom=zoom,
        finest_zoom=bundle.manifest.grid.zoom,
        make_weights=weight_maker(bundle),
    )


def _in_steps_of(bundle: Bundle, fields: Fields) -> Fields:
    return dataclasses.replace(fields, step=fields.step or bundle.manifest.time.step)


def weight_maker(bundle: Bundle) -> WeightMaker:
    """A maker of weights to HEALPix, once per grid; those of the training data's own grid are in the bundle."""
    tables, finest = bundle.tables, bundle.manifest.grid.zoom

    def weights(grid: LatLonGrid, wanted_zoom: int, method: str) -> Weights:
        if wanted_zoom == finest and tables.on_source(grid):
            return tables.to_healpix
        return make_own_weights(grid, wanted_zoom, method)

    return once_a_grid(weights)


def found_step(fields: Fields) -> str | None:
    """The time that the data is averaged over, or its step; bounds tell better than stamps."""
    if fields.bounds is not None:  # one month of every year has stamps a year apart
        return infer_step(fields.times[:1], fields.bounds[:1]) or fields.step
    return fields.step


def step_note(bundle: Bundle, fields: Fields) -> tuple[str, ...]:
    """A warning if the data is averaged over other steps than the model's."""
    known, found = bundle.manifest.time.step, found_step(fields)
    if found is None or same_step(found, known):
        return ()
    return (
        f"The input's time step is {found}, the model was trained on {known}: its fields vary otherwise than those the "
        "model has learned.",
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Reading:
    """How input is read.

    `zoom`: HEALPix zoom that the data is brought to, by default the finest it supports. `climatology`: the one of the
    data's source, made by `fsae-run climatology`, or "training" if that is the training data's own. `names`: what the
    data calls a variable, such as {"tas": "ts"}. `force`: go on with fields too far from their climatology.
    `strict`: refuse fields, or a climatology, that would only be warned of as far from it.
    `own_grid`: open the fields on the source's own grid too.
    """

    zoom: int | None = None
    climatology: "str | os.PathLike[str] | xr.Dataset | None" = None
    names: Mapping[str, str] | None = None
    force: bool = False
    strict: bool = False
    own_grid: bool = False

    def __post_init__(self) -> None:
        if self.zoom is not None:
            object.__setattr__(self, "zoom", whole("zoom", self.zoom))
        if self.names is not None:
            object.__setattr__(self, "names", pairs("names", self.names))
        for name in ("force", "strict"):
            object.__setattr__(self, name, switch(name, getattr(self, name)))
        check_judgement(force=self.force, strict=self.strict)


AS_IT_IS = Reading()  # nothing is said about the input


def reading_for(writing: Writing, zoom: int | None, names: Mapping[str, str] | None) -> Reading:
    """How input is read whose output is written so: the writing says what is done with unlikely fields."""
    return Reading(zoom=zoom, names=names, force=writing.force, strict=writing.strict)


@dataclass(frozen=True, kw_only=True)
class Input:
    """Fields on their way into the encoder: adapted to the training source's climate, with notes and the record.

    Those of several forecasts side by side are `series` of their own, else there is one.
    """

    series: tuple[Fields, ...]
    reference_times: ReferenceTimes | None
    own: F32 | None  # the source's own climatology at the fields' zoom
    expected: Expected | None  # what the fields are to be near; None if that is not checked
    notes: tuple[str, ...]
    request: dict[str, Any]
    history: str  # of the first file
    strict: bool  # what would be warned of is refused
    points: Fields | None  # the series on its own grid, if that was asked for and there is only one
    close: Callable[[], None]

    @property
    def fields(self) -> Fields:
        """The series, or the first one."""
        return self.series[0]

    @cached_property
    def phase(self) -> NDArray[np.float64]:
        """Phases of the year (time), or (start, time)."""
        phases = np.stack([fields.phase for fields in self.series])
        return phases[0] if self.reference_times is None else phases

    @property
    def origins(self) -> dict[str, Origin]:
        """What was read of each variable."""
        each = zip(self.fields.variables, zip(*(one.origins for one in self.series), strict=True), strict=True)
        return {name: joined(own) for name, own in each}

    def time(self, steps: slice = slice(None)) -> TimeAxis:
        """The encoded times of some steps of all series.

        Averages of one series are stamped in the middle of their period, as generated ones are, whatever the input's
        stamps; the times of forecasts stay the sum of reference time and lead time.
        """
        if self.reference_times is None:
            periods = self.fields.periods
            middles = centres(self.fields.times, bounds=periods)
            return encode_times(middles[steps], periods and periods[steps], self.fields.calendar)
        times = [fields.times[steps] for fields in self.series]
        bounds = [fields.bounds and fields.bounds[steps] for fields in self.series]
        return encode_series(times, bounds, self.fields.calendar, self.reference_times)

    def check(self, manifest: Manifest, values: F32, fields: Fields, times: slice) -> None:
        """DataError if `values` (time, variable, pixel) of some steps of a series are too far from the climatology.

        If `strict`, already where it would be warned of.
        """
        if self.expected is not None:
            labels = [date.isoformat() for date in fields.times[times]]
            notes = check_fields(manifest, self.expected, values, fields.phase[times], fields.name, labels)
            if self.strict:
                refuse(notes)


def open_input(
    bundle: Bundle,
    verb: str,
    source: Given,
    reading: Reading,
    *,
    graphs: Graphs | None = None,
    side_by_side: bool = True,
) -> Input:
    """Open the fields of a source, and its own climatology if there is one.

    Some of the fields are held against the climatology and, given `graphs`, against what the model gives back of them.
    Several reference times of several lead times are kept apart, or refused unless `side_by_side`.
    """
    source, climatology = Source.of(source), reading.climatology
    wanted = _wanted(bundle, reading.zoom, reading.names, source.units)
    with contextlib.ExitStack() as closing:
        opened = source.open(closing)
        apart = side_by_side and all(all(wanted.held(file.dataset)) for file in opened)
        forecasts = find_forecasts(opened) if apart else ()
        if forecasts:
            series = _side_by_side(bundle, source.name, forecasts, wanted)
        else:
            series = (_in_steps_of(bundle, join_opened(source.name, opened, wanted)),)
        fields, own, name = series[0], None, None
        notes = dict.fromkeys((UNKNOWN,) if climatology is None else ())
        if isinstance(climatology, str) and climatology == TRAINING:
            name = TRAINING
        elif climatology is not None:
            own, warnings = read_source(climatology, bundle, fields.zoom, force=reading.force)
            if reading.strict:
                refuse(warnings)
            name = os.path.basename(climatology) if isinstance(climatology, str | os.PathLike) else "dataset"
            notes |= dict.fromkeys(warnings)
        notes |= dict.fromkeys(note for one in series for note in (*one.notes, *step_note(bundle, one)))
        options = {"names": dict(reading.names or {}), "units": dict(source.units)}
        said = {key: value for key, value in options.items() if value}
        given = Input(
            series=series,
            reference_times=_axes(forecasts) if forecasts else None,
            own=own,
            expected=_expected(bundle, fields, own),
            notes=tuple(notes),
            request={"verb": verb, "input": fields.source, "zoom": fields.zoom, "climatology": name, **said},
            history=str(opened[0].dataset.attrs.get("history", "")),
            strict=reading.strict,
            points=own_points(bundle, source.name, opened, wanted) if reading.own_grid and not forecasts else None,
            close=lambda: None,
        )
        given = _checked(bundle, graphs, given, reading)
        return dataclasses.replace(given, close=closing.pop_all().close)


def own_points(bundle: Bundle, name: str, opened: Sequence[Opened], wanted: Wanted | None = None) -> Fields:
    """Fields of the model's variables, or of those `wanted`, on their own grid."""
    wanted = wanted or _wanted(bundle, None, None, {})
    return _in_steps_of(bundle, join_opened(name, opened, dataclasses.replace(wanted, own_grid=True)))


def _expected(bundle: Bundle, fields: Fields, own: F32 | None) -> Expected | None:
    """The climatology that fields are to be near: that of their source, else the model's."""
    manifest = bundle.manifest
    if not manifest.distances:
        log.info(
            f"bundle {manifest.name} does not know how far fields are from its climatology: nothing is checked by it"
        )
        return None
    step, kinds = found_step(fields), [time_method(text) for text in (fields.cell_methods, *_methods(manifest))]
    same = (step is None or same_step(step, manifest.time.step)) and ("point" not in kinds or len(set(kinds)) == 1)
    if own is not None:
        return expected_near(manifest, own, None, same_step=same)
    return expected_near(manifest, known_climatology(bundle, fields.zoom), step, same_step=same)


def _methods(manifest: Manifest) -> tuple[str, ...]:
    return tuple(variable.cell_methods for variable in manifest.variables)


def _checked(bundle: Bundle, graphs: Graphs | None, given: Input, reading: Reading) -> Input:
    """The input with warnings about some of its fields; DataError if one is too far from its climatology.

    With `force` that is a warning, and no field is checked any more. If `strict`, every warning is such an error.
    """
    notes: tuple[str, ...] = ()
    if given.expected is not None:
        values, phase, labels = _sample(given)
        name = given.fields.name
        try:
            notes = check_fields(bundle.manifest, given.expected, values, phase, name, labels)
        except DataError as error:
            if not reading.force:
                raise
            notes = (went_on(error),)
        if graphs is not None and not given.expected.yearly:  # which are no fields of a time of year, as graphs take
            seen = _as_trained(bundle, given, values, phase)
            notes += check_round_trip(bundle.manifest, graphs, seen, phase, name, labels)
        if reading.strict:
            refuse(notes)
    forced = {"force": True} if reading.force else {}
    return dataclasses.replace(
        given,
        expected=None if reading.force else given.expected,
        notes=(*given.notes, *notes),
        request={**given.request, **forced},
    )


def _sample(given: Input) -> tuple[F32, NDArray[np.float64], tuple[str, ...]]:
    """Some fields (time, variable, pixel) spread over steps, members and series; their phases and dates."""
    steps, members = len(given.fields.times), len(given.fields.members or (0,))
    values, phases, labels = list[F32](), list[float](), list[str]()
    for place in spread_out(len(given.series) * members * steps):
        row, step = divmod(place, steps)
        fields = given.series[row // members]
        values.append(fields.read(slice(step, step + 1), row % members if fields.members else None)[0, 0])
        phases.append(fields.phase[step])
        labels.append(fields.times[step].isoformat())
    return np.stack(values), np.array(phases), tuple(labels)


def _side_by_side(bundle: Bundle, name: str, forecasts: Sequence[Forecast], wanted: Wanted) -> tuple[Fields, ...]:
    """The fields of each forecast, all on one zoom and with the same members and steps."""
    series = list[Fields]()
    for one in forecasts:
        fields = fields_of(Opened(one.dataset, one.where), wanted)
        wanted = dataclasses.replace(wanted, zoom=fields.zoom)
        series.append(dataclasses.replace(_in_steps_of(bundle, fields), name=name))
    check_alike(series)
    return tuple(series)


def _axes(forecasts: Sequence[Forecast]) -> ReferenceTimes:
    """The axes of the output of several forecasts."""
    first = forecasts[0]
    references = encode_times([one.reference for one in forecasts], None, str(first.reference.calendar))
    return ReferenceTimes(times=references, leads=first.leads, lead_units=first.lead_units)


def encode(bundle: Bundle, graphs: Graphs, given: Input, values: F32, phase: NDArray[np.float64]) -> tuple[F32, F32]:
    """Latents (time, variable, latent pixel) and seasons (time, 2K) of the input's `values` at phases of the year."""
    seasons = season(phase, bundle.manifest.time.harmonics)
    return encode_fields(graphs, bundle.manifest.zooms, _as_trained(bundle, given, values, phase), seasons), seasons


def _as_trained(bundle: Bundle, given: Input, values: F32, phase: NDArray[np.float64]) -> F32:
    """The input's `values`, with the training data's climatology in place of their own."""
    return values if given.own is None else exchange(values, phase, given.own, bundle)
