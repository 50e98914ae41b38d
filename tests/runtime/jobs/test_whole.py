"""Output that is damaged before or after it is finished: the bytes of an undisturbed run, or a refusal."""

import errno
import hashlib
import json
import shutil
from pathlib import Path

import h5netcdf
import pytest
import zarr
from damage import flip_last_bit
from runs import FIELDS, SMALL, names_in
from trees import assert_same

from fsae.runtime.emulator import Emulator
from fsae.runtime.errors import OutputError
from fsae.runtime.jobs import resume
from fsae.runtime.jobs.shards import Shard
from fsae.runtime.output.marks import SEAL
from fsae.runtime.output.seal import damage_of

generate = SMALL.generate
CHUNK = Path("tas", "c", "3", "1", "0")


@pytest.fixture(scope="module", params=["out.zarr", "out.nc"])
def undisturbed(
    request: pytest.FixtureRequest, tiny_bundle_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The output of an undisturbed run, of each kind."""
    import fsae.runtime

    path = tmp_path_factory.mktemp("undisturbed") / request.param
    generate(fsae.runtime.load(tiny_bundle_path, device="cpu", threads=1), path)
    return path


def copied(path: Path, folder: Path) -> Path:
    """A copy of an output, in a folder."""
    copy = shutil.copytree if path.is_dir() else shutil.copy
    return Path(copy(path, folder / path.name))


def unpublished(emulator: Emulator, path: Path) -> Path:
    """The store of a run that is complete but for the publication."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resume, "publish", lambda *given: (_ for _ in ()).throw(OSError(errno.EIO, "broken")))
        with pytest.raises(OutputError, match=f"broken; {FIELDS} of {FIELDS} fields are kept"):
            generate(emulator, path)
    return path.with_name(f"{path.name}.partial") / resume.FIELDS


# --- finished ---


def test_a_whole_output_is_complete(undisturbed: Path, emulator: Emulator, tmp_path: Path) -> None:
    # oracle: its bytes
    out = copied(undisturbed, tmp_path)
    assert damage_of(out) == ""
    generate(emulator, out, resume=True)
    assert_same(out, undisturbed)


def damage_zarr(out: Path, damage: str) -> None:
    """Damage a finished store."""
    metadata = out / "tas" / "zarr.json"
    match damage:
        case "chunk gone":
            (out / CHUNK).unlink()
        case "chunk flipped":
            flip_last_bit(out / CHUNK)
        case "coordinate":
            flip_last_bit(out / "lat" / "c" / "0")
        case "attribute":
            metadata.write_text(metadata.read_text().replace("time: mean", "time: meat"))
        case "added":
            shutil.copytree(out / "lat", out / "more")
        case "no seal":
            del zarr.open_group(out, mode="r+").attrs[SEAL]


def damage_netcdf(out: Path, damage: str) -> None:
    """Change a finished NetCDF file."""
    with h5netcdf.File(out, "r+") as file:
        match damage:
            case "chunk gone":
                file["tas"][3, 3:6] = 0
            case "chunk flipped":
                file["tas"][3, 3, 7] += 1e-3
            case "coordinate":
                file["lat"][5] += 1e-9
            case "attribute":
                file["tas"].attrs["cell_methods"] = "time: meat"
            case "added":
                file.create_variable("more", ("time",), "f4")
            case "no seal":
                del file.attrs[SEAL]


@pytest.mark.parametrize("damage", ["chunk gone", "chunk flipped", "coordinate", "attribute", "added", "no seal"])
def test_damage_of_finished_output_is_named(
    undisturbed: Path, emulator: Emulator, tmp_path: Path, damage: str
) -> None:  # oracle: the file that was changed
    out = copied(undisturbed, tmp_path)
    damage_zarr(out, damage) if out.is_dir() else damage_netcdf(out, damage)
    if damage == "added":  # by somebody to whom it belongs
        for again in ({"resume": True}, {"overwrite": True}):
            with pytest.raises(OutputError, match="holds more, which fsae did not write"):
                generate(emulator, out, **again)
        return
    part = {"coordinate": "lat", "no seal": "its metadata"}.get(damage, "tas")
    with pytest.raises(
        OutputError, match=rf"is damaged, or was changed .*: {part} does not fit .*: --overwrite makes it anew"
    ):
        generate(emulator, out, resume=True)
    generate(emulator, out, overwrite=True)
    assert_same(out, undisturbed)


def test_a_file_that_is_no_longer_one_is_refused(undisturbed: Path, emulator: Emulator, tmp_path: Path) -> None:
    out = copied(undisturbed, tmp_path)
    file = out / "zarr.json" if out.is_dir() else out
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(OutputError):
        generate(emulator, out, resume=True)


def test_the_seal_is_what_sha256sum_prints(undisturbed: Path) -> None:  # oracle: the line in the docstring of seal.py
    if not undisturbed.is_dir():
        pytest.skip("of NetCDF it is one of values")
    lines = [
        f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(undisturbed / 'tas').as_posix()}\n"
        for path in (undisturbed / "tas").rglob("*")
        if path.is_file()
    ]
    lines.sort(key=lambda line: line[66:])
    seals = json.loads(zarr.open_group(undisturbed, mode="r").attrs[SEAL])
    assert seals["tas"] == hashlib.sha256("".join(lines).encode()).hexdigest()


