"""The measurements of a graph, the libraries that make them, and the differences that stop an export."""

import copy
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from onnx.helper import make_node
from small_graphs import onnx_file
from tiny_run import TAS, files_of

from fsae.export.certificate.certify import measure
from fsae.export.certificate.ensembles import Drawn, check_ensembles, compare_ensembles
from fsae.export.certificate.originals import Part, make_parts, original_run
from fsae.export.certificate.parity import check_batches, check_parity, compare, larger
from fsae.export.certificate.runners import onnxruntime_runner, reference_runner
from fsae.export.graphs.trace import EncoderGraph
from fsae.export.precisions.half import convert
from fsae.runtime.bundle.files import Bundle
from fsae.runtime.bundle.manifest import Difference
from fsae.runtime.errors import ToleranceError, UsageError
from fsae.training.config import Tolerance, read_config
from fsae.training.fitting.run_folder import Run

LOOSE, EXACT = Tolerance(share=0.1, denoiser=0.2), Tolerance(share=2e-4, denoiser=5e-4)
WIND = msgspec.structs.replace(TAS, name="uas", units="m s-1", valid_range=(-100.0, 100.0))


def test_differences_are_physical_and_of_every_variable_and_zoom() -> None:  # oracle: by hand
    fields = np.stack([np.full((3, 192), 300.0), np.full((3, 192), 8.0)], axis=1).astype(np.float32)
    scale = np.array([2.0, 0.5], dtype=np.float32)
    expected = np.zeros((3, 2, 48), dtype=np.float32)
    found = expected.copy()
    found[1, 0, 2], found[2, 1, 3] = 4e-3, -8e-3
    part = Part(inputs={}, expected=expected, fields=fields, zooms=(0, 1))
    rows = compare("encoder", part, found, (TAS, WIND), scale, LOOSE, EXACT)
    assert [(row.variable, row.zoom, row.units) for row in rows] == [
        ("tas", 0, "K"),
        ("tas", 1, "K"),
        ("uas", 0, "m s-1"),
        ("uas", 1, "m s-1"),
    ]
    # times the scale; a quarter of it in the mean over four cells
    np.testing.assert_allclose([row.max_abs_error for row in rows], [2e-3, 8e-3, 1e-3, 4e-3], rtol=1e-6)
    np.testing.assert_allclose([row.rmse for row in rows], [2e-3 / 6, 8e-3 / 12, 1e-3 / 6, 4e-3 / 12], rtol=1e-6)
    # 8 units in the last place of 300 (2**-15) and 8 (2**-20); of the scale 2e-4 where means are kept, else 0.1
    ulps = [8 * 2.0**-15, 8 * 2.0**-20]
    wanted = [ulps[0] + 4e-4, ulps[0] + 0.2, ulps[1] + 1e-4, ulps[1] + 0.05]
    np.testing.assert_allclose([row.tolerance for row in rows], wanted, rtol=1e-6)
    with pytest.raises(
        ToleranceError, match=r"the fp16 encoder differs .* 0\.002 K in tas at zoom 0, .*\[export.fp16\] in mine/config"
    ):
        check_parity("encoder", "fp16", rows, "mine/config.json")
    check_parity("encoder", "fp16", rows[1:2], "mine/config.json")
    expected, found = (
        np.repeat(each[:, None], 2, axis=1) for each in (expected, found)
    )  # (row, step, variable, pixel)
    rows = compare("denoiser", replace(part, expected=expected), found, (TAS, WIND), scale, LOOSE, EXACT)
    np.testing.assert_allclose([row.max_abs_error for row in rows], [1e-3, 4e-3, 2e-3, 8e-3], rtol=1e-6)
    assert {(row.units, row.tolerance) for row in rows} == {("1", 0.2)}


RAIN = msgspec.structs.replace(TAS, name="pr", units="kg m-2 s-1", valid_range=(0.0, 1e-2), transform="sqrt")
SHARES = [Tolerance(share=share, denoiser=1.0) for share in (2e-4, 0.015, 0.12, 0.6)]  # of all precisions


def roots(graph: str, expected: np.ndarray, found: np.ndarray, tolerance: Tolerance) -> list[Difference]:
    """Differences of rain, learned as its square root with a scale of 0.002, by zoom."""
    fields = np.full((1, 1, 48), 9e-6, dtype=np.float32)
    fields[0, 0, 5] = 1e-4
    part = Part(inputs={}, expected=fields if graph == "decoder" else expected, fields=fields, zooms=(0, 1))
    return compare(graph, part, found, (RAIN,), np.array([0.002], np.float32), tolerance, EXACT)


