"""Training at scale: memory, loader processes, precision, averages, several devices; all on small networks."""

import csv
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import python
from safetensors.numpy import load_file
from small_config import DIFFUSION, SAMPLE, VALIDATION, write_config

from fsae.runtime.errors import DeviceError, Stopped, UsageError
from fsae.training.cli.main import main
from fsae.training.config import FitConfig, TrainerConfig
from fsae.training.data.datasets import AnomalySamples
from fsae.training.fitting import loop as fitting_loop
from fsae.training.fitting.loop import Loop, autoencoder_loss, check_trainer, fit
from fsae.training.fitting.processes import interruptible
from fsae.training.networks.autoencoder import Autoencoder, AutoencoderConfig

SHAPE = AutoencoderConfig(
    zoom=2, latent_zoom=1, fine_token_zoom=1, coarse_token_zoom=0, width=8, heads=2, embedding=9, dropout=0.1
)
STEPS = FitConfig(steps=5, batch=4, learning_rate=1e-2, mixture=0.5, checkpoint_every_steps=2, average_decay=0.5)
PLAIN = TrainerConfig(accelerator="cpu")


def trained(
    folder: Path,
    trainer: TrainerConfig = PLAIN,
    settings: FitConfig = STEPS,
    validation: Callable[[Autoencoder], float] | None = None,
) -> Autoencoder:
    """A small autoencoder after a few steps on random fields."""
    rng = np.random.default_rng(0)
    fields, season, waves = (rng.normal(size=shape).astype(np.float32) for shape in ((50, 1, 192), (50, 4), (3, 192)))

    samples = AnomalySamples(fields, season, waves, mixture=settings.mixture, localisation=1.0, seed=1)
    torch.manual_seed(0)
    model = Autoencoder(SHAPE, torch.zeros(1, 5, 192), torch.ones(1))
    loop = Loop(settings=settings, trainer=trainer, folder=folder, seed=2, progress=False)
    return fit(model, autoencoder_loss, samples, loop, validation)


def figures(folder: Path, name: str) -> list[float]:
    """A column of the log of losses."""
    with (folder / "metrics-0" / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


MEMORY = """
import resource, sys
from msgspec.structs import replace
from pathlib import Path

import cftime
import numpy as np

from fsae.runtime.input.joining import read_fields
from fsae.runtime.output.layout import Cells, Layout, Unit, open_output
from fsae.runtime.output.times import encode_times
from fsae.training.fitting import autoencoder, pipeline, run_folder
from fsae.training.data import prepared
from fsae.training.networks.autoencoder import AutoencoderConfig
from fsae.training.config import Config, DataConfig, FitConfig, TrainerConfig, VariableConfig
from fsae.training.data.prepare import CHUNK_VALUES
from fsae.training.input_files import Files

TAS = VariableConfig(
    name="tas", standard_name="air_temperature", long_name="temperature", units="K", valid_range=(150.0, 350.0)
)
ZOOM = 5
PIXELS = 12 << 2 * ZOOM
real = read_fields(sys.argv[1], [TAS], zoom=ZOOM).read()[0]  # (120, 1, pixel)


def peak_mib(folder, size_mib):
    steps = (size_mib << 20) // (4 * PIXELS)
    times = [cftime.num2date(6 * i, "hours since 2000-01-01", calendar="standard") for i in range(steps)]
    layout = Layout(
        variables={"tas": {"standard_name": "air_temperature", "units": "K", "cell_methods": "time: mean"}},
        attributes={},
        time=encode_times(times, None, "standard"),
        grid=Cells(zoom=ZOOM),
        time_chunk=CHUNK_VALUES // PIXELS,
    )
    with open_output(folder / "data.zarr", layout) as write:
        for first in range(0, steps, layout.time_chunk):
            part = np.arange(first, min(first + layout.time_chunk, steps))
            write(Unit(members=slice(0, 1), times=slice(part[0], part[-1] + 1), values=real[None, part % len(real)]))
    config = Config(
        name="test",
        data=DataConfig(
            inputs=("none",), variables=(TAS,), harmonics=1, training_years=(2000, 2004), evaluation_years=(2010, 2010)
        ),
        autoencoder=AutoencoderConfig(
            zoom=ZOOM, latent_zoom=4, fine_token_zoom=1, coarse_token_zoom=0, depths=(0, 0, 0, 1), width=8, heads=2
        ),
        autoencoder_fit=FitConfig(steps=3, batch=4, learning_rate=1e-3, mixture=1.0, checkpoint_every_steps=3),
        trainer=TrainerConfig(accelerator="cpu", cache_gib=int(sys.argv[3]) / 1024),
    )
    fields = prepared.read_prepared(config, folder)
    pipeline.statistics_stage(config, fields, Files(inputs=()), folder)
    data = prepared.Prepared(config=config, fields=fields, statistics=run_folder.read_statistics(folder))
    autoencoder.autoencoder_stage(data, folder, progress=False)
    fields.close()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


peaks = []
for size_mib in (60, 240):
    folder = Path(sys.argv[2]) / str(size_mib)
    folder.mkdir()
    peaks.append(peak_mib(folder, size_mib))
print(*peaks)
"""


def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    # oracle: the operating system's count; four times the data, 20 times what may be held
    done = python("-c", MEMORY, SAMPLE, tmp_path, 12)
    assert done.returncode == 0, done.stderr
    quarter, whole = map(float, done.stdout.split())
    assert whole / quarter <= 1.1  # in memory the larger one would add 180 MiB and more to some 500


@pytest.mark.parametrize("workers", [1, 2])
def test_loader_processes_change_nothing(tmp_path: Path, workers: int) -> None:  # oracle: without them, bit for bit
    plain = trained(tmp_path / "plain").state_dict()
    found = trained(tmp_path / "workers", TrainerConfig(accelerator="cpu", loader_workers=workers)).state_dict()
    for name, value in plain.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0)


