"""Time for each pixel from zoom 4 to zoom 8, and peak memory by rows: both should grow with the pixels and no faster.

The network of the shipped zoom-8 configuration at ratio 16, each of its zooms as much lower as the field's is, computes
as many rows at once as the runtime does. Weights are untrained: times and memory do not depend on their values. Memory
is that of a fresh process: of the zoom-8 network, and of one of zoom 5 whose blocks have 768 tokens, where whole
matrices of attention would take 9 MiB a row, and their softmax as much again.

    python tests/bench/scaling.py [--rounds 5] [--json scaling.json]
"""

import statistics
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from msgspec.structs import replace
from speed import example, flop_of, session_of
from timing import peak_mib, ratio, report, take_turns
from torch import nn

from fsae.export.graphs.trace import DecoderGraph, EncoderGraph, export_graph
from fsae.runtime.backends.onnx import cpu_rows
from fsae.runtime.sphere.healpix import npix
from fsae.training.config import DEFAULT, SHIPPED, read_config
from fsae.training.networks.autoencoder import Autoencoder, AutoencoderConfig

ZOOMS = (4, 5, 6, 7, 8)
ROWS = (2, 4, 8, 16)


def lowered(config: AutoencoderConfig, steps: int) -> AutoencoderConfig:
    """The configuration of the same network on a coarser grid; where no windows are left, all cells attend to all."""
    window = config.attention_window_zoom
    return replace(
        config,
        zoom=config.zoom - steps,
        base_zoom=max(config.base_zoom - steps, 0),
        latent_zoom=config.latent_zoom - steps,
        fine_token_zoom=config.fine_token_zoom - steps,
        coarse_token_zoom=config.coarse_token_zoom - steps,
        attention_window_zoom=None if window is None or window < steps else window - steps,
    )


def untrained(config: AutoencoderConfig) -> Autoencoder:
    """An autoencoder of one variable with random statistics."""
    return Autoencoder(config, torch.randn(1, 9, npix(config.zoom)), torch.ones(1)).eval()


def write_graphs(model: Autoencoder, folder: Path) -> dict[str, Path]:
    """Files of encoder and decoder."""
    paths, modules = {}, {"encoder": EncoderGraph(model), "decoder": DecoderGraph(model)}
    for graph, inputs in example(model, 2).items():
        module: nn.Module = modules[graph]
        paths[graph] = folder / f"{graph}.onnx"
        paths[graph].write_bytes(next(iter(export_graph(graph, module, inputs).values())))
    return paths


def time_rows(config: AutoencoderConfig, rounds: int, folder: Path) -> list[dict[str, Any]]:
    """One row for each zoom, all of which take turns."""
    calls: dict[tuple[int, str], Callable[[], Any]] = {}
    flop: dict[tuple[int, str], float] = {}
    rows = {zoom: cpu_rows(npix(zoom)) for zoom in ZOOMS}
    for zoom in ZOOMS:
        model = untrained(lowered(config, config.zoom - zoom))
        modules: dict[str, nn.Module] = {"encoder": EncoderGraph(model), "decoder": DecoderGraph(model)}
        for graph, path in write_graphs(model, folder).items():
            session, inputs = session_of(path), example(model, rows[zoom])[graph]
            calls[zoom, graph] = partial(session.run, None, inputs)
            flop[zoom, graph] = flop_of(modules[graph], inputs.values()) / (rows[zoom] * npix(zoom))
    seconds = take_turns({f"{zoom} {graph}": call for (zoom, graph), call in calls.items()}, rounds)
    found, first = [], ZOOMS[0]
    for zoom in ZOOMS:
        row: dict[str, Any] = {"zoom": zoom, "rows": rows[zoom]}
        for graph in ("encoder", "decoder"):
            share = rows[first] * npix(first) / (rows[zoom] * npix(zoom))
            row[f"{graph} ns a pixel"] = 1e9 * statistics.median(seconds[f"{zoom} {graph}"]) / (rows[zoom] * npix(zoom))
            row[f"{graph} / zoom {first}"] = share * ratio(seconds, f"{zoom} {graph}", f"{first} {graph}")
            row[f"{graph} FLOP / zoom {first}"] = flop[zoom, graph] / flop[first, graph]
        found.append(row)
    return found


def memory_rows(configs: dict[str, AutoencoderConfig], folder: Path) -> list[dict[str, Any]]:
    """One row for each graph; the last number is what every further row of the batch takes."""
    found = []
    for name, config in configs.items():
        for graph, path in write_graphs(untrained(config), folder).items():
            peaks = [peak_mib(path, rows) for rows in ROWS]
            slope = float(np.polyfit(ROWS, peaks, 1)[0])
            found.append(
                {"model": name, "graph": graph}
                | {f"{rows} rows MiB": peak for rows, peak in zip(ROWS, peaks, strict=True)}
                | {"MiB a row": slope, "MiB a row, last doubling": (peaks[-1] - peaks[-2]) / (ROWS[-1] - ROWS[-2])}
            )
    return found


@click.command()
@click.option("--rounds", type=click.IntRange(min=1), default=5, show_default=True, help="Timed rounds.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the tables there too.")
def main(rounds: int, json_path: Path | None) -> None:
    """Print tables of times and memory."""
    torch.set_num_threads(1)
    large = read_config(SHIPPED / "z8-ratio-16.toml").autoencoder
    tokens = replace(read_config(DEFAULT).autoencoder, fine_token_zoom=3, coarse_token_zoom=3)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        results = {"Time": time_rows(large, rounds, folder)}
        results["Peak memory"] = memory_rows({"zoom 5, 768 tokens": tokens, "zoom 8": large}, folder)
        report(results, json_path)


if __name__ == "__main__":
    main()