@pytest.mark.parametrize("tolerance", SHARES)
def test_errors_of_a_root_are_physical_ones(tolerance: Tolerance) -> None:  # oracle: (r + e)**2 - r**2 with r = 0.01
    fields = np.full((1, 1, 48), 9e-6, dtype=np.float32)
    fields[0, 0, 5] = 1e-4
    largest = tolerance.share * 0.002  # what the root may be off by
    for share, good in ((0.9, True), (1.3, False)):
        off = fields.copy()
        off[0, 0, 5] = (0.01 - share * largest) ** 2  # an error of the root, downwards: (2 r - e) e
        rows = roots("decoder", fields, off, tolerance)
        assert [row.units for row in rows] == ["kg m-2 s-1"] * 2
        assert rows[1].good == good
    assert not roots("decoder", fields, np.zeros_like(fields), tolerance)[1].good  # it rains nowhere


def test_latents_of_a_root_are_in_its_units() -> None:  # oracle: the share of the scale, by hand
    latent = np.zeros((1, 1, 48), np.float32)
    off = latent.copy()
    off[0, 0, 3] = 0.05
    base, fine = roots("encoder", latent, off, SHARES[2])
    assert {base.units, fine.units} == {"(kg m-2 s-1)^0.5"}
    ulps = 8 * float(np.spacing(np.float32(0.01)))
    assert fine.max_abs_error == pytest.approx(0.05 * 0.002)
    assert fine.tolerance == pytest.approx(0.12 * 0.002 + ulps)
    assert base.tolerance == pytest.approx(2e-4 * 0.002 + ulps)  # means of latents pass in float32
    named = msgspec.structs.replace(SHARES[2], fields={"pr": 4e-6})  # [kg m-2 s-1], of the largest value 1e-4
    assert roots("encoder", latent, off, named)[1].tolerance == pytest.approx(4e-6 / 0.02 + ulps)
    fields = np.zeros((1, 1, 48), np.float32)
    assert roots("decoder", fields, fields, named)[1].tolerance == pytest.approx(4e-6, rel=1e-3)


def test_tolerances_of_the_configuration_count() -> None:  # oracle: by hand
    named = Tolerance(share=0.1, denoiser=0.2, fields={"tas": 0.25})
    assert (named.of("tas", 2.0), named.of("uas", 2.0)) == (0.25, 0.2)
    shipped = Path(__file__).parents[3] / "training" / "configs" / "default.toml"
    nothing, unknown = "share = 0.0, denoiser = 1.0", "share = 1.0, denoiser = 1.0, fields = {x = 1.0}"
    for change, words in ((nothing, "above 0"), (unknown, r"export\.fp16\.fields names \['x'\]")):
        with pytest.raises(UsageError, match=words):
            read_config(shipped, [f"export.fp16 = {{{change}}}"])


def test_the_worse_of_two_measurements_counts_and_nan_is_the_worst() -> None:  # oracle: by hand
    row = Difference(variable="tas", zoom=1, max_abs_error=1.0, rmse=0.5, tolerance=2.0, units="K")
    other = msgspec.structs.replace(row, max_abs_error=0.5, rmse=0.7)
    assert larger([row], [other]) == larger([other], [row]) == [msgspec.structs.replace(row, rmse=0.7)]
    (lost,) = larger([row], [msgspec.structs.replace(row, max_abs_error=float("nan"))])
    with pytest.raises(ToleranceError, match="no finite number for tas at zoom 1"):
        check_parity("decoder", "fp16", [lost], "mine/config.json")


def sixteen_bit(kind: int) -> dict[str, bytes]:
    """y = float(low(x) @ low([1, 1])) for two columns."""
    nodes = [
        make_node("Cast", ["x"], ["low"], to=kind),
        make_node("Cast", ["ones"], ["low_ones"], to=kind),
        make_node("MatMul", ["low", "low_ones"], ["product"]),
        make_node("Cast", ["product"], ["y"], to=TensorProto.FLOAT),
    ]
    ones = np.ones((2, 1), np.float32)
    return {"g.onnx": onnx_file(nodes, {"x": ["batch", 2]}, {"y": ["batch", 1]}, {"ones": ones})}


@pytest.mark.parametrize(("kind", "bits"), [(TensorProto.FLOAT16, 11), (TensorProto.BFLOAT16, 8)])
def test_the_reference_rounds_every_result_once(kind: int, bits: int) -> None:  # oracle: rounding to even, by hand
    x = np.array([[1.0, 2.0**-bits], [1.0, 3 * 2.0**-bits], [1 + 2.0**-bits, 0.0]], np.float32)
    found = reference_runner(sixteen_bit(kind), "y")({"x": x})
    assert found.ravel().tolist() == [1.0, 1 + 4 * 2.0**-bits, 1.0]


