"""Runs that fail, and ledgers that are damaged: what is finished is kept."""

import errno
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import zarr
from runs import (
    FIELDS,
    SMALL,
    count_decoded,
    fail_after,
    interrupted_run,
    names_in,
)
from trees import assert_same

from fsae.runtime.backends.onnx import OnnxGraphs
from fsae.runtime.emulator import Emulator
from fsae.runtime.errors import OutputError, ToleranceError
from fsae.runtime.jobs import ledger, resume, writer
from fsae.runtime.jobs.ledger import open_ledger
from fsae.runtime.output.files import ASSEMBLED
from fsae.runtime.output.layout import Unit
from fsae.runtime.output.netcdf import NetcdfStore
from fsae.runtime.output.zarr import ZarrStore

generate = SMALL.generate


# --- failures ---


def test_a_failed_write_ends_the_run_at_once_and_keeps_the_rest(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # oracle: the undisturbed run; what is computed after the failure counts
    generate(emulator, tmp_path / "whole.zarr")
    write, units = ZarrStore.write, [0]

    def full(self: ZarrStore, name: str, place: tuple[slice, ...], values: np.ndarray) -> None:
        assert threading.current_thread() is not threading.main_thread()
        units[0] += name == "tas"
        if units[0] == 10:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(self, name, place, values)

    with monkeypatch.context() as patch:
        patch.setattr(ZarrStore, "write", full)
        computed = count_decoded(patch)
        with pytest.raises(OutputError, match=rf"cannot write \S+: No space left on device; 27 of {FIELDS} fields are"):
            generate(emulator, tmp_path / "out.zarr")
    assert len(computed) <= 10 + writer.WAITING + 1
    assert units[0] == 10
    generate(emulator, tmp_path / "out.zarr", resume=True)
    assert_same(tmp_path / "out.zarr", tmp_path / "whole.zarr")


def test_a_full_disk_at_the_ledger_or_the_last_file_loses_nothing(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # oracle: the undisturbed run
    generate(emulator, tmp_path / "whole.nc")
    record, calls = ledger.Ledger.record, [0]

    def torn(self: ledger.Ledger, unit: Unit, sums: Mapping[int, tuple[str, ...]]) -> None:
        calls[0] += 1
        if calls[0] == 6:
            with (self.folder / ledger.LOG).open("ab") as log:
                log.write(b"[1, 3, ")  # all that went on the disk
            raise OSError(errno.ENOSPC, "No space left on device")
        record(self, unit, sums)

    with monkeypatch.context() as patch:
        patch.setattr(ledger.Ledger, "record", torn)
        with pytest.raises(OutputError, match=f"No space left on device; 15 of {FIELDS} fields are kept"):
            generate(emulator, tmp_path / "out.nc")

    def full(self: NetcdfStore, name: str, place: tuple[slice, ...], values: np.ndarray) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(NetcdfStore, "write", full)
        with pytest.raises(OutputError, match=f"{FIELDS} of {FIELDS} fields are kept"):
            generate(emulator, tmp_path / "out.nc", resume=True)
    assert not (tmp_path / "out.nc.partial" / ASSEMBLED).exists()
    fail_after(monkeypatch, 0, AssertionError("decoded again"))
    generate(emulator, tmp_path / "out.nc", resume=True)
    assert_same(tmp_path / "out.nc", tmp_path / "whole.nc")


def test_values_outside_what_is_allowed_keep_what_is_finished(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, calls = OnnxGraphs.decode, [0]

    def broken(self: OnnxGraphs, latent: np.ndarray, season: np.ndarray) -> np.ndarray:
        calls[0] += 1
        return decode(self, latent, season) * (np.nan if calls[0] == 9 else 1)

    monkeypatch.setattr(OnnxGraphs, "decode", broken)
    with pytest.raises(ToleranceError, match=f"not finite.*; 24 of {FIELDS} fields are kept in"):
        generate(emulator, tmp_path / "out.zarr")
    monkeypatch.setattr(OnnxGraphs, "decode", decode)
    generate(emulator, tmp_path / "out.zarr", resume=True)


def test_other_failures_say_what_is_kept(emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_after(monkeypatch, 2, MemoryError())
    with pytest.raises(MemoryError) as caught:
        generate(emulator, tmp_path / "out.zarr")
    assert caught.value.__notes__ == [
        f"6 of {FIELDS} fields are kept in {tmp_path / 'out.zarr'}.partial: the same command with --resume goes on"
    ]
    fail_after(monkeypatch, 0, MemoryError())
    with pytest.raises(MemoryError):
        generate(emulator, tmp_path / "other.zarr")
    assert names_in(tmp_path) == ["out.zarr.partial"]


# --- the ledger ---


@pytest.mark.parametrize(
    "damage", ["torn line", "line without its end", "first line flipped", "no state", "other state"]
)
def test_a_damaged_ledger_costs_work_and_no_bytes(emulator: Emulator, tmp_path: Path, damage: str) -> None:
    # oracle: the undisturbed run
    layout = generate(emulator, tmp_path / "whole.zarr").layout
    interrupted_run(emulator, tmp_path / "out.zarr", 13)
    place = tmp_path / "out.zarr.partial" / "shards" / "1-of-1"
    log, states = place / ledger.LOG, sorted((place / ledger.STATES).iterdir())
    assert len(states) == 5  # one for each member of the batch of five
    if damage == "first line flipped":
        data = log.read_bytes()
        log.write_bytes(data[:12] + bytes([data[12] ^ 1]) + data[13:])
    elif "line" in damage:
        log.write_bytes(log.read_bytes()[: -20 if damage == "torn line" else -1])
    elif damage == "no state":
        states[0].unlink()
    else:
        np.save(states[1], np.load(states[1]) + 1)
    found = open_ledger(place, place.parents[1] / resume.FIELDS, layout)
    assert found.fields == (36 if "line" in damage else 39)
    anew = damage in ("first line flipped", "no state")
    assert (found.steps(0), found.steps(1)) == (0 if anew else 9, 0 if damage == "other state" else 9)
    generate(emulator, tmp_path / "out.zarr", resume=True)
    assert_same(tmp_path / "out.zarr", tmp_path / "whole.zarr")


def test_the_unfinished_store_can_be_looked_at(emulator: Emulator, tmp_path: Path) -> None:  # oracle: what is finished
    generate(emulator, tmp_path / "whole.zarr")
    interrupted_run(emulator, tmp_path / "out.zarr", 5)
    part = zarr.open_group(tmp_path / "out.zarr.partial" / resume.FIELDS, mode="r")["tas"][...]
    whole = zarr.open_group(tmp_path / "whole.zarr", mode="r")["tas"][...]
    np.testing.assert_array_equal(part[:5, :3], whole[:5, :3])
    assert np.isnan(part[5:]).all()
    assert np.isnan(part[:, 3:]).all()