def test_bfloat16_follows_float32(tmp_path: Path) -> None:  # oracle: float32, to the eight bits of bfloat16
    trained(tmp_path / "full")
    trained(tmp_path / "half", TrainerConfig(accelerator="cpu", precision="bf16-mixed"))
    full, half = (figures(tmp_path / name, "loss") for name in ("full", "half"))
    np.testing.assert_allclose(half, full, rtol=2e-2)
    assert half != full


def test_an_interruption_names_the_step_of_its_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:  # oracle: the step that the second try logs first, one epoch of two steps on
    def terminate(model: Autoencoder) -> float:
        if (tmp_path / "last.ckpt").exists():  # step 4 is done, the checkpoint is still that of step 2
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.05)
        return 0.0

    with interruptible(), pytest.raises(Stopped, match="from step 2 of 5"):
        trained(tmp_path, validation=terminate)
    caplog.clear()
    with caplog.at_level("INFO", "fsae.training"):
        trained(tmp_path)
    assert [message.split()[1] for message in caplog.messages] == ["4/5", "5/5"]


def test_a_checkpoint_is_whole_whatever_disk_it_is_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # oracle: the folder for temporary files, maybe on another disk, is not used
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    written: list[str] = []
    save = torch.save

    def note(checkpoint: object, path: Path) -> None:
        written.append(path.name)
        assert not (path.parent / "last.ckpt").exists() or torch.load(path.parent / "last.ckpt", weights_only=True)
        save(checkpoint, path)

    monkeypatch.setattr(torch, "save", note)
    trained(tmp_path / "run")
    assert len(written) == 3
    assert "last.ckpt" not in written
    assert [path.name for path in (tmp_path / "run").glob("*.ckpt*")] == ["last.ckpt"]


class Recorder(torch.optim.AdamW):
    """AdamW that notes the norm of each step's gradients, and the weights after it."""

    norms: list[float]
    weights: list[list[torch.Tensor]]

    def step(self, closure: Any = None) -> Any:
        def noting() -> Any:
            loss = closure()
            gradients = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
            self.norms.append(float(torch.cat([g.ravel() for g in gradients]).norm()))
            return loss

        result = super().step(noting)
        self.weights.append([p.detach().clone() for group in self.param_groups for p in group["params"]])
        return result


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    Recorder.norms, Recorder.weights = [], []
    monkeypatch.setattr(fitting_loop.torch.optim, "AdamW", Recorder)
    return Recorder


def test_gradients_are_clipped(tmp_path: Path, recorder: type[Recorder]) -> None:  # oracle: the norm the optimiser sees
    trained(tmp_path / "free", settings=FitConfig(steps=3, batch=4, learning_rate=1e-2, gradient_clip=0.0))
    free = list(recorder.norms)
    recorder.norms.clear()
    limit = 0.5 * min(free)
    trained(tmp_path / "clipped", settings=FitConfig(steps=3, batch=4, learning_rate=1e-2, gradient_clip=limit))
    np.testing.assert_allclose(recorder.norms, limit, rtol=1e-4)


def test_the_average_of_the_weights_is_kept(
    tmp_path: Path, recorder: type[Recorder]
) -> None:  # oracle: the recurrence of an exponential average, by hand
    model = trained(tmp_path)
    average = [w.double() for w in recorder.weights[0]]  # an average starts as its first value
    for weights in recorder.weights[1:]:
        average = [0.5 * a + 0.5 * w.double() for a, w in zip(average, weights, strict=True)]
    for found, expected in zip(model.parameters(), average, strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-7)
    assert not all(torch.equal(p, w) for p, w in zip(model.parameters(), recorder.weights[-1], strict=True))


