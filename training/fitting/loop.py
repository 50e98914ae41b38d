"""The training loop: one Lightning module per model, an epoch being the steps between two checkpoints."""

import logging
import math
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from fsae.runtime.atomic import write_aside
from fsae.runtime.errors import DeviceError, Stopped, UsageError
from fsae.runtime.progress import progress_bar
from fsae.training.config import FitConfig, TrainerConfig
from fsae.training.networks.autoencoder import Autoencoder
from fsae.training.networks.denoiser import Denoiser

from .processes import Processes, is_first, wait_for
from .run_folder import save_weights

log = logging.getLogger("fsae.training")
Model = TypeVar("Model", bound=nn.Module)
Loss = Callable[[Any, Any], Tensor]  # (model, batch) -> a number


@dataclass(frozen=True, kw_only=True)
class Loop:
    """How a model is trained, and where that is recorded."""

    settings: FitConfig
    trainer: TrainerConfig
    folder: Path  # of losses and checkpoints; the progress bar has its name
    seed: int
    progress: bool


class Batches(lightning.LightningDataModule):
    """The batches of a loop; apart from the model, of which Lightning makes a deep copy for the average."""

    def __init__(self, samples: Dataset[Any], loop: Loop) -> None:
        super().__init__()
        self.samples, self.loop = samples, loop

    def train_dataloader(self) -> DataLoader[Any]:
        """Batches of this epoch; samples follow from their index, so a resumed run sees what it would have seen.

        Of W devices number r takes the samples r, r + W, r + 2 W, ... and an even share of the batch: together they
        work on the batches of a single one. Lightning's own sampler would shuffle.
        """
        trainer: Any = self.trainer
        settings, workers, devices = self.loop.settings, self.loop.trainer.loader_workers, trainer.world_size
        size = settings.checkpoint_every_steps * settings.batch
        first = trainer.current_epoch * size
        return DataLoader(
            self.samples,
            batch_size=settings.batch // devices,
            sampler=range(first + trainer.global_rank, first + size, devices),
            num_workers=workers,
            multiprocessing_context="fork" if workers else None,  # shares what is in memory
            pin_memory=trainer.strategy.root_device.type == "cuda",
        )


class Fit(lightning.LightningModule):
    """Optimiser and learning rate of one model."""

    def __init__(self, model: nn.Module, loss: Loss, loop: Loop) -> None:
        super().__init__()
        self.model, self.loss, self.loop = model, loss, loop

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Seed dropout by step and device, so that it does not depend on what ran before."""
        torch.manual_seed(self.loop.seed * 1_000_003 + self.global_step + (self.global_rank << 48))

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the next epoch: checkpoints are written when an epoch's steps are done, before it is counted."""
        loop = checkpoint["loops"]["fit_loop"]
        for count in loop["epoch_progress"].values():
            count.update(started=count["ready"], processed=count["ready"], completed=count["ready"])
        steps = loop["epoch_loop.batch_progress"]
        steps["current"] = dict.fromkeys(steps["current"], 0)
        steps["is_last_batch"] = False

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of a batch."""
        loss = self.loss(self.model, batch)
        self.log("loss", loss.detach(), prog_bar=True, sync_dist=True)
        self.log("learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss

    def configure_optimizers(self) -> Any:
        """AdamW and a one-cycle learning rate: up over the first tenth of the steps, then down to nothing."""
        settings = self.loop.settings
        optimizer = torch.optim.AdamW(
            self.model.parameters(), settings.learning_rate, betas=(0.9, 0.98), weight_decay=settings.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, settings.learning_rate, total_steps=settings.steps + 1, pct_start=0.1
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Report(Callback):
    """Log each epoch: step, loss, and the validation figure of the averaged weights, which are the ones kept."""

    def __init__(self, average: EMAWeightAveraging, steps: int, validation: Callable[[Any], float] | None) -> None:
        self.average, self.steps, self.validation = average, steps, validation

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Called by Lightning."""
        if not trainer.is_global_zero:
            return
        line = f"step {trainer.global_step}/{self.steps} loss {float(trainer.callback_metrics['loss']):.4f}"
        if self.validation is not None:
            model: Any = pl_module.model
            self.average.on_validation_epoch_start(trainer, pl_module)  # exchanges the weights
            model.eval()
            figure = self.validation(model)
            model.train()
            self.average.on_validation_epoch_end(trainer, pl_module)
            pl_module.log("validation", figure, rank_zero_only=True)
            line += f" validation {figure:.4f}"
        log.info(line)


