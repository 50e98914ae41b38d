"""Archives whose writers are killed, and go on: the archive of a run that nothing disturbed."""

import random
import signal
from pathlib import Path

import pytest
from nursery import Nursery
from trees import tree

from fsae.runtime.bundle.files import Bundle
from fsae.runtime.output.seal import damage_of

SAMPLE = "ncep1-tas-mon-200501-201412.nc"


@pytest.mark.parametrize("name", ["tas.zarr", "tas.nc"])
@pytest.mark.parametrize("case", ["first", "appended"])
def test_killed_at_any_file_operation(
    default_bundle: Bundle, sample_data: Path, tmp_path_factory: pytest.TempPathFactory, name: str, case: str
) -> None:
    # oracle: the undisturbed run; the process kills itself before the n-th thing it does to a file
    whole, folder = (tmp_path_factory.mktemp(kind) for kind in ("whole", "here"))
    nursery = Nursery(default_bundle.folder, tmp_path_factory.mktemp("nursery"))
    rng, kills = random.Random(3), 0  # noqa: S311

    def compress(place: Path, times: Path, *more: str, fatal: int = 0) -> int:
        words = ["compress", times, place / name, "--climatology", "training", "--max-error", "0.5", *more]
        nursery.start(*words, fatal=fatal, folder=place)
        return nursery.wait()

    parts = [sample_data / SAMPLE]
    if case == "appended":
        parts = halves(sample_data / SAMPLE, tmp_path_factory.mktemp("halves"))
        for place in (whole, folder):
            assert compress(place, parts[0]) == 0
    more = ["--append"] if case == "appended" else []
    before = bytes_of(folder / name) if more else None
    assert compress(whole, parts[-1], *more, fatal=-1) == 0
    count = int(nursery.log.read_text().split()[-1])
    while True:
        fatal = rng.randrange(3, count) if kills < 6 else 0
        code = compress(folder, parts[-1], "--resume", *more, fatal=fatal)
        assert code in (0, -signal.SIGKILL), nursery.log.read_text()
        if code == 0:
            break
        kills += 1
        if before is not None and bytes_of(folder / name) != before:
            assert bytes_of(folder / name) == bytes_of(whole / name)  # killed after it was published
            break
        assert before is not None or not (folder / name).exists() or bytes_of(folder / name) == bytes_of(whole / name)
    nursery.close()
    assert kills
    assert damage_of(folder / name) == ""
    assert bytes_of(folder / name) == bytes_of(whole / name)


def halves(path: Path, folder: Path) -> list[Path]:
    """Two files of five years each."""
    import xarray as xr

    made = [folder / "one.nc", folder / "other.nc"]
    with xr.open_dataset(path, engine="h5netcdf", decode_times=False) as whole:
        for out, steps in zip(made, (slice(0, 60), slice(60, 120)), strict=True):
            whole.isel(time=steps).to_netcdf(out, engine="h5netcdf")
    return made


def bytes_of(path: Path) -> object:
    """All bytes of a store or a file."""
    return tree(path) if path.is_dir() else path.read_bytes()
