"""A short run of the fuzz tests, always the same cases; README.md has the command of a long one."""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .edits import Edit, edited
from .targets import Target, targets

NAMES = (
    "manifest", "tables", "graph", "ledger", "record", "options", "csv", "dates", "times", "units", "box", "config",
    "toml", "netcdf", "plot", "zarr", "classic",
)  # fmt: skip
CASES, SLOW_CASES = 60, 8
HANG_MS = 10_000
EDITS = st.lists(st.builds(Edit, st.integers(0, 40), st.floats(0, 1), st.floats(0, 1), st.integers(0, 255)), max_size=3)


@pytest.fixture(scope="module")
def known() -> Iterator[dict[str, Target]]:
    with targets() as found:
        yield found


@pytest.mark.filterwarnings("ignore")  # of libraries, about damaged files: the commands do not show them
@pytest.mark.parametrize("name", NAMES)
def test_damaged_input_is_read_or_refused(name: str, known: dict[str, Target]) -> None:
    # oracle: one sentence for a terminal in whatever is refused; an example without edits is read
    from .long import complaint

    target = known.get(name)
    if target is None:
        pytest.skip("needs SciPy, to write classic NetCDF")
    for example in target.examples:
        assert complaint(target, example) == ""

    @settings(
        max_examples=SLOW_CASES if target.slow else CASES,
        derandomize=True,
        deadline=HANG_MS,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(which=st.integers(0, 20), edits=EDITS)
    def check(which: int, edits: list[Edit]) -> None:
        data = edited(target.examples[which % len(target.examples)], edits, target.is_json)
        assert complaint(target, data) == ""

    check()