# --- before it is published ---


@pytest.mark.parametrize("damage", ["chunk", "coordinate", "metadata", "group", "all of the frame"])
def test_nothing_damaged_is_published(undisturbed: Path, emulator: Emulator, tmp_path: Path, damage: str) -> None:
    # oracle: the undisturbed run
    out = tmp_path / undisturbed.name
    store = unpublished(emulator, out)
    match damage:
        case "chunk":
            flip_last_bit(store / CHUNK)
        case "coordinate":
            flip_last_bit(store / "realization" / "c" / "0")
        case "metadata":
            (store / "time" / "zarr.json").write_bytes(b"")
        case "group":
            (store / "zarr.json").write_text((store / "zarr.json").read_text().replace("CF-1", "CF-0"))
        case "all of the frame":
            for path in [one for one in store.rglob("*") if one.is_file() and one.relative_to(store).parts[0] != "tas"]:
                path.unlink()
    generate(emulator, out, resume=True)
    assert_same(out, undisturbed)
    assert names_in(tmp_path) == [out.name]


def test_damage_to_another_shard_is_seen_by_the_last(undisturbed: Path, emulator: Emulator, tmp_path: Path) -> None:
    # oracle: the undisturbed run
    out = tmp_path / undisturbed.name
    generate(emulator, out, Shard(1, 2))
    flip_last_bit(tmp_path / f"{out.name}.partial" / resume.FIELDS / CHUNK)
    found = rf"was damaged after it was written \({CHUNK}\); {FIELDS - 3} of {FIELDS} fields are kept in .* --resume"
    with pytest.raises(OutputError, match=found):
        generate(emulator, out, Shard(2, 2))
    assert not out.exists()
    assert generate(emulator, out, Shard(1, 2), resume=True).missing == ()
    assert_same(out, undisturbed)


@pytest.mark.parametrize("name", ["tas/c/99/0/0", "more/zarr.json", "crs/c"])
def test_files_of_others_are_not_published(emulator: Emulator, tmp_path: Path, name: str) -> None:
    store = unpublished(emulator, tmp_path / "out.zarr")
    strange = store / name
    strange.parent.mkdir(parents=True, exist_ok=True)
    strange.write_bytes(b"mine")
    with pytest.raises(OutputError, match=rf"found \S+{name}, which is no part of the output; .*: move it away"):
        generate(emulator, tmp_path / "out.zarr", resume=True)
    assert strange.read_bytes() == b"mine"
    strange.unlink()
    generate(emulator, tmp_path / "out.zarr", resume=True)
