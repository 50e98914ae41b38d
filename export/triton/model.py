"""The model `generate` of a Triton repository, run by Triton's Python backend: members of an ensemble on request.

`fsae-export --triton` copies this file into the repository, beside the bundle. The backend imports it in a process of
its own for each instance, and gives the module triton_python_backend_utils its classes only afterwards.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from fsae.runtime import DataError, Emulator, FsaeError, Request, UsageError, load
from fsae.runtime.arguments import date
from fsae.runtime.checks.verify import check_files
from fsae.runtime.errors import BundleError
from fsae.runtime.sphere.healpix import npix

DEVICES = {"CPU": "cpu", "GPU": "cuda"}  # by the kind of the instance
MIB = 1 << 20


def open_emulator(args: dict[str, str], parameters: dict[str, Any]) -> Emulator:
    """The bundle beside this file on the device of the instance, all hashes checked; FsaeError if that fails.

    `args` is what the backend gives to `initialize`, `parameters` are those of config.pbtxt.
    """
    kind, number = args["model_instance_kind"], args["model_instance_device_id"]
    if kind not in DEVICES or (kind == "GPU" and number != "0"):
        raise UsageError(
            f"found an instance of KIND_{kind} on device {number}",
            "KIND_CPU, or KIND_GPU with gpus: [ 0 ]",
            "change instance_group in config.pbtxt, and run a server for each GPU",
        )
    emulator = load(
        Path(args["model_repository"]) / args["model_version"] / "bundle",
        DEVICES[kind],
        precision=parameters["fsae_precision"]["string_value"],
    )
    expected = parameters["fsae_manifest_sha256"]["string_value"]
    if emulator.bundle.manifest_sha256 != expected:
        raise BundleError(
            f"the manifest of {emulator.bundle.folder} has the SHA-256 {emulator.bundle.manifest_sha256}",
            f"{expected}, as config.pbtxt says",
            "write the repository again with fsae-export --triton",
        )
    check_files(emulator.bundle)
    return emulator


def read_request(asked: Any, scenarios: Sequence[str]) -> Request:
    """The ensemble that the inputs of an inference request ask for; UsageError if they describe none."""
    given = {tensor.name(): tensor.as_numpy() for tensor in asked.inputs()}
    forcing = given.get("forcing")
    return Request(
        members=given["members"].tolist(),
        seed=given["seed"][0],
        start=_text(given["start"]),
        steps=given["steps"][0],
        forcing=None if forcing is None else read_forcing(_text(forcing), scenarios),
    )


def read_forcing(text: str, scenarios: Sequence[str]) -> str | float:
    """The name of a scenario, a constant or a year; UsageError for a path, which would be one of the server.

    >>> read_forcing("ssp245", ["historical", "ssp245"]), read_forcing("1950", [])
    ('ssp245', 1950.0)
    """
    if text in scenarios:
        return text
    try:
        return float(text)
    except ValueError:
        names = f"one of {', '.join(scenarios)}, or a number" if scenarios else "a number"
        raise UsageError(f"found the forcing {text!r}", names, "leave it out for the past") from None


def _text(values: Any) -> str:
    """The one string of a tensor of bytes."""
    return str(values[0].decode("utf-8", "replace"))


class TritonPythonModel:
    """An instance of the model: an emulator that answers one request after the other."""

    def initialize(self, args: dict[str, str]) -> None:
        """Open the bundle; TritonModelException, in one sentence, if that fails."""
        parameters = json.loads(args["model_config"])["parameters"]
        try:
            self._emulator = open_emulator(args, parameters)
        except FsaeError as error:
            raise pb_utils.TritonModelException(str(error)) from None
        tables = self._emulator.bundle.tables
        self._scenarios = [] if tables.scenarios is None else tables.scenarios.names
        self._most_mib = float(parameters["fsae_most_mib"]["string_value"])

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """A response for each request, in their order: an error of one leaves the others as they are."""
        return [self._respond(request) for request in requests]

    def finalize(self) -> None:
        """Let go of the graphs."""
        del self._emulator

    def _respond(self, asked: Any) -> Any:
        """The response to one request: tensors, or the sentence of an error."""
        codes = pb_utils.TritonError
        try:
            tensors = self._draw(asked)
        except (UsageError, DataError) as error:
            return _failure(str(error), codes.INVALID_ARG)
        except FsaeError as error:
            return _failure(str(error), codes.INTERNAL)
        except MemoryError:
            return _failure("out of memory: ask for fewer members or steps", codes.UNAVAILABLE)
        if tensors is None:
            return _failure("cancelled", codes.CANCELLED)
        return pb_utils.InferenceResponse(output_tensors=tensors)

    def _draw(self, asked: Any) -> list[Any] | None:
        """The tensors of one response; None if the client has cancelled the request before the last member is drawn."""
        request = read_request(asked, self._scenarios)
        self._check_size(request)
        drawn = []
        for member in self._emulator.stream(request):
            if asked.is_cancelled():
                return None
            drawn.append(member)
        fields = {
            variable.name: np.concatenate([member[variable.name].values for member in drawn])
            for variable in self._emulator.bundle.manifest.variables
        }
        times = [date("time", time).encode() for time in drawn[0]["time"].values]
        texts = {"time": times, "attributes": [json.dumps(drawn[0].attrs, default=str).encode()]}
        tensors = fields | {name: np.array(values, dtype=np.object_) for name, values in texts.items()}
        return [pb_utils.Tensor(name, values) for name, values in tensors.items()]

    def _check_size(self, request: Request) -> None:
        """Raise UsageError if the fields take more memory than one response may."""
        manifest = self._emulator.bundle.manifest
        values = len(request.member_numbers) * (request.steps or 0) * len(manifest.variables) * npix(manifest.grid.zoom)
        mib = 4 * values / MIB
        if mib > self._most_mib:
            raise UsageError(
                f"found {len(request.member_numbers)} members of {request.steps} steps, {mib:.0f} MiB of fields",
                f"{self._most_mib:g} MiB at most in one response (fsae_most_mib in config.pbtxt)",
                "ask for some members at a time, as no member depends on another",
            )


def _failure(sentence: str, code: int) -> Any:
    """A response that is an error."""
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(sentence, code))
