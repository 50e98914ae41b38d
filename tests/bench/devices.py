"""Backends side by side on one device, by batch: the runtime's own, with and without CUDA graphs, and torch.compile.

    python tests/bench/devices.py --device trt [--model engines/default] [--rows 1,8,32] [--rounds 9] [--json FILE]

Every call goes from NumPy to NumPy, so copies to and from the device are in it. PyTorch has untrained weights of the
default configuration: times do not depend on their values. Ceilings are measured in the same run: a product of large
float32 matrices, and a copy in the device's memory. FLOP are those of the products; bytes are weights, inputs and
outputs, which each call has to move at least once. TensorRT engines are built here, one for each batch.
"""

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from speed import example, flop_of, models, windows
from timing import report
from torch import nn

from fsae.export.graphs.trace import DecoderGraph, EncoderGraph
from fsae.runtime.backends.choose import open_graphs
from fsae.runtime.backends.graphs import DenoiserInputs, GraphCalls
from fsae.runtime.bundle.files import Bundle, open_bundle

F32 = np.ndarray
Call = Callable[[tuple[F32, ...]], Any]
CEILING = {"cpu": (2048, 2**26), "cuda": (8192, 2**30)}  # rows of the matrices, bytes copied


def wall(call: Callable[[], Any]) -> float:
    """Seconds of a call that has ended when it returns."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def medians(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each, the calls taking turns after two rounds to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 2):
        for name, call in calls.items():
            taken = wall(call)
            if number > 1:
                seconds[name].append(taken)
    return {name: statistics.median(values) for name, values in seconds.items()}


def ceilings(device: torch.device, rounds: int) -> dict[str, float]:
    """FLOP/s of a product and bytes/s of a copy, which reads and writes."""
    size, count = CEILING[device.type]
    matrix, source = torch.rand(size, size, device=device), torch.empty(count, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def done(_: Any) -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    calls = {"product": lambda: done(matrix @ matrix), "copy": lambda: done(target.copy_(source))}
    seconds = medians(calls, rounds)
    return {"flop": 2 * size**3 / seconds["product"], "bytes": 2 * count / seconds["copy"]}


def compiled(module: nn.Module, device: torch.device) -> Call:
    """A module by torch.compile on the device, from NumPy to NumPy."""
    fast = torch.compile(module.to(device))

    def run(arrays: tuple[F32, ...]) -> F32:
        with torch.no_grad():
            result: F32 = fast(*(torch.from_numpy(array).to(device) for array in arrays)).cpu().numpy()
        return result

    return run


def run_graph(graphs: GraphCalls, graph: str, arrays: tuple[Any, ...]) -> Any:
    """Run one graph on its inputs, in the graph's order."""
    calls = {"encoder": graphs.encode, "decoder": graphs.decode}
    return calls[graph](*arrays) if graph in calls else graphs.denoise(DenoiserInputs(*arrays), graph)


def runtimes(bundle: Bundle, device: str, rows: int, folder: Path) -> dict[str, GraphCalls]:
    """The runtime's backends; engines are built for exactly so many rows."""
    if device not in ("trt", "trt-rtx"):
        return {f"fsae {device}": open_graphs(bundle, device)}  # type: ignore[dict-item]
    from fsae.export.engines.build import build_engines
    from fsae.export.engines.compile import BuildOptions
    from fsae.runtime.backends.tensorrt import TensorRTGraphs

    own = open_bundle(shutil.copytree(bundle.folder, folder / f"rows-{rows}", ignore=shutil.ignore_patterns("trt")))
    build_engines(own, device, BuildOptions(profile=(rows, rows, rows)))
    kinds = {"": True, ", kernel by kernel": False}
    return {f"fsae {device}{name}": TensorRTGraphs(own, device, cuda_graphs=graphs) for name, graphs in kinds.items()}


@click.command()
@click.option("--device", type=click.Choice(["cpu", "cuda", "trt", "trt-rtx"]), default="cpu", show_default=True)
@click.option("--model", type=click.Path(exists=True, path_type=Path), help="A bundle; default that of fsae-run.")
@click.option("--rows", default="1,8,32", show_default=True, help="Batches.")
@click.option("--rounds", type=click.IntRange(min=1), default=9, show_default=True, help="Timed rounds.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the table there too.")
def main(device: str, model: Path | None, rows: str, rounds: int, json_path: Path | None) -> None:
    """Print a table of backends."""
    bundle = open_bundle(model if model is not None else Path(__file__).parents[2] / "engines" / "default")
    place = torch.device("cpu" if device == "cpu" else "cuda")
    autoencoder, denoiser = models(None)
    _, coefficients, _ = autoencoder.climatology.shape
    modules: dict[str, nn.Module] = {"encoder": EncoderGraph(autoencoder), "decoder": DecoderGraph(autoencoder)}
    modules["denoiser"] = denoiser
    best, results = ceilings(place, rounds), []
    with tempfile.TemporaryDirectory() as scratch:
        for count in map(int, rows.split(",")):
            inputs = example(autoencoder, count) | {"denoiser": windows(denoiser, 1, coefficients // 2, count)}
            graphs = runtimes(bundle, device, count, Path(scratch))
            for graph, module in modules.items():
                arrays = tuple(inputs[graph].values())
                flop = flop_of(module.to("cpu"), arrays)
                calls: dict[str, Callable[[], Any]] = {
                    name: lambda own=own, graph=graph, arrays=arrays: run_graph(own, graph, arrays)
                    for name, own in graphs.items()
                }
                torch_call = compiled(module, place)
                calls["torch.compile"] = lambda torch_call=torch_call, arrays=arrays: torch_call(arrays)
                moved = bundle.manifest.files[f"{graph}.fp32.onnx"].size + sum(array.nbytes for array in arrays)
                for name, seconds in (found := medians(calls, rounds)).items():
                    results.append(
                        {
                            "graph": graph,
                            "rows": count,
                            "backend": name,
                            "ms a row": 1e3 * seconds / count,
                            "/ torch.compile": seconds / found["torch.compile"],
                            "of the products' rate": flop / seconds / best["flop"],
                            "of the memory's rate": moved / seconds / best["bytes"],
                        }
                    )
    report({f"{device}: {best['flop'] / 1e9:.3g} GFLOP/s, {best['bytes'] / 1e9:.3g} GB/s": results}, json_path)


if __name__ == "__main__":
    main()
