"""A tiny bundle whose graphs are closed forms, so that every result is known."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from fsae.runtime.bundle.files import write_manifest
from fsae.runtime.bundle.manifest import (
    DenoiserFacts,
    Difference,
    FileEntry,
    Forcing,
    Grid,
    Latent,
    Manifest,
    Parity,
    Provenance,
    Sampler,
    Source,
    Time,
    Variable,
)
from fsae.runtime.climate.climatology import season as season_of
from fsae.runtime.sphere.grids import LatLonGrid
from fsae.runtime.sphere.healpix import npix, pixel_centres
from fsae.runtime.sphere.regrid import bilinear_weights, interpolation_weights
from fsae.runtime.sphere.weights import Weights

ZOOM, LATENT_ZOOM, HARMONICS, WINDOW, PREVIOUS = 2, 1, 2, 3, 2
PIXELS, LATENT_PIXELS, VARIABLES = npix(ZOOM), npix(LATENT_ZOOM), 2
SCALE = np.array([2.0, 0.5], dtype=np.float32)
SPREAD = 0.8  # standard deviation of the tiny denoiser's Gaussian, white space
MEMORY, YEARLY, SOURCE_SHIFT, TREND = 0.5, 0.25, 0.125, 0.0625  # what its mean depends on
OPSET = 18


def tiny_climatology() -> np.ndarray:
    """(variable, 1 + 2K, pixel): warm at the equator, a yearly wave, a half-yearly one."""
    lat = np.radians(pixel_centres(ZOOM)[0])
    zero = np.zeros_like(lat)
    tas = np.stack([250 + 40 * np.cos(lat), -10 * np.sin(lat), zero, zero, 2 * np.cos(lat)])
    wind = np.stack([5 * np.sin(lat), zero, 3 * np.cos(lat), zero, zero])
    return np.stack([tas, wind]).astype(np.float32)


def tiny_mean(season: np.ndarray) -> np.ndarray:
    """Climatology (batch, variable, pixel) of a season (batch, 2K), in float64."""
    factors = np.concatenate([np.ones((len(season), 1)), season], axis=1)
    return np.einsum("bk,vkn->bvn", factors, tiny_climatology().astype(np.float64))


def tiny_encode(field: np.ndarray, season: np.ndarray) -> np.ndarray:
    """Latents of the tiny encoder with every level present: block means of the normalised field."""
    y = (field - tiny_mean(season)) / SCALE[:, None]
    return y.reshape(*y.shape[:-1], -1, 4).mean(-1)


def tiny_decode(latent: np.ndarray, season: np.ndarray) -> np.ndarray:
    """Fields of the tiny decoder: every latent repeated for its four children, in physical units."""
    return np.repeat(latent, 4, axis=-1) * SCALE[:, None] + tiny_mean(season)


def _model(name: str, nodes: list, inputs: dict, output: tuple, constants: dict) -> bytes:
    """A serialised ONNX model; inputs and output as name -> shape, all float32, constants int64 or float32."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        name,
        [value(key, TensorProto.FLOAT, shape) for key, shape in inputs.items()],
        [value(output[0], TensorProto.FLOAT, output[1])],
        [numpy_helper.from_array(np.asarray(array), key) for key, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _climatology_nodes() -> tuple[list, dict]:
    """Nodes and constants of the `mean` (batch, variable, pixel) at `season`: a matrix product, as in real bundles."""
    flat = tiny_climatology().transpose(1, 0, 2).reshape(1 + 2 * HARMONICS, -1)
    nodes = [
        helper.make_node("MatMul", ["season", "waves"], ["wave_part"]),
        helper.make_node("Add", ["wave_part", "constant_part"], ["flat_mean"]),
        helper.make_node("Reshape", ["flat_mean", "field_shape"], ["mean"]),
    ]
    constants = {
        "waves": flat[1:],
        "constant_part": flat[:1],
        "field_shape": np.array([-1, VARIABLES, PIXELS]),
        "scale": SCALE[:, None],
    }
    return nodes, constants


def encoder_model() -> bytes:
    """Block means of the normalised field at the latent zoom; level_mask weighs the residual of that zoom."""
    nodes, constants = _climatology_nodes()
    nodes += [
        helper.make_node("Sub", ["field", "mean"], ["anomaly"]),
        helper.make_node("Div", ["anomaly", "scale"], ["normal"]),
        helper.make_node("Reshape", ["normal", "fine_blocks"], ["by_fine"]),
        helper.make_node("ReduceMean", ["by_fine", "last"], ["block"], keepdims=0),  # (batch, variable, base, 4)
        helper.make_node("ReduceMean", ["block", "last"], ["base"], keepdims=1),
        helper.make_node("Sub", ["block", "base"], ["residual"]),
        helper.make_node("Slice", ["level_mask", "one", "two", "one"], ["mask"]),
        helper.make_node("Reshape", ["mask", "mask_shape"], ["mask4"]),
        helper.make_node("Mul", ["residual", "mask4"], ["kept"]),
        helper.make_node("Add", ["base", "kept"], ["sum"]),
        helper.make_node("Reshape", ["sum", "latent_shape"], ["latent"]),
    ]
    constants |= {
        "fine_blocks": np.array([-1, VARIABLES, LATENT_PIXELS // 4, 4, 4]),
        "last": np.array([-1]),
        "one": np.array([1]),
        "two": np.array([2]),
        "mask_shape": np.array([-1, 1, 1, 1]),
        "latent_shape": np.array([-1, VARIABLES, LATENT_PIXELS]),
    }
    inputs = {"field": ["B", VARIABLES, PIXELS], "season": ["B", 2 * HARMONICS], "level_mask": ["B", ZOOM + 1]}
    return _model("encoder", nodes, inputs, ("latent", ["B", VARIABLES, LATENT_PIXELS]), constants)


def decoder_model() -> bytes:
    """Every latent repeated for its four children, scaled, the climatology added."""
    nodes, constants = _climatology_nodes()
    nodes += [
        helper.make_node("Unsqueeze", ["latent", "last"], ["single"]),
        helper.make_node("Expand", ["single", "four"], ["repeated"]),
        helper.make_node("Reshape", ["repeated", "field_shape"], ["fine"]),
        helper.make_node("Mul", ["fine", "scale"], ["scaled"]),
        helper.make_node("Add", ["scaled", "mean"], ["field"]),
    ]
    constants |= {"last": np.array([-1]), "four": np.array([1, 1, 1, 4])}
    inputs = {"latent": ["B", VARIABLES, LATENT_PIXELS], "season": ["B", 2 * HARMONICS]}
    return _model("decoder", nodes, inputs, ("field", ["B", VARIABLES, PIXELS]), constants)


def tiny_window_mean(
    season: np.ndarray, forcing: np.ndarray, source: np.ndarray, previous: np.ndarray, valid: np.ndarray
) -> np.ndarray:
    """Mean of the tiny denoiser's Gaussian, (batch, time, 1, 1) plus (batch, 1, variable, pixel)."""
    scalar = YEARLY * season[..., 0] + SOURCE_SHIFT * source[:, None] + TREND * (forcing - 1990)
    return scalar[..., None, None] + MEMORY * (previous[:, -1] * valid[:, -1, None, None])[:, None]


def tiny_denoise(
    noisy: np.ndarray,
    sigma: np.ndarray,
    noise_features: np.ndarray,
    season: np.ndarray,
    forcing: np.ndarray,
    source: np.ndarray,
    previous: np.ndarray,
    previous_valid: np.ndarray,
) -> np.ndarray:
    """The ideal denoiser of independent Gaussian pixels: mean + spread^2 / (spread^2 + sigma^2) (noisy - mean)."""
    mean = tiny_window_mean(season, forcing, source, previous, previous_valid)
    keep = SPREAD**2 / (SPREAD**2 + sigma.astype(np.float64) ** 2)
    return mean + keep[:, None, None, None] * (noisy - mean)


def denoiser_model() -> bytes:
    """`tiny_denoise` as a graph; an orthogonal matrix and its transpose stand in it for the matrix products."""
    turn = np.linalg.qr(np.random.default_rng(3).normal(size=(LATENT_PIXELS, LATENT_PIXELS)))[0].astype(np.float32)
    node = helper.make_node
    nodes = [
        # the last previous frame, where there is one
        node("Slice", ["previous", "last", "end", "axis_one"], ["last_frame"]),
        node("Slice", ["previous_valid", "last", "end", "axis_one"], ["last_valid"]),
        node("Unsqueeze", ["last_valid", "back"], ["valid4"]),
        node("Mul", ["last_frame", "valid4"], ["known"]),
        node("Mul", ["known", "memory"], ["memory_part"]),
        # the scalar part of the mean, one number a step
        node("MatMul", ["season", "yearly"], ["yearly_part"]),  # (batch, time, 1)
        node("Sub", ["forcing", "middle"], ["since"]),
        node("Mul", ["since", "trend"], ["trend_part2"]),
        node("Unsqueeze", ["trend_part2", "third"], ["trend_part"]),
        node("Mul", ["source", "shift"], ["shift_part1"]),
        node("Unsqueeze", ["shift_part1", "second_third"], ["shift_part"]),
        node("Add", ["yearly_part", "trend_part"], ["two_parts"]),
        node("Add", ["two_parts", "shift_part"], ["scalar3"]),
        node("Unsqueeze", ["scalar3", "third"], ["scalar4"]),
        node("Add", ["scalar4", "memory_part"], ["mean"]),  # (batch, time, variable, pixel)
        # the shrinking
        node("Mul", ["sigma", "sigma"], ["variance"]),
        node("Add", ["variance", "spread2"], ["total"]),
        node("Div", ["spread2", "total"], ["keep1"]),
        node("Reshape", ["keep1", "keep_shape"], ["keep"]),
        node("Sub", ["noisy", "mean"], ["deviation"]),
        node("MatMul", ["deviation", "turn"], ["turned"]),
        node("Mul", ["turned", "keep"], ["shrunk"]),
        node("MatMul", ["shrunk", "turn_back"], ["returned"]),
        node("Add", ["returned", "mean"], ["expected"]),
        # the noise features must be an input; they add nothing
        node("MatMul", ["noise_features", "nothing"], ["nothing2"]),
        node("Reshape", ["nothing2", "keep_shape"], ["nothing4"]),
        node("Add", ["expected", "nothing4"], ["denoised"]),
    ]
    constants = {
        "last": np.array([-1]),
        "end": np.array([2**31 - 1]),
        "axis_one": np.array([1]),
        "back": np.array([2, 3]),
        "third": np.array([2]),
        "second_third": np.array([1, 2]),
        "memory": np.float32(MEMORY),
        "yearly": np.array([[YEARLY], [0], [0], [0]], dtype=np.float32),
        "middle": np.float32(1990),
        "trend": np.float32(TREND),
        "shift": np.float32(SOURCE_SHIFT),
        "spread2": np.array([SPREAD**2], dtype=np.float32),
        "keep_shape": np.array([-1, 1, 1, 1]),
        "turn": turn,
        "turn_back": np.ascontiguousarray(turn.T),
        "nothing": np.zeros((16, 1), dtype=np.float32),
    }
    window = ["B", WINDOW, VARIABLES, LATENT_PIXELS]
    inputs = {
        "noisy": window,
        "sigma": ["B"],
        "noise_features": ["B", 16],
        "season": ["B", WINDOW, 2 * HARMONICS],
        "forcing": ["B", WINDOW],
        "source": ["B"],
        "previous": ["B", PREVIOUS, VARIABLES, LATENT_PIXELS],
        "previous_valid": ["B", PREVIOUS],
    }
    return _model("denoiser", nodes, inputs, ("denoised", window), constants)


def tiny_grid() -> LatLonGrid:
    """The training data's own grid of the tiny bundle: 13 x 24, north to south, as fine as its zoom needs."""
    return LatLonGrid(lat_deg=np.linspace(90, -90, 13), lon_deg=np.arange(24) * 15.0)


def _weight_arrays(name: str, weights: Weights) -> dict[str, np.ndarray]:
    return {f"{name}_indptr": weights.indptr, f"{name}_index": weights.index, f"{name}_weight": weights.weight}


def tiny_tables() -> dict[str, np.ndarray]:
    """tables.npz of the tiny bundle."""
    lat, lon = pixel_centres(ZOOM)
    grid = tiny_grid()
    source_lat, source_lon = (a.ravel() for a in np.meshgrid(grid.lat_deg, grid.lon_deg, indexing="ij"))
    rng = np.random.default_rng(5)
    return {
        "lat_deg": lat,
        "lon_deg": lon,
        "source_lat_deg": grid.lat_deg,
        "source_lon_deg": grid.lon_deg,
        **_weight_arrays("to_healpix", bilinear_weights(grid, lat, lon)),
        **_weight_arrays("to_source", interpolation_weights(ZOOM, source_lat, source_lon)),
        "climatology": tiny_climatology(),
        "scale": SCALE,
        "latent_cell_std": rng.uniform(0.5, 1.5, size=(VARIABLES, LATENT_PIXELS)).astype(np.float32),
        "latent_level_std": rng.uniform(0.5, 1.5, size=(VARIABLES, LATENT_ZOOM + 1)).astype(np.float32),
    }


def tiny_golden() -> dict[str, np.ndarray]:
    """golden.npz of the tiny bundle, from the closed forms."""
    rng = np.random.default_rng(11)
    season = season_of(np.array([0.1, 0.6]), HARMONICS)
    field = (tiny_mean(season) + rng.normal(size=(2, VARIABLES, PIXELS))).astype(np.float32)
    latent = tiny_encode(field, season).astype(np.float32)
    inputs = {
        "noisy": rng.normal(size=(2, WINDOW, VARIABLES, LATENT_PIXELS)),
        "sigma": np.array([0.1, 5.0]),
        "noise_features": rng.normal(size=(2, 16)),
        "season": season_of(np.array([[0.1, 0.2, 0.3], [0.7, 0.8, 0.9]]), HARMONICS),
        "forcing": np.array([[1980.0, 1981, 1982], [2001, 2002, 2003]]),
        "source": np.array([0.0, 1.0]),
        "previous": rng.normal(size=(2, PREVIOUS, VARIABLES, LATENT_PIXELS)),
        "previous_valid": np.array([[0.0, 0.0], [1.0, 1.0]]),
    }
    inputs = {name: array.astype(np.float32) for name, array in inputs.items()}
    golden = {
        "encoder.field": field,
        "encoder.season": season,
        "encoder.level_mask": np.ones((2, ZOOM + 1), dtype=np.float32),
        "encoder.latent": latent,
        "decoder.latent": latent,
        "decoder.season": season,
        "decoder.field": tiny_decode(latent, season),
        **{f"denoiser.{name}": array for name, array in inputs.items()},
        "denoiser.denoised": tiny_denoise(**inputs),
    }
    return {name: np.asarray(array, dtype=np.float32) for name, array in golden.items()}


def tiny_manifest() -> Manifest:
    """The manifest of the tiny bundle, without its files."""
    parity = {"encoder": 1e-4, "decoder": 1e-3, "denoiser": 1e-4}
    nothing = "0" * 64
    stand_in = FileEntry(sha256=nothing, size=0)  # write_manifest puts the real ones
    return Manifest(
        name="tiny",
        grid=Grid(zoom=ZOOM),
        variables=(
            Variable(
                name="tas",
                standard_name="air_temperature",
                long_name="near-surface air temperature",
                units="K",
                cell_methods="time: mean",
                valid_range=(150.0, 350.0),
            ),
            Variable(
                name="uas",
                standard_name="eastward_wind",
                long_name="eastward near-surface wind",
                units="m s-1",
                cell_methods="time: mean",
                valid_range=(-100.0, 100.0),
            ),
        ),
        zooms=tuple(range(ZOOM + 1)),
        latent=Latent(zoom=LATENT_ZOOM, ratio=4, shape=(VARIABLES, LATENT_PIXELS)),
        time=Time(calendar="standard", step="1 month", harmonics=HARMONICS),
        denoiser=DenoiserFacts(
            window=WINDOW,
            previous=PREVIOUS,
            noise_features=16,
            forcing=Forcing(name="calendar year", units="year", range=(1948.0, 2005.0)),
            sources=("hr", "lr"),
        ),
        sampler=Sampler(name="dpm2m", steps=8, sigma_min=0.01, sigma_max=20.0, rho=7.0),
        files=dict.fromkeys(("tables.npz", *(f"{graph}.fp32.onnx" for graph in parity)), stand_in),
        parity={
            "fp32": {
                graph: Parity(
                    device="cpu",
                    backend="closed form",
                    nodes=7,
                    differences=tuple(
                        Difference(
                            variable=name,
                            zoom=ZOOM if graph == "decoder" else LATENT_ZOOM,
                            max_abs_error=tolerance / 10,
                            rmse=tolerance / 20,
                            tolerance=tolerance,
                            units="1" if graph == "denoiser" else units,
                        )
                        for name, units in (("tas", "K"), ("uas", "m s-1"))
                    ),
                )
                for graph, tolerance in parity.items()
            }
        },
        certificates={},
        provenance=Provenance(
            data=(Source(name="closed form", sha256=nothing),),
            period=("1948-01-01", "2004-12-31"),
            seeds={"autoencoder": 0},
            revision="none",
            versions={"onnx": onnx.__version__},
        ),
        licence="Apache-2.0",
    )


def make_tiny_bundle(folder: Path) -> Path:
    """Write the tiny bundle into a new folder; return the folder."""
    folder.mkdir(parents=True)
    (folder / "encoder.fp32.onnx").write_bytes(encoder_model())
    (folder / "decoder.fp32.onnx").write_bytes(decoder_model())
    (folder / "denoiser.fp32.onnx").write_bytes(denoiser_model())
    np.savez_compressed(folder / "tables.npz", **tiny_tables())
    np.savez_compressed(folder / "golden.npz", **tiny_golden())
    (folder / "MODEL_CARD.md").write_text("# tiny\n\nClosed forms, for tests.\n", encoding="utf-8")
    write_manifest(folder, tiny_manifest())
    return folder
