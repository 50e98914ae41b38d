"""Sessions beside PyTorch on the same weights, beside the machine's rate of products, and in 8 bits.

All on the CPU with one thread each, in CPU time, as medians over interleaved rounds. Without --run the weights are
untrained ones of the shipped configurations; times do not depend on their values.

    python tests/bench/speed.py [--run runs/my-run] [--zoom8 16] [--rounds 9] [--json speed.json]
"""

import statistics
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from threadpoolctl import threadpool_limits
from timing import PRODUCT_FLOP, product, ratio, report, take_turns
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from zoom8 import RATIOS, build

from fsae.export.graphs.trace import DecoderGraph, EncoderGraph, export_graph
from fsae.export.precisions.int8 import quantize
from fsae.runtime.backends.onnx import import_onnxruntime
from fsae.runtime.sphere.healpix import npix
from fsae.training.config import DEFAULT, read_config
from fsae.training.fitting.run_folder import load_run, make_denoiser
from fsae.training.networks.autoencoder import Autoencoder
from fsae.training.networks.denoiser import Denoiser

F32 = np.ndarray
ROWS = 8  # what the runtime computes at once at zoom 5


def models(run: Path | None) -> tuple[Autoencoder, Denoiser]:
    """Those of a run, or untrained ones of the default configuration."""
    if run is not None:
        trained = load_run(run)
        if trained.denoiser is None:
            raise click.ClickException(f"{run} has no denoiser: give another run, or none")
        return trained.autoencoder.eval(), trained.denoiser.eval()
    config = read_config(DEFAULT)
    variables = len(config.data.variables)
    climatology = torch.randn(variables, 1 + 2 * config.data.harmonics, npix(config.autoencoder.zoom))
    autoencoder = Autoencoder(config.autoencoder, climatology, torch.ones(variables))
    return autoencoder.eval(), make_denoiser(config).eval()


def example(model: Autoencoder, rows: int) -> dict[str, dict[str, F32]]:
    """Random inputs of encoder and decoder."""
    rng, shape = np.random.default_rng(0), model.config
    variables, coefficients, _ = model.climatology.shape
    season = rng.normal(size=(rows, coefficients - 1))
    fields = {"field": rng.normal(size=(rows, variables, npix(shape.zoom))), "season": season}
    fields["level_mask"] = np.ones((rows, len(shape.zooms)))
    latents = {"latent": rng.normal(size=(rows, variables, npix(shape.latent_zoom))), "season": season}
    return {
        graph: {name: value.astype(np.float32) for name, value in inputs.items()}
        for graph, inputs in (("encoder", fields), ("decoder", latents))
    }


def windows(model: Denoiser, variables: int, harmonics: int, rows: int) -> dict[str, F32]:
    """Random inputs of a denoiser."""
    rng, shape = np.random.default_rng(1), model.config
    latent = (variables, npix(model.zooms[-1]))
    sizes: dict[str, tuple[int, ...]] = {
        "noisy": (shape.window, *latent),
        "sigma": (),
        "noise_features": (16,),
        "season": (shape.window, 2 * harmonics),
        "forcing": (shape.window,),
        "source": (),
        "previous": (shape.previous, *latent),
        "previous_valid": (shape.previous,),
    }
    inputs = {name: rng.normal(size=(rows, *size)).astype(np.float32) for name, size in sizes.items()}
    return inputs | {"sigma": np.full(rows, 2.0, np.float32), "previous_valid": np.ones((rows, 2), np.float32)}


def attention_flop(query: list[int], key: list[int], value: list[int], *_: Any, **__: Any) -> int:
    """Of the two products of attention, which PyTorch's counter leaves out on CPUs."""
    batch, heads, tokens, width = query
    return 2 * batch * heads * tokens * key[2] * (width + value[3])


def flop_of(module: nn.Module, inputs: Iterable[F32]) -> int:
    """Floating-point operations of a module's products in one call."""
    attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping={attention: attention_flop}) as counter:
        module(*map(torch.from_numpy, inputs))
    return int(counter.get_total_flops())


def session_of(graph: Path) -> Any:
    """A session of one thread."""
    onnxruntime = import_onnxruntime("cpu")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def measure(
    name: str, graph: str, module: nn.Module, inputs: dict[str, F32], folder: Path, rounds: int, eight_bits: bool
) -> dict[str, Any]:
    """One row: a graph's times beside the module's."""
    two = {key: np.concatenate([value, value])[:2] for key, value in inputs.items()}  # a single row is no batch
    files = export_graph(graph, module, two)
    path = folder / f"{graph}-{name.replace(' ', '-')}.onnx"
    path.write_bytes(next(iter(files.values())))
    session, tensors = session_of(path), [torch.from_numpy(value) for value in inputs.values()]
    calls: dict[str, Callable[[], Any]] = {
        "torch": lambda: module(*tensors),
        "session": lambda: session.run(None, inputs),
        "product": product(),
    }
    if eight_bits:
        small = folder / "int8.onnx"
        small.write_bytes(next(iter(quantize(files, inputs).values())))
        other = session_of(small)
        calls["int8"] = lambda: other.run(None, inputs)
    with torch.no_grad():
        expected = module(*tensors).numpy()
        seconds = take_turns(calls, rounds)
    found = session.run(None, inputs)[0]
    flop, median = flop_of(module, inputs.values()), {key: statistics.median(values) for key, values in seconds.items()}
    return {
        "model": name,
        "graph": graph,
        "rows": len(found),
        "torch ms": 1e3 * median["torch"],
        "session ms": 1e3 * median["session"],
        "session / torch": ratio(seconds, "session", "torch"),
        "int8 / fp32": ratio(seconds, "int8", "session") if eight_bits else "",
        "GFLOP/s": flop / median["session"] / 1e9,
        "of the products' rate": ratio(seconds, "product", "session") * flop / PRODUCT_FLOP,
        "difference": float(np.abs(found - expected).max() / expected.std()),
    }


@click.command()
@click.option("--run", type=click.Path(exists=True, path_type=Path), help="A run whose weights to take.")
@click.option("--zoom8", "ratios", type=click.Choice([str(r) for r in RATIOS]), multiple=True, help="Zoom 8 beside it.")
@click.option("--rounds", type=click.IntRange(min=1), default=9, show_default=True, help="Timed rounds at zoom 5.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the table there too.")
def main(run: Path | None, ratios: tuple[str, ...], rounds: int, json_path: Path | None) -> None:
    """Print a table of times."""
    torch.set_num_threads(1)
    threadpool_limits(1)  # NumPy's product
    autoencoder, denoiser = models(run)
    variables, coefficients, _ = autoencoder.climatology.shape
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        zoom = f"zoom {autoencoder.config.zoom}"
        inputs = example(autoencoder, ROWS)
        inputs["denoiser"] = windows(denoiser, variables, coefficients // 2, ROWS)
        modules: dict[str, nn.Module] = {"encoder": EncoderGraph(autoencoder), "decoder": DecoderGraph(autoencoder)}
        modules["denoiser"] = denoiser
        rows = [measure(zoom, graph, modules[graph], inputs[graph], folder, rounds, True) for graph in modules]
        for number in map(int, ratios):
            large = build(number)
            for graph, module in (("encoder", EncoderGraph(large)), ("decoder", DecoderGraph(large))):
                given = example(large, 1)[graph]
                rows.append(measure(f"zoom 8 ratio {number}", graph, module, given, folder, min(rounds, 3), False))
        report({"Time": rows}, json_path)


if __name__ == "__main__":
    main()
