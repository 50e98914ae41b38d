"""Measuring on a machine that others use: calls take turns, and ratios are medians over the turns."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

PEAK = """
import sys
import numpy as np
from fsae.runtime.backends.onnx import import_onnxruntime
onnxruntime = import_onnxruntime("cpu")
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
shapes = {i.name: [int(sys.argv[2]), *i.shape[1:]] for i in session.get_inputs()}
session.run(None, {name: np.ones(shape, np.float32) for name, shape in shapes.items()})
print(next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def take_turns(calls: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each call in each round, the calls taking turns after one round to warm up.

    CPU time of one thread is what a quiet machine would take; wall time is shared with whoever else computes.
    """
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            began = time.process_time()
            call()
            if number:
                seconds[name].append(time.process_time() - began)
    return seconds


def ratio(seconds: Mapping[str, list[float]], one: str, other: str) -> float:
    """Median over the rounds of one call's time over another's."""
    return statistics.median(a / b for a, b in zip(seconds[one], seconds[other], strict=True))


def product() -> Callable[[], Any]:
    """A product of 768 x 768 matrices: 0.9 GFLOP, what the machine's best rate is measured with."""
    matrix = np.random.default_rng(0).normal(size=(768, 768)).astype(np.float32)
    return lambda: matrix @ matrix


PRODUCT_FLOP = 2 * 768**3


def peak_mib(graph: Path, rows: int) -> float:
    """Peak memory [MiB] of a fresh process that runs a graph once on so many rows."""
    out = subprocess.run([sys.executable, "-c", PEAK, graph, str(rows)], capture_output=True, check=True, text=True)
    return int(out.stdout) / 1024


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table; numbers with three figures."""

    def text(value: Any) -> str:
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    lines = [list(rows[0]), ["---"] * len(rows[0]), *([text(value) for value in row.values()] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def report(results: Mapping[str, list[dict[str, Any]]], path: Path | None) -> None:
    """Print the tables and, if a path is given, write them as JSON."""
    for title, rows in results.items():
        print(f"\n{title}\n\n{table(rows)}")
    if path is not None:
        path.write_text(json.dumps(results, indent=2), encoding="utf-8")
