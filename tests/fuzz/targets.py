"""Targets of the fuzz tests: honest examples, and the function that reads them. A refusal is an FsaeError."""

import contextlib
import io
import json
import os
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import xarray as xr
from monthly_fields import field_layout, fields, write_fields
from tiny_bundle import make_tiny_bundle

from fsae.runtime.bundle.external_data import external_locations
from fsae.runtime.bundle.files import open_bundle
from fsae.runtime.bundle.manifest import Manifest
from fsae.runtime.bundle.records import decode_record
from fsae.runtime.bundle.tables import make_tables, read_arrays
from fsae.runtime.cli.main import cli
from fsae.runtime.climate.calendar import parse_period, parse_start
from fsae.runtime.climate.units import conversion
from fsae.runtime.codec.encoder_input import open_fields
from fsae.runtime.ensemble.forcing import _read_csv
from fsae.runtime.errors import FsaeError, UsageError
from fsae.runtime.input.dates import decode_dates
from fsae.runtime.input.sources import Source
from fsae.runtime.jobs.ledger import read_lines, read_run
from fsae.runtime.output.selection import parse_bbox
from fsae.runtime.pictures.field import Shown, open_field, with_units
from fsae.training.config import DEFAULT, Config, _toml

CALENDARS = ("standard", "noleap", "360_day", "julian")
LINES = (
    "generate --members 3 --start 2005-01 --steps 12 --seed 1 --grid 1.5 --bbox -10,35,30,70 --out x.zarr",
    "generate --member-ids 3,10-12 --times 2005/2014 --statistics mean,q05 --variables tas --out x.nc --shard 3/8",
    "generate --forcing 2000.5 --batch 4 --max-memory 0.5 --sampler fast --resume --overwrite",
    "compress in.nc out.zarr --zoom 3 --name tas=ts --climatology training --threads 2 --units tas=K",
    "superres tas_*.nc out.zarr --grid 120x240 --regrid bilinear --workers 2",
    "climatology in.nc out.nc --harmonics 3",
    "plot in.nc --variable ta --select plev=85000 --member 3 --time 2014-07 --units degC --out x.svg",
    "plot in.nc --panel map --panel spectrum --projection orthographic --centre 10,50",
    "score in.nc other.nc --zoom 3 --variables tas --name tas=ts --times 2005/2006 --json -",
)
UNITS = (
    "K",
    "degC",
    "m s-1",
    "kg m**-2 s**-1",
    "mm/day",
    "W/m^2",
    "hPa",
    "days since 1850-01-01",
    "1e-3 kg/kg",
    "percent",
)
TIMES = (
    '{"units": "days since 1850-01-01", "calendar": "noleap", "values": [15.5, 45, 74.5]}',
    '{"units": "months since 2000-01-01", "calendar": "standard", "values": [0, 1, 2]}',
    '{"units": "day as %Y%m%d.%f", "calendar": "standard", "values": [20050116.5, 20050215.0]}',
    '{"units": "hours since 1970-01-01T00:00:00Z", "calendar": "360_day", "values": [0, 6, 12]}',
)
CSV = "date,value\n2005-01-16,2005.04\n2005-02-15,2005.12\n2006-01-16T06:00,2006.04\n"


@dataclass(frozen=True, kw_only=True)
class Target:
    """Honest examples and what reads them; `slow` if that opens files with other libraries."""

    examples: tuple[bytes, ...]
    read: Callable[[bytes], object]
    is_json: bool = False
    slow: bool = False


@contextlib.contextmanager
def targets() -> Iterator[dict[str, Target]]:
    """All targets, with a folder for what they read from files."""
    shared = Path("/dev/shm")  # noqa: S108, many small files
    with tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as name:
        before = os.getcwd()
        folder = Path(name)
        os.chdir(folder)
        try:
            yield _targets(folder)
        finally:
            os.chdir(before)