class TrainingBar(Callback):
    """The progress bar of a training loop, from the step at which a resumed one starts."""

    def __init__(self, name: str, steps: int) -> None:
        self.name, self.steps, self.opened = name, steps, ExitStack()

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Called by Lightning."""
        bar = progress_bar(self.name, "steps", first=trainer.global_step, shown=trainer.is_global_zero)
        self.show = self.opened.enter_context(bar)

    def on_train_batch_end(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Called by Lightning."""
        loss = trainer.callback_metrics.get("loss")
        self.show(trainer.global_step, self.steps, "" if loss is None else f"loss {float(loss):.4f}")

    def teardown(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Called by Lightning, also after a failure."""
        self.opened.close()


class WholeCheckpoints(TorchCheckpointIO):
    """Write checkpoints beside their place: Lightning moves them from /tmp, which is a copy if that is another disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Called by Lightning."""
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with write_aside(Path(path)) as aside:
            torch.save(checkpoint, aside)


def autoencoder_loss(model: Autoencoder, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean square error of the rebuilt anomalies; of several variables, the geometric mean of theirs.

    So a per cent counts the same for all: smooth heights, rebuilt to a twentieth of their scale, and rain, to the half.
    """
    anomaly, season = batch
    mask = torch.ones(len(anomaly), len(model.config.zooms), device=anomaly.device)
    rebuilt = model.decode_anomaly(model.encode_anomaly(anomaly, season, mask), season)
    loss: Tensor = (rebuilt - anomaly).square().mean((0, 2)).log().mean().exp()
    return loss


def denoiser_loss(model: Denoiser, batch: dict[str, Tensor]) -> Tensor:
    """Mean square error of the denoised window, weighted by (sigma^2 + 1) / sigma^2 (EDM eq. 8, sigma_data = 1)."""
    inputs = {name: value for name, value in batch.items() if name != "clean"}
    error = (model(**inputs) - batch["clean"]).square().mean(dim=(1, 2, 3))
    square = batch["sigma"].square()
    loss: Tensor = ((square + 1) / square * error).mean()
    return loss


def make_trainer(
    settings: FitConfig, trainer_config: TrainerConfig, callbacks: list[Callback], loggers: list[Logger]
) -> lightning.Trainer:
    """Lightning's trainer; DeviceError if the accelerator, the devices or the precision cannot be had."""
    # Lightning's hints on hardware, loggers and loader workers say nothing about the run.
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Buffers never change; a stage without blocks leaves the embedding of its cells unused.
    several = DDPStrategy(broadcast_buffers=False, find_unused_parameters=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer = lightning.Trainer(
                accelerator=trainer_config.accelerator,
                devices=trainer_config.devices,
                strategy=several if trainer_config.devices > 1 else "auto",
                precision=trainer_config.precision,
                max_epochs=math.ceil(settings.steps / settings.checkpoint_every_steps),
                max_steps=settings.steps,
                gradient_clip_val=settings.gradient_clip,
                callbacks=callbacks,
                logger=loggers,
                log_every_n_steps=min(50, settings.checkpoint_every_steps),
                plugins=[WholeCheckpoints()],
                reload_dataloaders_every_n_epochs=1,
                use_distributed_sampler=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise DeviceError(
            f"trainer asks for accelerator {trainer_config.accelerator!r} and "
            f"{trainer_config.devices} devices, which cannot be had here ({reason})",
            advice="change the table [trainer]",
        ) from None
    if trainer_config.precision == "16-mixed" and isinstance(trainer.accelerator, CPUAccelerator):
        raise DeviceError(
            "trainer.precision is '16-mixed', which a CPU cannot do",
            "'bf16-mixed' or '32-true'",
            "change it in the table [trainer]",
        )
    return trainer


def check_trainer(settings: FitConfig, trainer_config: TrainerConfig) -> torch.device:
    """This process's device; DeviceError or UsageError for what `fit` would miss later."""
    if trainer_config.tensorboard and not (find_spec("tensorboardX") or find_spec("tensorboard")):
        raise UsageError(
            "trainer.tensorboard is true",
            "the package tensorboardX to be installed",
            "pip install tensorboardX, or set it to false",
        )
    return make_trainer(settings, trainer_config, [], []).strategy.root_device


def make_loggers(trainer_config: TrainerConfig, folder: Path) -> list[Logger]:
    """Writers of loss, learning rate and validation figure over the steps.

    A resumed stage logs to a file of its own, as Lightning's logger starts each file anew.
    """
    number = len(list(folder.glob("metrics*/metrics.csv")))
    loggers: list[Logger] = [CSVLogger(folder, name="", version=f"metrics-{number}")]
    if trainer_config.tensorboard:
        loggers.append(TensorBoardLogger(folder, name="", version="tensorboard", default_hp_metric=False))
    return loggers


def fit(
    model: Model,
    loss: Loss,
    samples: Dataset[Any],
    loop: Loop,
    validation: Callable[[Any], float] | None = None,
) -> Model:
    """Train `model` and give it averaged weights; go on from the last checkpoint in the loop's folder, if any.

    `samples` has a sample for every index from 0 on. `validation` gives a figure of the model that is logged at every
    checkpoint. Stopped if the user interrupts, or SIGTERM does within `interruptible`: the last checkpoint stays.
    """
    settings, last = loop.settings, loop.folder / "last.ckpt"
    average = EMAWeightAveraging(decay=settings.average_decay, use_buffers=False)
    callbacks: list[Callback] = [
        Processes(),
        average,
        # `save_last` would write nothing while `save_top_k` is 0.
        ModelCheckpoint(
            dirpath=loop.folder,
            filename=last.stem,
            every_n_epochs=1,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        ),
        Report(average, settings.steps, validation),
    ]
    if loop.progress:
        callbacks.append(TrainingBar(loop.folder.name, settings.steps))
    trainer = make_trainer(settings, loop.trainer, callbacks, make_loggers(loop.trainer, loop.folder))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            resumed = last if last.exists() else None
            trainer.fit(Fit(model, loss, loop), datamodule=Batches(samples, loop), ckpt_path=resumed, weights_only=True)
    except SystemExit:  # Lightning's answer to an interruption
        raise Stopped(
            "stopped", advice=f"the same command goes on from step {step_of(last)} of {settings.steps}"
        ) from None
    return model


def step_of(checkpoint: Path) -> int:
    """Steps done when a checkpoint was written; 0 if there is none.

    The trainer's own count runs ahead of it while an epoch's figures are taken and the checkpoint is written.
    """
    if not checkpoint.exists():
        return 0
    return int(torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["global_step"])


def keep(model: nn.Module, weights: Path, folder: Path) -> None:
    """Save a trained model and remove the checkpoints in `folder`; its log stays. Other processes wait for that."""
    if is_first():
        save_weights(model, weights)
        for path in folder.glob("*.ckpt"):
            path.unlink(missing_ok=True)
    wait_for(weights)
