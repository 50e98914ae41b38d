"""Draw members with a Triton server; needs `pip install "tritonclient[http]"`.

    python triton_client.py members.npz --members 0 3 --seed 7 --start 2004-01 --steps 6

The fields (member, step, cell) of each variable, the times of the steps and the attributes of the ensemble go to an
.npz file, which numpy.load reads.
"""

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype


def tensors(
    members: Sequence[int], seed: int, start: str, steps: int, forcing: str | None = None
) -> dict[str, np.ndarray]:
    """The inputs of the model, by name; without a forcing the climate follows that of the past."""
    given = {
        "members": np.array(members, dtype=np.int64),
        "seed": np.array([seed], dtype=np.uint64),
        "start": np.array([start.encode()], dtype=np.object_),
        "steps": np.array([steps], dtype=np.int64),
    }
    if forcing is not None:
        given["forcing"] = np.array([forcing.encode()], dtype=np.object_)
    return given


def draw(server: str, model: str, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs of the model, by name; InferenceServerException with the server's sentence if it refuses."""
    inputs = []
    for name, values in given.items():
        tensor = triton.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
        tensor.set_data_from_numpy(values)
        inputs.append(tensor)
    with triton.InferenceServerClient(server, network_timeout=3600, connection_timeout=60) as client:
        answer = client.infer(model, inputs)
        found = {output["name"]: answer.as_numpy(output["name"]) for output in answer.get_response()["outputs"]}
    return {name: values.astype(str) if values.dtype == np.object_ else values for name, values in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw members with a Triton server.")
    parser.add_argument("out", help="file to write, such as members.npz")
    parser.add_argument("--server", default="localhost:8000", help="host and port of its HTTP service")
    parser.add_argument("--model", default="fsae_default_generate")
    parser.add_argument("--members", type=int, nargs="+", default=[0], help="their numbers, from 0 on")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", default="2004-01", help="date of the first step")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--forcing", help="a scenario such as ssp245, a year, or a constant in the unit of the bundle")
    asked = parser.parse_args()
    given = tensors(asked.members, asked.seed, asked.start, asked.steps, asked.forcing)
    try:
        found: dict[str, Any] = draw(asked.server, asked.model, given)
    except InferenceServerException as error:
        raise SystemExit(f"error: {error.message()}") from None
    np.savez(asked.out, **found)
    for name, values in found.items():
        print(name, values.dtype, values.shape)


if __name__ == "__main__":
    main()
