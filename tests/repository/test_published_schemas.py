"""The JSON Schemas that the packages hold: those of the code, and true of every manifest and configuration here."""

import json
import tomllib
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from fsae.export.cli.main import main as fsae_export
from fsae.runtime.bundle.manifest import Manifest
from fsae.runtime.bundle.schema import SCHEMA_VERSION
from fsae.training.cli.main import main as fsae_train
from fsae.training.config import SHIPPED

ROOT = Path(__file__).parents[2]
MANIFEST, CONFIG = ("fsae.export", "manifest.schema.json"), ("fsae.training", "config.schema.json")
GOLDEN = ROOT / "tests" / "golden"


def published(package: str, name: str) -> Any:
    return json.loads(resources.files(package).joinpath(name).read_text(encoding="utf-8"))


def problems(schema: tuple[str, str], value: object) -> list[str]:
    """The complaints of an independent reader of JSON Schemas."""
    jsonschema = pytest.importorskip("jsonschema", reason='jsonschema is not installed: pip install "fsae[dev]"')
    return [error.message for error in jsonschema.Draft202012Validator(published(*schema)).iter_errors(value)]


@pytest.mark.parametrize(("command", "schema"), [(fsae_export, MANIFEST), (fsae_train, CONFIG)])
def test_published_schemas_are_those_of_the_code(
    command: Callable[[list[str]], int], schema: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:  # oracle: the command that wrote them; if it fails, write them again with it
    assert command(["schema"]) == 0
    assert capsys.readouterr().out == resources.files(schema[0]).joinpath(schema[1]).read_text(encoding="utf-8")


@pytest.mark.parametrize("schema", [MANIFEST, CONFIG])
def test_published_schemas_are_json_schemas(schema: tuple[str, str]) -> None:  # oracle: the schema of schemas
    jsonschema = pytest.importorskip("jsonschema", reason='jsonschema is not installed: pip install "fsae[dev]"')
    jsonschema.Draft202012Validator.check_schema(published(*schema))


@pytest.mark.parametrize(
    "path", [*ROOT.glob("engines/*/manifest.json"), *GOLDEN.glob("*/manifest.json")], ids=lambda path: path.parent.name
)
def test_every_manifest_here_fits_its_schema(path: Path) -> None:  # oracle: jsonschema
    written = path.read_text(encoding="utf-8")
    text = Manifest.from_json(written).to_json()  # of the newest schema
    assert problems(MANIFEST, json.loads(text)) == []
    if json.loads(written)["schema_version"] == SCHEMA_VERSION:
        assert text == written  # and what is read is written as it was, to the byte


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_configuration_fits_its_schema(path: Path) -> None:  # oracle: jsonschema
    assert problems(CONFIG, tomllib.loads(path.read_text(encoding="utf-8"))) == []


def test_the_configuration_of_a_run_fits_its_schema() -> None:  # oracle: jsonschema
    assert problems(CONFIG, json.loads((GOLDEN / "run-torch-2.6" / "config.json").read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("colour",), "green"),
        (("grid", "zoom"), 13),
        (("grid", "zoom"), "2"),
        (("grid", "order"), "ring"),
        (("variables", 0, "missing"), True),
        (("variables", 0, "units"), "K\x1b[2J"),
        (("time", "calendar"), "mayan"),
        (("time", "step"), "fortnight"),
        (("files", "../evil.onnx"), {"sha256": "0" * 64, "size": 1}),
        (("files", "tables.npz", "sha256"), "short"),
        (("sampler", "rho"), 0.0),
        (("denoiser", "sources"), []),
        (("schema_version",), 1),
    ],
)
def test_the_schema_refuses_what_the_code_refuses(path: tuple[str | int, ...], value: object) -> None:
    # oracle: jsonschema; test_manifest.py has the same refusals of the code
    raw = json.loads((GOLDEN / "bundle-schema-2" / "manifest.json").read_text(encoding="utf-8"))
    place = raw
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert len(problems(MANIFEST, raw)) == 1
