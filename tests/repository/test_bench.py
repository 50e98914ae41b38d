"""The programs of tests/bench: what they count and compare, and that a whole one runs."""

import importlib
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from processes import python
from torch.nn.functional import scaled_dot_product_attention

from fsae.training.config import SHIPPED, read_config

BENCH = Path(__file__).parents[1] / "bench"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that imports one of the programs."""
    monkeypatch.syspath_prepend(str(BENCH))

    def load(name: str) -> ModuleType:
        return importlib.import_module(name)

    return load


def test_programs_import_onnx_runtime_only_where_its_telemetry_is_off() -> None:  # oracle: their text
    own = re.compile(r"^\s*(import|from) [^#\n]*\bonnxruntime\b", re.MULTILINE)
    assert [path.name for path in BENCH.glob("*.py") if own.search(path.read_text(encoding="utf-8"))] == []
    assert own.search("import numpy as np, onnxruntime\n")


def test_ratios_are_medians_over_the_turns(bench: Any) -> None:  # oracle: by hand, 4, 2 and 3
    seconds = {"one": [4.0, 6.0, 3.0], "other": [1.0, 3.0, 1.0]}
    assert bench("timing").ratio(seconds, "one", "other") == 3
    calls: list[str] = []
    bench("timing").take_turns({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 2)
    assert "".join(calls) == "ababab"  # one turn to warm up


class Attention(torch.nn.Module):
    def forward(self, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return scaled_dot_product_attention(query, key, key)


def test_operations_are_those_of_the_products(bench: Any) -> None:  # oracle: multiplications and additions, counted
    speed = bench("speed")
    rows = torch.ones(3, 8).numpy()
    assert speed.flop_of(torch.nn.Linear(8, 4, bias=False), [rows]) == 2 * 3 * 8 * 4
    batch, heads, queries, keys, width = 2, 4, 48, 64, 16
    query, key = torch.ones(batch, heads, queries, width).numpy(), torch.ones(batch, heads, keys, width).numpy()
    assert speed.flop_of(Attention(), [query, key]) == 2 * (2 * batch * heads * queries * keys * width)


def test_rows_of_ablations_are_configurations(bench: Any) -> None:  # oracle: reading them refuses what is none
    ablations = bench("ablations")
    shapes = {name: ablations.config_of(name, 7).autoencoder for name in ablations.ROWS}
    assert shapes["width 96"].width == 96
    assert {ablations.config_of(name, 7).autoencoder_fit.steps for name in ablations.ROWS} == {7}


def test_the_same_network_on_coarser_grids(bench: Any) -> None:  # oracle: the shipped configuration, by hand
    lowered = bench("scaling").lowered
    large = read_config(SHIPPED / "z8-ratio-16.toml").autoencoder
    names = ("zoom", "base_zoom", "latent_zoom", "fine_token_zoom", "attention_window_zoom", "width")
    assert [getattr(lowered(large, 0), name) for name in names] == [8, 3, 6, 4, 2, 256]
    assert [getattr(lowered(large, 1), name) for name in names] == [7, 2, 5, 3, 1, 256]
    assert [getattr(lowered(large, 4), name) for name in names] == [4, 0, 2, 0, None, 256]


def test_a_program_runs_and_writes_what_it_prints(tiny_bundle_path: Path, tmp_path: Path) -> None:
    # oracle: what its table must hold; a command takes longer than its sessions, and the runtime needs no PyTorch
    words = ["--members", "2", "--many", "3", "--rounds", "1", "--model", tiny_bundle_path, "--json", "out.json"]
    out = python(BENCH / "runtime.py", *words, cwd=tmp_path)
    assert out.returncode == 0, out.stderr
    found = json.loads((tmp_path / "out.json").read_text())
    assert [row["members"] for row in found["Commands"]] == [2, 3, 10, 50]
    assert all(row["whole / sessions"] > 1 and row["in CPU time"] > 1 for row in found["Commands"])
    assert [row["peak / that of 50"] for row in found["Commands"]][-1] == 1
    assert found["Start"][0]["info / import numpy"] > 1
    (installed,) = found["Installed"]
    assert "onnxruntime MiB" in installed
    assert not any("torch" in name for name in installed)
    assert out.stdout.count("| --- |") >= 3
