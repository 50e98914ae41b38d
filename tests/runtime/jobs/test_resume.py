"""Unfinished runs that go on, or are refused: the bytes of a run that nothing disturbed."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from damage import flip_last_bit
from runs import (
    FIELDS,
    SMALL,
    Command,
    convert,
    fail_after,
    finished,
    interrupted_run,
    names_in,
    source_for,
)
from trees import assert_same, tree

from fsae.runtime.backends.onnx import OnnxGraphs
from fsae.runtime.emulator import Emulator
from fsae.runtime.ensemble.request import Request
from fsae.runtime.errors import DataError, OutputError, Stopped, UsageError
from fsae.runtime.jobs.job import Writing
from fsae.runtime.output import files as stores
from fsae.runtime.signals import uninterrupted

generate = SMALL.generate


def test_an_unfinished_run_is_never_lost_unasked(emulator: Emulator, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    interrupted_run(emulator, out, 7)
    before = tree(tmp_path)
    for other in ({}, {"seed": 4}):  # the same request and another one
        with pytest.raises(OutputError, match=rf"an unfinished run, 21 of {FIELDS} fields: --resume goes on with it"):
            generate(emulator, out, **other)
    assert tree(tmp_path).keys() == before.keys()
    with uninterrupted(), pytest.raises(OutputError, match="unfinished run"), stores.open_store(out, {}):
        pass
    emulator.generate_file(out, Request(members=2, steps=3), writing=Writing(overwrite=True))
    with xr.open_dataset(out, engine="zarr") as found:
        assert dict(found["tas"].sizes) == {"realization": 2, "time": 3, "cell": 192}
    assert names_in(tmp_path) == ["out.zarr"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("--seed", "4"), r"request: seed \(3 there, 4 here\)"),
        (("--steps", "11"), r"request: steps \(12 there, 11 here\)"),
        (("--member-ids", "0-10,12"), "request: members"),
        (("--grid", "training"), r"request: grid \(\"native\" there, \"training\" here\)"),
        (("--forcing", "1990.5"), "request: forcing"),
    ],
)
def test_another_request_is_refused(
    emulator: Emulator, command: Command, tmp_path: Path, change: tuple[str, ...], message: str
) -> None:
    interrupted_run(emulator, tmp_path / "out.zarr", 5)
    words = SMALL.words(tmp_path / "out.zarr", "--resume", *change)
    if change[0] == "--member-ids":
        del words[1:3]  # --members
    said = command(*words)
    assert said.code == UsageError.exit_code
    assert re.search(message, said.err.splitlines()[-1])
    assert finished(tmp_path / "out.zarr") == 15


def test_other_versions_and_inputs_are_refused(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted_run(emulator, tmp_path / "out.zarr", 5)
    with monkeypatch.context() as patch:
        patch.setattr(OnnxGraphs, "backend", "onnxruntime 0.1", raising=False)
        emulator.graphs.backend = "onnxruntime 0.1"
        with pytest.raises(UsageError, match="fsae_versions"):
            generate(emulator, tmp_path / "out.zarr", resume=True)


def test_another_input_of_the_same_name_is_refused(emulator: Emulator, tmp_path: Path) -> None:
    fields = emulator.generate(Request(members=2, steps=30, start="1990-01"))
    fields.to_netcdf(tmp_path / "in.nc", engine="h5netcdf")
    whole = emulator.compress_file(tmp_path / "in.nc", tmp_path / "whole.zarr", climatology="training")
    assert whole.fields == 60
    encode, calls = OnnxGraphs.encode, [0]

    def stopping(self: OnnxGraphs, *given: np.ndarray) -> np.ndarray:
        calls[0] += 1
        if calls[0] == 3:
            raise KeyboardInterrupt
        return encode(self, *given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(OnnxGraphs, "encode", stopping)
        with pytest.raises(Stopped, match="24 of 60 fields"):
            emulator.compress_file(tmp_path / "in.nc", tmp_path / "out.zarr", climatology="training")

    def go_on() -> None:
        emulator.compress_file(
            tmp_path / "in.nc", tmp_path / "out.zarr", climatology="training", writing=Writing(resume=True)
        )

    before = (tmp_path / "in.nc").read_bytes()
    fields.assign(tas=fields["tas"] + 1).to_netcdf(tmp_path / "in.nc", engine="h5netcdf")
    with pytest.raises(UsageError, match="file of the input"):
        go_on()
    (tmp_path / "in.nc").write_bytes(before)
    os.utime(tmp_path / "in.nc", (0, 0))  # as a copy has another date
    go_on()
    assert_same(tmp_path / "out.zarr", tmp_path / "whole.zarr")
    fields.assign(tas=fields["tas"] + 1).to_netcdf(tmp_path / "in.nc", engine="h5netcdf")
    with pytest.raises(OutputError, match="the output of another run, which differs in file of the input"):
        go_on()


def test_an_input_that_changes_while_it_is_read_is_not_published(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # oracle: the order of events
    fields = emulator.generate(Request(members=1, steps=30, start="1990-01"))
    fields.to_zarr(tmp_path / "in.zarr", consolidated=False)
    encode = OnnxGraphs.encode

    def changing(self: OnnxGraphs, *given: np.ndarray) -> np.ndarray:
        with (tmp_path / "in.zarr" / "zarr.json").open("a") as file:
            file.write(" ")
        return encode(self, *given)

    monkeypatch.setattr(OnnxGraphs, "encode", changing)
    with pytest.raises(DataError, match=r"the input changed while it was read: input .* start again with --overwrite"):
        emulator.compress_file(tmp_path / "in.zarr", tmp_path / "out.zarr", climatology="training")
    assert not (tmp_path / "out.zarr").exists()


@pytest.mark.parametrize("verb", ["decompress", "superres"])
def test_the_other_verbs_go_on_too(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:  # oracle: the undisturbed run, and that no step is decoded twice
    source = source_for(emulator, verb, tmp_path)
    convert(emulator, verb, source, tmp_path / "whole.zarr")
    with monkeypatch.context() as patch:
        fail_after(patch, 4, KeyboardInterrupt())
        with pytest.raises(Stopped, match="42 of 60 fields"):  # chunks of 12, 12 and 6 steps
            convert(emulator, verb, source, tmp_path / "out.zarr")
    fail_after(monkeypatch, 2, AssertionError("decoded twice"))
    convert(emulator, verb, source, tmp_path / "out.zarr", resume=True)
    assert_same(tmp_path / "out.zarr", tmp_path / "whole.zarr")


def test_resume_can_always_be_said(command: Command, tmp_path: Path) -> None:
    out = tmp_path / "out.nc"
    said = command(*SMALL.words(out, "--resume"))
    assert said.code == 0
    assert f"there is no unfinished run at {out}.partial: starting from the beginning" in said.err
    before = out.read_bytes()
    said = command(*SMALL.words(out, "--resume"))
    assert said.code == 0
    assert f"{out} is complete: nothing was left to do" in said.err
    assert out.read_bytes() == before
    said = command(*SMALL.words(out, "--resume", "--seed", "9"))
    assert said.code == OutputError.exit_code
    assert "another run, which differs in fsae_seed (3 there, 9 here); request: seed (3 there, 9 here)" in said.err
    assert command(*SMALL.words(out)).code == OutputError.exit_code
    assert names_in(tmp_path) == ["out.nc"]


@pytest.mark.parametrize("loss", ["gone", "empty", "shorter", "flipped", "exchanged", "all"])
@pytest.mark.parametrize("name", ["out.zarr", "out.nc"])
def test_units_whose_chunks_are_lost_are_made_again(
    emulator: Emulator, tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, loss: str
) -> None:  # oracle: the undisturbed run
    whole, out = tmp_path / f"whole{Path(name).suffix}", tmp_path / name
    generate(emulator, whole)
    interrupted_run(emulator, out, 5)
    chunks = sorted(path for path in (tmp_path / f"{name}.partial").glob("fields.zarr/*as/c/**/*") if path.is_file())
    assert len(chunks) >= 10
    first, second = chunks[0].read_bytes(), chunks[7].read_bytes()
    for chunk, data in zip(chunks if loss == "all" else (chunks[0], chunks[7]), (first, second), strict=False):
        match loss:
            case "empty":
                chunk.write_bytes(b"")
            case "shorter":
                chunk.write_bytes(data[:-1])
            case "flipped":
                flip_last_bit(chunk)
            case "exchanged":
                chunk.write_bytes(second if chunk == chunks[0] else first)
            case "gone":
                chunk.unlink()
    for chunk in chunks if loss == "all" else []:
        chunk.unlink()
    generate(emulator, out, resume=True)
    assert f"6 fields of {out}.partial/shards/1-of-1 are damaged or missing" in caplog.text or loss == "all"
    assert_same(out, whole)


def test_what_is_lost_of_a_run_is_made_again(emulator: Emulator, tmp_path: Path) -> None:
    # oracle: the undisturbed run
    out, partial = tmp_path / "out.zarr", tmp_path / "out.zarr.partial"
    generate(emulator, tmp_path / "whole.zarr")
    for lost in ("fields.zarr/lat", "fields.zarr", "fields.zarr/tas", "fields.zarr/zarr.json"):
        interrupted_run(emulator, out, 3)
        (partial / lost).unlink() if lost.endswith("json") else shutil.rmtree(partial / lost)
        generate(emulator, out, resume=True)
        assert_same(out, tmp_path / "whole.zarr")
        shutil.rmtree(out)


@pytest.mark.parametrize("record", ["", '{"format": 1, "fields": 144, "identity": {}}', "[]"])
def test_a_run_that_cannot_be_read_is_not_swept_away(emulator: Emulator, tmp_path: Path, record: str) -> None:
    # oracle: the files before
    interrupted_run(emulator, tmp_path / "out.zarr", 3)
    (tmp_path / "out.zarr.partial" / "run.json").write_text(record)
    before = tree(tmp_path)
    for again in (False, True):
        with pytest.raises(OutputError, match="an unfinished run of another version, or damaged: --overwrite starts"):
            generate(emulator, tmp_path / "out.zarr", resume=again)
    assert tree(tmp_path) == before
    generate(emulator, tmp_path / "out.zarr", overwrite=True)
    assert names_in(tmp_path) == ["out.zarr"]