def scaled_values(files: dict[str, bytes], block: str, first: int, factor: float) -> dict[str, bytes]:
    """An encoder's files with attention's values, channels from `first` on, times `factor` and what follows through it.

    Its nodes are named by module, and the second input of a product is its weights. What is added to values, of cells
    and of conditions, comes through maps of its own; that of cells depends on nothing and is a constant.
    """
    ((name, data),) = files.items()
    model = onnx.load_from_string(data)
    constants = {constant.name: constant for constant in model.graph.initializer}
    changed = 0
    for node in model.graph.node:
        module = node.name.rpartition("/")[0]
        own = module.removeprefix(f"{block}.")
        values = own == "query_key_value" and node.input[1] in constants
        added = (own, node.op_type) == ("norm_attention.shift_condition", "MatMul")
        if values or added or (own, node.op_type) == ("attention_out", "MatMul"):
            constant = constants[node.input[1]]
            array = numpy_helper.to_array(constant).copy()
            if module.endswith("attention_out"):
                array /= factor
            else:
                array[..., first:] *= factor
            constant.CopyFrom(numpy_helper.from_array(array, constant.name))
            changed += 1
    assert changed == 4  # weights and two shifts of the one, weights of the other
    return {name: model.SerializeToString()}


def test_overflow_of_half_precision_is_caught(run: Run, bundle: Bundle) -> None:
    # oracle: the same function in float32. Values of attention are 30,000 times larger and what follows on them as
    # much smaller, which no float32 or bfloat16 notices and float16 cannot hold.
    original = original_run(run)
    module = EncoderGraph(copy.deepcopy(run.autoencoder)).eval()
    part, original = make_parts(original, original.years)["encoder"], replace(original, modules={"encoder": module})
    block = module.autoencoder.encoder_fine[0]
    width = block.attention_out.in_features
    with torch.no_grad():
        block.query_key_value.weight[2 * width :] *= 3e4
        block.query_key_value.bias[2 * width :] *= 3e4
        block.attention_out.weight /= 3e4
    data = scaled_values(files_of(bundle, "encoder"), "encoder_fine.0", 2 * width, 3e4)
    for precision in ("fp32", "bf16"):
        own = data if precision == "fp32" else convert(data, precision)
        assert measure(original, "encoder", precision, part, own).worst.max_abs_error < 0.2
    with pytest.raises(ToleranceError, match=r"fp16 encoder gives no finite number .* leave the range of fp16"):
        measure(original, "encoder", "fp16", part, convert(data, "fp16"))


def test_ensembles_are_compared_by_member_spectrum_and_score() -> None:  # oracle: closed forms
    generator = np.random.default_rng(0)
    members = generator.normal(280, 1, (4, 6, 1, 192)).astype(np.float32)
    mean = members.mean(axis=0)
    exact = Drawn(members=members, truth=mean)
    wider = Drawn(members=(mean + 1.01 * (members - mean)).astype(np.float32), truth=mean)
    tolerance = Tolerance(share=1.0, denoiser=1.0, spectrum=0.03, crps=0.1)
    (same,) = compare_ensembles((TAS,), exact, exact, tolerance)
    assert (same.rmse, same.spectrum, same.crps) == (0.0, 0.0, same.crps_fp32)
    (other,) = compare_ensembles((TAS,), exact, wider, tolerance)
    np.testing.assert_allclose(other.spectrum, 1.01**2 - 1, rtol=1e-3)  # power goes with the square
    np.testing.assert_allclose(other.rmse, 0.01 * np.std(members - mean), rtol=1e-3)
    np.testing.assert_allclose(other.crps / other.crps_fp32, 1.01, rtol=1e-3)  # all distances grow
    check_ensembles({"fp16": (other,)})
    with pytest.raises(ToleranceError, match=r"fp16 changes the power of tas at some degree by 2\.01%"):
        check_ensembles({"fp16": (msgspec.structs.replace(other, spectrum_tolerance=0.02),)})
    with pytest.raises(ToleranceError, match="takes the CRPS of tas from"):
        check_ensembles({"fp16": (msgspec.structs.replace(other, crps_tolerance=1e-6),)})


def test_batch_dependence_is_noticed() -> None:  # oracle: an operator over the whole batch
    nodes = [
        make_node("ReduceMean", ["latent"], ["mean"], keepdims=1),
        make_node("Add", ["latent", "mean"], ["field"]),
    ]
    data = onnx_file(nodes, {"latent": ["batch", 4]}, {"field": ["batch", 4]})
    rows = {"latent": np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)}
    with pytest.raises(ToleranceError, match="gives another result in batches of"):
        check_batches("decoder", onnxruntime_runner({"g.onnx": data}, "field"), rows)
