"""Zoom-8 models, the size of ERA5: built from the shipped configurations, exported and timed with real shapes.

No data of that size ships with the project, so the weights are untrained; sizes, operators and times do not depend on
their values. Times are medians of interleaved calls of one field, ONNX Runtime beside torch eager on the same weights,
in CPU time with one thread each.

    python tests/bench/zoom8.py [--repeats 3] [--json zoom8.json]
"""

import json
import resource
import statistics
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import torch
from timing import take_turns

from fsae.export.graphs.trace import DecoderGraph, EncoderGraph, export_graph
from fsae.runtime.backends.onnx import import_onnxruntime
from fsae.runtime.sphere.healpix import npix
from fsae.training.config import SHIPPED, read_config
from fsae.training.networks.autoencoder import Autoencoder

RATIOS = (4, 16, 64, 256)


def build(ratio: int) -> Autoencoder:
    """The untrained autoencoder of a shipped zoom-8 configuration, with gates open enough for every block to count."""
    config = read_config(SHIPPED / f"z8-ratio-{ratio}.toml")
    torch.manual_seed(config.seed)
    climatology = torch.randn(len(config.data.variables), 1 + 2 * config.data.harmonics, npix(config.autoencoder.zoom))
    return Autoencoder(config.autoencoder, climatology, torch.ones(len(config.data.variables))).eval()


def measure(ratio: int, repeats: int) -> list[dict[str, Any]]:
    """One row for the encoder and one for the decoder."""
    onnxruntime, model = import_onnxruntime("cpu"), build(ratio)
    shape = model.config
    rng = np.random.default_rng(0)
    season = rng.normal(size=(2, model.climatology.shape[1] - 1)).astype(np.float32)
    field = rng.normal(size=(2, 1, npix(shape.zoom))).astype(np.float32)
    mask = np.ones((2, len(shape.zooms)), dtype=np.float32)
    latent = rng.normal(size=(2, 1, npix(shape.latent_zoom))).astype(np.float32)
    graphs: tuple[tuple[str, torch.nn.Module, dict[str, np.ndarray]], ...] = (
        ("encoder", EncoderGraph(model), {"field": field, "season": season, "level_mask": mask}),
        ("decoder", DecoderGraph(model), {"latent": latent, "season": season}),
    )
    rows = []
    for name, module, inputs in graphs:
        (data,) = export_graph(name, module, inputs).values()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        one = {key: value[:1] for key, value in inputs.items()}
        tensors = [torch.from_numpy(value) for value in one.values()]
        with torch.no_grad():
            expected = module(*tensors).numpy()
            turns = take_turns(
                {
                    "torch": lambda module=module, tensors=tensors: module(*tensors),
                    "onnxruntime": lambda session=session, one=one: session.run(None, one),
                },
                repeats,
            )
        seconds = {call: statistics.median(values) for call, values in turns.items()}
        found = session.run(None, one)[0]
        rows.append(
            {
                "ratio": ratio,
                "graph": name,
                "parameters": sum(p.numel() for p in model.parameters()),
                "nodes": len(onnx.load_model_from_string(data).graph.node),
                "file_mib": len(data) / 2**20,
                "difference": float(np.abs(found - expected).max()),
                "torch_s": seconds["torch"],
                "onnxruntime_s": seconds["onnxruntime"],
                "time_ratio": seconds["onnxruntime"] / seconds["torch"],
                "peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
            }
        )
    return rows


@click.command()
@click.option("--repeats", type=click.IntRange(min=1), default=3, show_default=True, help="Timed calls of each.")
@click.option("--ratio", "ratios", type=click.Choice([str(r) for r in RATIOS]), multiple=True, help="Default: all.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the rows there too.")
def main(repeats: int, ratios: tuple[str, ...], json_path: Path | None) -> None:
    """Print a table of the zoom-8 models."""
    torch.set_num_threads(1)
    rows = []
    click.echo(
        "| ratio | graph | parameters | nodes | MiB | difference | torch s | ONNX Runtime s | ratio | peak GiB |"
    )
    click.echo("|---|---|---|---|---|---|---|---|---|---|")
    for ratio in [int(r) for r in ratios] or RATIOS:
        for row in measure(ratio, repeats):
            rows.append(row)
            click.echo(
                "| {ratio} | {graph} | {parameters} | {nodes} | {file_mib:.0f} | {difference:.0e} | {torch_s:.2f} | "
                "{onnxruntime_s:.2f} | {time_ratio:.2f} | {peak_gib:.1f} |".format_map(row)
            )
    if json_path is not None:
        json_path.write_text(json.dumps(rows, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