def test_logs_hold_loss_and_learning_rate(tmp_path: Path) -> None:  # oracle: the one-cycle schedule of PyTorch
    trained(tmp_path, TrainerConfig(accelerator="cpu", tensorboard=True))
    one = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], 1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(one, 1e-2, total_steps=6, pct_start=0.1)
    rates = []
    for _ in range(5):
        rates.append(schedule.get_last_lr()[0])
        one.step()
        schedule.step()
    np.testing.assert_allclose(figures(tmp_path, "learning_rate"), rates[1::2], rtol=1e-6)  # every second step
    assert len(figures(tmp_path, "loss")) == 2
    events = b"".join(path.read_bytes() for path in (tmp_path / "tensorboard").glob("events*"))
    assert b"learning_rate" in events
    assert b"loss" in events


def test_what_the_trainer_cannot_do_is_said_first(monkeypatch: pytest.MonkeyPatch) -> None:  # oracle: the messages
    check_trainer(STEPS, PLAIN)
    with pytest.raises(DeviceError, match="'16-mixed'"):
        check_trainer(STEPS, TrainerConfig(accelerator="cpu", precision="16-mixed"))
    if not torch.cuda.is_available():
        with pytest.raises(DeviceError, match="'cuda'"):
            check_trainer(STEPS, TrainerConfig(accelerator="cuda"))
    monkeypatch.setattr(fitting_loop, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match="pip install tensorboardX"):
        check_trainer(STEPS, TrainerConfig(accelerator="cpu", tensorboard=True))


CHANGES = (
    *VALIDATION,
    *DIFFUSION,
    'name = "two"',
    'trainer.accelerator = "cpu"',
    "autoencoder_fit.steps = 4",
    "autoencoder_fit.checkpoint_every_steps = 1",
    "diffusion_fit.checkpoint_every_steps = 1",
)


def test_two_devices_do_what_one_does(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # oracle: one device with the same configuration
    config = write_config(tmp_path, *CHANGES)
    arguments = ["fit", str(config), "--out", str(tmp_path)]
    assert main([*arguments, "--name", "one"]) == 0
    done = python("-m", "fsae.training.cli.main", *arguments, "--devices", 2)
    assert done.returncode == 0, done.stderr
    assert done.stdout.replace(f"{tmp_path}/two", f"{tmp_path}/one") == capsys.readouterr().out
    one, two = (load_file(tmp_path / run / "autoencoder.safetensors") for run in ("one", "two"))
    pairs = [(value.ravel(), two[key].ravel()) for key, value in one.items()]
    close = np.isclose(*map(np.concatenate, zip(*pairs, strict=True)), rtol=1e-3, atol=1e-5)
    assert close.mean() > 0.99  # where a gradient is nearly zero its rounding decides where Adam goes
    assert any((a != b).any() for a, b in pairs)  # there were two indeed
    for stage in ("autoencoder", "diffusion"):
        one_loss, two_loss = (figures(tmp_path / run / stage, "loss") for run in ("one", "two"))
        # The stage before left weights rounded to half precision, some the other way; other samples: tens of percent.
        np.testing.assert_allclose(two_loss[0], one_loss[0], rtol=1e-4 if stage == "autoencoder" else 2e-3)
        np.testing.assert_allclose(two_loss, one_loss, rtol=1e-2)
    for text in (done.stderr, (tmp_path / "two" / "train.log").read_text()):
        assert text.count("step 4/4") == 2  # once a stage
        assert text.count("statistics:") == 1
        assert "Traceback" not in text


def test_sigterm_ends_all_processes_and_one_device_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # oracle: the exit codes, that no process holds the pipe open, and the step the log goes on from
    config = write_config(tmp_path, *CHANGES, "diffusion_fit.steps = 150")
    arguments = ["fit", str(config), "--out", str(tmp_path)]
    started = subprocess.Popen(
        [sys.executable, "-m", "fsae.training.cli.main", *arguments, "--devices", "2"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    checkpoint = tmp_path / "two" / "diffusion" / "last.ckpt"  # of the stage that did not start the second process
    while not checkpoint.exists() and started.poll() is None:
        time.sleep(0.05)
    started.send_signal(signal.SIGTERM)
    said = started.communicate(timeout=60)[1]
    assert started.returncode == 75, said
    assert "Traceback" not in said
    stopped = re.findall(r"the same command goes on from step (\d+) of 150", said)
    assert len(stopped) == 1
    assert main(arguments) == 0
    steps = re.findall(r"step (\d+)/150", capsys.readouterr().err)
    assert int(steps[0]) == int(stopped[0]) + 1
    assert int(steps[-1]) == 150
