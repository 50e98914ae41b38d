"""Map projections: points of the tables and formulas, an independent implementation, and the way back."""

import json

import numpy as np
import pytest
from processes import python

from fsae.runtime.errors import UsageError
from fsae.runtime.pictures.projections import KINDS, make_projection

POINTS = 1000
PROJ = """
import json, os, sys
for name in ("PROJ_DATA", "PROJ_LIB"):
    os.environ.pop(name, None)
import pyproj
print(json.dumps(pyproj.Proj(sys.argv[1])(*json.loads(sys.argv[2]))))
"""


def random_points() -> tuple[np.ndarray, np.ndarray]:
    """Points spread evenly over the sphere."""
    draw = np.random.default_rng(3)
    return np.degrees(np.arcsin(draw.uniform(-1, 1, POINTS))), draw.uniform(-180, 180, POINTS)


@pytest.mark.parametrize(
    ("name", "centre", "lat", "lon", "x", "y"),
    [
        ("robinson", "0,0", 0.0, 180.0 - 1e-9, 0.8487 * np.pi, 0.0),
        ("robinson", "0,0", 45.0, 90.0, 0.8487 * 0.8962 * np.pi / 2, 1.3523 * 0.5571),
        ("robinson", "0,0", -90.0, -90.0, -0.8487 * 0.5322 * np.pi / 2, -1.3523),
        ("robinson", "180", 30.0, -90.0, 0.8487 * 0.96 * np.pi / 2, 1.3523 * 0.372),
        ("plate-carree", "0,0", 30.0, -90.0, -np.pi / 2, np.pi / 6),
        ("orthographic", "20,40", 40.0, 20.0, 0.0, 0.0),
        ("orthographic", "20,40", 90.0, 0.0, 0.0, np.cos(np.radians(40))),
        ("orthographic", "0,0", 0.0, 30.0, 0.5, 0.0),
        ("orthographic", "0,0", 0.0, 91.0, np.nan, np.nan),
    ],
)
def test_known_points(name: str, centre: str, lat: float, lon: float, x: float, y: float) -> None:
    # oracle: Robinson's table; closed forms
    found = make_projection(name, centre).forward(np.array([lat]), np.array([lon]))
    np.testing.assert_allclose(np.ravel(found), [x, y], atol=1e-6)


@pytest.mark.parametrize(
    ("name", "centre", "proj", "tolerance"),
    [
        ("robinson", "0,0", "+proj=robin +lon_0=0", 2e-3),  # its splines between the parallels are other ones
        ("robinson", "150,0", "+proj=robin +lon_0=150", 2e-3),
        ("orthographic", "-60,35", "+proj=ortho +lon_0=-60 +lat_0=35", 1e-9),
        ("plate-carree", "100", "+proj=eqc +lon_0=100", 1e-9),
    ],
)
def test_projections_are_those_of_proj(name: str, centre: str, proj: str, tolerance: float) -> None:
    # oracle: PROJ, an independent implementation, in a process without what other libraries bring of it
    pytest.importorskip("pyproj")
    lat, lon = random_points()
    x, y = make_projection(name, centre).forward(lat, lon)
    done = python("-c", PROJ, f"{proj} +R=1", json.dumps([lon.tolist(), lat.tolist()]))
    assert done.returncode == 0, done.stderr
    expected = np.array(json.loads(done.stdout))
    expected[~np.isfinite(expected)] = np.nan
    np.testing.assert_allclose(np.array([x, y]), expected, atol=tolerance)


@pytest.mark.parametrize("name", KINDS)
def test_there_and_back(name: str) -> None:  # oracle: the points themselves
    projection = make_projection(name, "35,-25" if name == "orthographic" else "35")
    lat, lon = random_points()
    x, y = projection.forward(lat, lon)
    seen = np.isfinite(x)
    assert seen.all() or (name == "orthographic" and 0.45 < seen.mean() < 0.55)  # one half of the sphere
    back_lat, back_lon = projection.inverse(x[seen], y[seen])
    np.testing.assert_allclose(back_lat, lat[seen], atol=1e-4)
    np.testing.assert_allclose(np.cos(np.radians(back_lon - lon[seen])), 1, atol=1e-9)


@pytest.mark.parametrize("name", KINDS)
def test_the_outline_parts_inside_and_outside(name: str) -> None:  # oracle: the places a little to either side of it
    projection = make_projection(name)
    x, y = projection.outline()
    assert np.isfinite(projection.inverse(0.99 * x, 0.99 * y)).all()
    assert np.isnan(projection.inverse(1.01 * x, 1.01 * y)).all()
    assert np.abs(x).max() == pytest.approx(projection.width, rel=1e-4)
    assert np.abs(y).max() == pytest.approx(projection.height, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "centre"),
    [
        *(("robinson", "10,50"), ("robinson", "nan"), ("plate-carree", "0,1")),
        *(("orthographic", text) for text in ("0,91", "1,2,3", "x", ",")),
    ],
)
def test_a_centre_that_is_none_is_refused(name: str, centre: str) -> None:  # oracle: what a centre is
    with pytest.raises(UsageError, match=r"found --centre .*: give"):
        make_projection(name, centre)
