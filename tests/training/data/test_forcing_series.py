"""Scenarios of the forcing as training reads them: the columns of a CSV file, or one sentence on what is wrong."""

from pathlib import Path

import numpy as np
import pytest

from fsae.runtime.errors import DataError
from fsae.training.config import DEFAULT, read_config
from fsae.training.data.scenarios import VALUES, YEARS, read_scenarios, scenarios_of

SAMPLE = DEFAULT.parents[1] / "sample" / "effective-radiative-forcing.csv"


def test_columns_are_taken_by_name(tmp_path: Path) -> None:  # oracle: the lines
    path = tmp_path / "f.csv"
    path.write_text("# W m-2\nyear,a,b\n2000,1.5,2\n\n2001,-1,3\n")
    years, values = read_scenarios(path, ["b", "a"])
    assert years.tolist() == [2000, 2001]
    assert values.tolist() == [[2, 3], [1.5, -1]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("year,a\n2000,1\n2002,2\n", r"2 years with gaps"),
        ("year,a\n2000,1\n2001,nan\n", r"not finite"),
        ("year,a\n2000,1\n2001\n", r"holds None as a, after 1 lines of values, expected a number"),
        ("year,x\n2000,1\n2001,1\n", r"holds year, x, expected the columns year, a"),
        ("", r"holds no lines of values"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, words: str) -> None:  # oracle: the fault
    path = tmp_path / "f.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        read_scenarios(path, ["a"])
    with pytest.raises(DataError, match="cannot read"):
        read_scenarios(tmp_path, ["a"])


def test_the_shipped_series_is_the_best_estimate() -> None:
    # oracle: IPCC AR6 WG1 figure 7.6: 2.84 W m-2 in 2019, of all agents; Pinatubo lowers 1992 by 1 to 2 W m-2
    config = read_config(DEFAULT)
    assert config.forcing is not None
    years, values = read_scenarios(SAMPLE, config.forcing.scenarios)
    found = scenarios_of(config, {YEARS: years, VALUES: values})
    assert found is not None
    historical = dict(zip(years.tolist(), values[0].tolist(), strict=True))
    assert historical[2019] == pytest.approx(2.84, abs=0.01)
    assert -2 < historical[1992] - historical[1990] < -1
    at_2004 = found.at("historical", [2004.5, 2004.5])
    assert at_2004 == pytest.approx(found.at("ssp585", [2004.5])[0])  # scenarios part after 2019
    assert np.ptp([found.at(name, [2100.0])[0] for name in found.names]) > 5
