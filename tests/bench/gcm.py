"""Measure how fast the daily engine draws days beside the general circulation model it emulates, on one core.

    python tests/bench/gcm.py --gcm gcm/bin/python [--model engines/gcm-daily] [--days 5] [--rounds 3] [--json FILE]

`--gcm` is the Python of an environment with the model (training/sample/simulate_gcm.py says how to make one). Both run
on the same core and take turns; of the model the second call counts, as the first one compiles. The engine draws twenty
members of a month by `fsae-run generate`, whose start and writing are part of it.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import click
from timing import report

SAMPLE = Path(__file__).parents[2] / "training" / "sample"
MEMBERS, STEPS = 20, 30
SIMULATE = """
import os, pathlib, sys, time
import numpy as np
sys.path.insert(0, sys.argv[1])
from simulate_gcm import make_model
truncation, days, boundary = int(sys.argv[2]), float(sys.argv[3]), pathlib.Path(sys.argv[4])
model, forcing = make_model(truncation, np.datetime64("1995-01-01"), 30, boundary)
model.run(forcing=forcing, save_interval=1.0, total_time=days, output_averages=True)
began = time.perf_counter(), time.process_time()
found = model.resume(forcing=forcing, save_interval=1.0, total_time=days, output_averages=True)
found.to_xarray()
print((time.perf_counter() - began[0]) / days, (time.process_time() - began[1]) / days)
"""


def on_one_core(command: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command on the first core that this process may use."""
    core = {min(os.sched_getaffinity(0))}
    return subprocess.run(
        command, capture_output=True, text=True, check=True, preexec_fn=lambda: os.sched_setaffinity(0, core)
    )


def simulated(gcm: str, truncation: int, days: int) -> float:
    """CPU seconds of a simulated day."""
    with tempfile.TemporaryDirectory() as scratch:
        script = [gcm, "-c", SIMULATE, str(SAMPLE), str(truncation), str(days), f"{scratch}/boundary.nc"]
        return float(on_one_core(script).stdout.split()[-1])


def drawn(model: str) -> float:
    """CPU seconds of a drawn day."""
    with tempfile.TemporaryDirectory() as scratch:
        words = ["--threads", "1", "--device", "cpu", "--model", model]
        asked = ["--members", str(MEMBERS), "--steps", str(STEPS), "--out", f"{scratch}/days.zarr"]
        began = os.times()
        on_one_core(
            [sys.executable, "-c", "from fsae.runtime.cli.start import main; main()", "generate", *words, *asked]
        )
        ended = os.times()
        return (ended.children_user + ended.children_system - began.children_user - began.children_system) / (
            MEMBERS * STEPS
        )


@click.command(help=__doc__)
@click.option("--gcm", required=True)
@click.option("--model", default="engines/gcm-daily", show_default=True)
@click.option("--days", default=5, show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--json", "path", type=click.Path(path_type=Path))
def main(gcm: str, model: str, days: int, rounds: int, path: Path | None) -> None:
    """Measure and print."""
    calls: dict[str, Callable[[], float]] = {
        "JAX-GCM T31": lambda: simulated(gcm, 31, days),
        "JAX-GCM T63": lambda: simulated(gcm, 63, days),
        "engine": lambda: drawn(model),
    }
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            seconds[name].append(call())
    rows = [
        {
            "": name,
            "CPU s a day": statistics.median(found),
            "days a second": 1 / statistics.median(found),
            "T63 over it": statistics.median(a / b for a, b in zip(seconds["JAX-GCM T63"], found, strict=True)),
        }
        for name, found in seconds.items()
    ]
    report({"Simulated days on one core": rows}, path)


if __name__ == "__main__":
    main()