def _targets(folder: Path) -> dict[str, Target]:
    bundle_folder = make_tiny_bundle(folder / "tiny")
    bundle = open_bundle(bundle_folder)
    manifest = (bundle_folder / "manifest.json").read_bytes()
    run = {
        "format": 3,
        "shards": 2,
        "pieces": {"members": 2, "steps": 12, "chunk": 12, "chained": True},
        "identity": {},
    }
    line = b'{"member": 0, "first": 0, "end": 12, "state": "", "sums": ["1f"]} 00000000\n'
    with tomllib_file() as file:
        config = tomllib.load(file)
    netcdf = write_fields(folder / "fields.nc", fields(), field_layout())
    with xr.open_dataset(netcdf, decode_times=False) as data:
        data.load()
        classic = data.drop_encoding()

    def tables(content: bytes) -> None:
        make_tables(read_arrays(content, "tables.npz"), bundle.manifest, "tables.npz")

    def ledger(content: bytes) -> None:
        (folder / "units.log").write_bytes(content)
        read_lines(folder)

    def record(content: bytes) -> None:
        (folder / "run.json").write_bytes(content)
        read_run(folder)

    def store(content: bytes) -> None:
        path = folder / "damaged.nc"
        path.write_bytes(content)
        found = open_fields(bundle, path, None, None)
        try:
            found.read(slice(0, 1))
        finally:
            found.close()

    def picture(content: bytes) -> None:
        path = folder / "drawn.nc"
        path.write_bytes(content)
        with open_field(Source.of(path), Shown(select={})) as field:
            with_units(field.long_name, field.units)
            field.shown_values()
            members, steps = field.count
            for _ in field.blocks(slice(0, members), slice(0, steps)):
                pass

    def zarr_store(content: bytes) -> None:
        path = folder / "damaged.zarr"
        (path / "zarr.json").write_bytes(content)
        found = open_fields(bundle, path, None, None)
        try:
            found.read(slice(0, 1))
        finally:
            found.close()

    classic.to_zarr(folder / "damaged.zarr", consolidated=True, zarr_format=3)
    found = {
        "manifest": Target(examples=(manifest,), read=lambda b: Manifest.from_json(_text(b)), is_json=True),
        "tables": Target(examples=((bundle_folder / "tables.npz").read_bytes(),), read=tables),
        "graph": Target(examples=(_graph(),), read=external_locations),
        "ledger": Target(examples=(line * 3,), read=ledger),
        "record": Target(examples=(json.dumps(run).encode(),), read=record, is_json=True),
        "options": Target(examples=tuple(text.encode() for text in LINES), read=options),
        "csv": Target(examples=(CSV.encode(),), read=lambda b: _read_csv(_text(b), "f.csv", "standard")),
        "dates": Target(examples=(b"2005-01/2010-12", b"2005-01-31T06:00", b"2005"), read=dates),
        "times": Target(examples=tuple(text.encode() for text in TIMES), read=times, is_json=True),
        "units": Target(examples=tuple(text.encode() for text in UNITS), read=units),
        "box": Target(examples=(b"-10,35,30,70", b"170,-50,-170,-30"), read=lambda b: parse_bbox(_text(b))),
        "config": Target(
            examples=(json.dumps(config).encode(),),
            read=lambda b: decode_record(Config, _json(b), "config.toml", UsageError),
            is_json=True,
        ),
        "toml": Target(examples=(DEFAULT.read_bytes(),), read=toml),
        "netcdf": Target(examples=(netcdf.read_bytes(),), read=store, slow=True),
        "plot": Target(examples=(netcdf.read_bytes(),), read=picture, slow=True),
        "zarr": Target(
            examples=((folder / "damaged.zarr" / "zarr.json").read_bytes(),), read=zarr_store, is_json=True, slow=True
        ),
    }
    with contextlib.suppress(ImportError, ValueError):  # without SciPy no classic NetCDF is written
        classic.to_netcdf(folder / "classic.nc", format="NETCDF3_CLASSIC", engine="scipy")
        found["classic"] = Target(examples=((folder / "classic.nc").read_bytes(),), read=store, slow=True)
    return found


def tomllib_file() -> io.BufferedReader:
    """The shipped configuration."""
    return DEFAULT.open("rb")


def _text(content: bytes) -> str:
    return content.decode("utf-8", "replace")


def _json(content: bytes) -> object:
    try:
        found = json.loads(content)
        json.dumps(found, ensure_ascii=False).encode()  # TOML has no half characters
        return found
    except (ValueError, RecursionError):
        raise UsageError("not JSON", advice="this is not what is tried here") from None


def _graph() -> bytes:
    """A protobuf message that names weights outside it."""
    entry = b"\x0a\x08location\x12\x06x.data"
    tensor = b"\x6a" + bytes([len(entry)]) + entry
    graph = b"\x2a" + bytes([len(tensor)]) + tensor
    return b"\x3a" + bytes([len(graph)]) + graph


def options(content: bytes) -> None:
    """Read the options of a command line, of which nothing is run: its bundle is not there."""
    words = ["--model", "nowhere", *_text(content).split(" ")]
    sink = io.StringIO()
    try:
        with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
            cli.main(args=words, prog_name="fsae-run", standalone_mode=False)
    except click.ClickException as error:
        error.format_message()


def dates(content: bytes) -> None:
    """Read a date and a period in several calendars."""
    for calendar in CALENDARS:
        for parse in (parse_start, parse_period):
            with contextlib.suppress(FsaeError):
                parse(_text(content), calendar)


def times(content: bytes) -> None:
    """Decode a time axis."""
    found = _json(content)
    if not isinstance(found, dict):
        return
    try:
        values = np.array(found.pop("values", []))
        variable = xr.Variable(("time",), values.reshape(-1), found)
    except (ValueError, TypeError, OverflowError):
        return  # NumPy makes no such array
    decode_dates(variable, variable, "the times")


def units(content: bytes) -> None:
    """Convert some units into others."""
    for wanted in ("K", "kg m-2 s-1", "1"):
        with contextlib.suppress(FsaeError):
            conversion(_text(content), wanted)


def toml(content: bytes) -> None:
    """Read a configuration as it is written."""
    try:
        raw = _toml(_text(content))
    except ValueError as error:
        raise UsageError(f"not TOML: {error}", advice="correct it") from None
    decode_record(Config, raw, "config.toml", UsageError)
