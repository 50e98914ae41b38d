"""The model that draws ensembles: `model.py` of this folder with a copy of the bundle, run by Triton's Python backend.

Its inputs and outputs are whole tensors without a batch axis: requests differ in their numbers of members and steps.
"""

import shutil
from pathlib import Path

from fsae.runtime.bundle.files import MANIFEST, Bundle
from fsae.runtime.bundle.manifest import Manifest
from fsae.runtime.sphere.healpix import npix

from .config import CONFIG, VERSION, ModelConfig, Tensor, config_text

GENERATE = "generate"  # in the name of the model
BUNDLE, MODEL = "bundle", "model.py"  # in the folder of the version; Triton prescribes the second
MOST_MIB = 1024  # of fields in one response; the server copies them through shared memory

INPUTS = (
    Tensor(name="seed", data_type="TYPE_UINT64", dims=(1,)),
    Tensor(name="members", data_type="TYPE_INT64", dims=(-1,)),  # their numbers, from 0 on
    Tensor(name="start", data_type="TYPE_STRING", dims=(1,)),
    Tensor(name="steps", data_type="TYPE_INT64", dims=(1,)),
    Tensor(name="forcing", data_type="TYPE_STRING", dims=(1,), optional=True),
)


def write_generate_model(bundle: Bundle, folder: Path) -> None:
    """Write the model with the whole bundle, each file's hash checked; BundleError if one differs."""
    version = folder / VERSION
    (version / BUNDLE).mkdir(parents=True)
    for name in bundle.manifest.files:
        shutil.copyfile(bundle.check(name), version / BUNDLE / name)
    shutil.copyfile(bundle.folder / MANIFEST, version / BUNDLE / MANIFEST)
    shutil.copyfile(Path(__file__).with_name(MODEL), version / MODEL)
    manifest = bundle.manifest
    config = ModelConfig(
        name=folder.name,
        runs_on='backend: "python"',
        max_batch_size=0,
        inputs=INPUTS,
        outputs=outputs_of(manifest),
        instances="KIND_CPU",  # KIND_GPU needs fsae[gpu] in the server's environment
        parameters={
            "fsae_manifest_sha256": bundle.manifest_sha256,
            "fsae_precision": manifest.precisions[0],
            "fsae_most_mib": str(MOST_MIB),
            "calendar": manifest.time.calendar,
            "healpix_nside": str(2**manifest.grid.zoom),
            "healpix_order": "nest",
            **{f"units_{variable.name}": variable.units for variable in manifest.variables},
        },
    )
    (folder / CONFIG).write_text(config_text(config, manifest.name), encoding="utf-8", newline="\n")


def outputs_of(manifest: Manifest) -> list[Tensor]:
    """The fields (member, step, cell) of each variable, the times of the steps, and the attributes of the ensemble."""
    fields = [Tensor(name=v.name, dims=(-1, -1, npix(manifest.grid.zoom))) for v in manifest.variables]
    times = Tensor(name="time", data_type="TYPE_STRING", dims=(-1,))  # ISO 8601, the middle of a period
    return [*fields, times, Tensor(name="attributes", data_type="TYPE_STRING", dims=(1,))]  # JSON
