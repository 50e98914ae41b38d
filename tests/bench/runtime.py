"""Measure what a command costs beside its sessions: time, memory, start, and the size of what is installed.

    python tests/bench/runtime.py [--members 100] [--many 1000] [--rounds 3] [--model FOLDER] [--json FILE]

Each command is a process of its own with one thread. Wall times are shared with whoever else computes on the machine,
so rounds take turns and ratios are their medians; CPU times are given beside them. Modules are compiled beforehand, as
those that pip installs are: where PYTHONDONTWRITEBYTECODE is set, each command would compile its own again.
"""

import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import click
from timing import report

FEW = (10, 50)  # members beside those asked for
GENERATE = """
import json, sys, time
from fsae.runtime.backends.onnx import import_onnxruntime
onnxruntime = import_onnxruntime("cpu")
spent = {"wall": 0.0, "cpu": 0.0}
run = onnxruntime.InferenceSession.run
def timed(*given):
    wall, cpu = time.perf_counter(), time.thread_time()
    found = run(*given)
    spent["wall"] += time.perf_counter() - wall
    spent["cpu"] += time.thread_time() - cpu
    return found
onnxruntime.InferenceSession.run = timed
from fsae.runtime.cli.main import main
status = main(sys.argv[1:])
peak = next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
print("\\n" + json.dumps({**spent, "whole_cpu": time.process_time(), "peak_mib": peak, "status": status}))
"""


def generate(members: int, model: tuple[str, ...]) -> dict[str, float]:
    """Times [s] and peak memory [MiB] of one command."""
    with tempfile.TemporaryDirectory() as scratch:
        words = ["generate", "--members", str(members), "--out", f"{scratch}/out.zarr", "--device", "cpu"]
        began = time.perf_counter()
        command = [sys.executable, "-c", GENERATE, *words, "--threads", "1", *model]
        out = subprocess.run(command, capture_output=True, text=True, check=True)
        found: dict[str, float] = json.loads(out.stdout.splitlines()[-1])
        return found | {"whole": time.perf_counter() - began}


def command_rows(members: int, many: int, rounds: int, model: tuple[str, ...]) -> list[dict[str, Any]]:
    """One row for each number of members, of interleaved rounds; that of `many` is run once."""
    found: dict[int, list[dict[str, float]]] = {}
    for number in range(rounds):
        for count in sorted({*FEW, members, *((many,) if number == 0 else ())}):
            found.setdefault(count, []).append(generate(count, model))

    def median(count: int, one: str, other: str | None = None) -> float:
        return statistics.median(run[one] / (run[other] if other else 1) for run in found[count])

    return [
        {
            "members": count,
            "whole / sessions": median(count, "whole", "wall"),
            "in CPU time": median(count, "whole_cpu", "cpu"),
            "whole s": median(count, "whole"),
            "ms a member": 1e3 * median(count, "whole") / count,
            "peak MiB": median(count, "peak_mib"),
            f"peak / that of {FEW[-1]}": median(count, "peak_mib") / median(FEW[-1], "peak_mib"),
        }
        for count in sorted(found)
    ]


def start_rows(rounds: int, model: tuple[str, ...]) -> list[dict[str, Any]]:
    """`fsae-run info` beside the import of NumPy alone."""
    commands = {
        "import numpy": [sys.executable, "-c", "import numpy"],
        "info": [sys.executable, "-m", "fsae.runtime.cli.main", "info", *model],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(3 * rounds):
        for name, command in commands.items():
            began = time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            seconds[name].append(time.perf_counter() - began)
    times = {f"{name} s": statistics.median(values) for name, values in seconds.items()}
    pairs = zip(seconds["info"], seconds["import numpy"], strict=True)
    return [times | {"info / import numpy": statistics.median(a / b for a, b in pairs)}]


def size_rows(extra: str = "cpu") -> list[dict[str, Any]]:
    """Installed size of the runtime and of all it needs, the largest packages first."""
    wanted, sizes = [("fsae", extra)], {}
    while wanted:
        name, own_extra = wanted.pop()
        try:
            package = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        if package.name in sizes:
            continue
        paths = [Path(str(package.locate_file(file))) for file in package.files or ()]
        sizes[package.name] = sum(path.stat().st_size for path in paths if path.is_file()) / 2**20
        for need in package.requires or ():
            asked = re.search(r"extra\s*==\s*['\"]([^'\"]+)", need)
            if asked is None or asked.group(1) == own_extra:
                wanted.append((re.split(r"[\s\[<>=!~;(]", need, maxsplit=1)[0], ""))
    largest = dict(sorted(sizes.items(), key=lambda item: -item[1])[:6])
    return [{"packages": len(sizes), "all MiB": sum(sizes.values())} | {f"{k} MiB": v for k, v in largest.items()}]


@click.command()
@click.option("--members", type=click.IntRange(min=1), default=100, show_default=True, help="Of the command timed.")
@click.option("--many", type=click.IntRange(min=1), default=1000, show_default=True, help="Members for peak memory.")
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Times each command is run.")
@click.option("--model", help="A bundle; default that of fsae-run.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the tables there too.")
def main(members: int, many: int, rounds: int, model: str | None, json_path: Path | None) -> None:
    """Print tables of commands, their start and what is installed."""
    given = () if model is None else ("--model", model)
    with tempfile.TemporaryDirectory() as compiled:
        os.environ["PYTHONPYCACHEPREFIX"] = compiled
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        generate(1, given)  # compiles
        results = {"Commands": command_rows(members, many, rounds, given), "Start": start_rows(rounds, given)}
    report(results | {"Installed": size_rows()}, json_path)


if __name__ == "__main__":
    main()
