"""The training loop: one Lightning module per model, an epoch being the steps between two checkpoints."""

import logging
import math
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from fsae.runtime.errors import DeviceError, Stopped, UsageError
from fsae.training.config import FitConfig, TrainerConfig
from fsae.training.networks.autoencoder import Autoencoder
from fsae.training.networks.denoiser import Denoiser

from .processes import Processes, interruptible
from .progress import TrainingBar

log = logging.getLogger("fsae.training")

Model = TypeVar("Model", bound=nn.Module)

MakeSamples = Callable[[int, int], Dataset[Any]]  # (index of the first sample, count) -> samples


class Fit(lightning.LightningModule):
    """Optimiser, learning rate and data of one model; the loss is a function of (model, batch)."""

    def __init__(
        self,
        model: nn.Module,
        loss: Callable[[Any, Any], Tensor],
        config: FitConfig,
        make_samples: MakeSamples,
        seed: int,
        validation: Callable[[Any], float] | None,
        loader_workers: int,
    ) -> None:
        super().__init__()
        self.model, self.loss, self.config, self.make_samples = model, loss, config, make_samples
        self.seed, self.validation, self.loader_workers = seed, validation, loader_workers

    def train_dataloader(self) -> DataLoader[Any]:
        """Samples of this epoch: they follow from seed and index, so a resumed run sees what it would have seen.

        Of W devices number r takes the samples r, r + W, r + 2 W, ... and an even share of the batch: together they
        work on the batches of a single one. Lightning's own sampler would shuffle.
        """
        size, devices = self.config.checkpoint_every_steps * self.config.batch, self.trainer.world_size
        return DataLoader(
            self.make_samples(self.current_epoch * size, size),
            batch_size=self.config.batch // devices,
            sampler=range(self.global_rank, size, devices),
            num_workers=self.loader_workers,
            multiprocessing_context="fork" if self.loader_workers else None,  # shares what is in memory
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
        )

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Dropout depends on the step and the device alone, not on what ran before."""
        torch.manual_seed(self.seed * 1_000_003 + self.global_step + (self.global_rank << 48))

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
        config = self.config
        optimizer = torch.optim.AdamW(
            self.model.parameters(), config.learning_rate, betas=(0.9, 0.98), weight_decay=config.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, config.learning_rate, total_steps=config.steps + 1, pct_start=0.1
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Report(Callback):
    """One line of the log per epoch: step, loss, validation figure of the averaged weights, which are what is kept."""

    def __init__(self, average: EMAWeightAveraging) -> None:
        self.average = average

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Called by Lightning."""
        if not isinstance(pl_module, Fit):
            raise TypeError(f"found {type(pl_module)}, expected Fit")
        if not trainer.is_global_zero:
            return
        line = f"step {trainer.global_step}/{pl_module.config.steps} loss {float(trainer.callback_metrics['loss']):.4f}"
        if pl_module.validation is not None:
            self.average.on_validation_epoch_start(trainer, pl_module)  # exchanges the weights
            pl_module.model.eval()
            figure = pl_module.validation(pl_module.model)
            pl_module.model.train()
            self.average.on_validation_epoch_end(trainer, pl_module)
            pl_module.log("validation", figure, rank_zero_only=True)
            line += f" validation {figure:.4f}"
        log.info(line)


def autoencoder_loss(model: Autoencoder, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Mean square error of the rebuilt anomalies: by orthogonality the sum over levels."""
    anomaly, season = batch
    mask = torch.ones(len(anomaly), len(model.config.zooms), device=anomaly.device)
    rebuilt = model.decode_anomaly(model.encode_anomaly(anomaly, season, mask), season)
    loss: Tensor = (rebuilt - anomaly).square().mean()
    return loss


def denoiser_loss(model: Denoiser, batch: dict[str, Tensor]) -> Tensor:
    """Mean square error of the denoised window, weighted by (sigma^2 + 1) / sigma^2 (EDM eq. 8, sigma_data = 1)."""
    inputs = {name: value for name, value in batch.items() if name != "clean"}
    error = (model(**inputs) - batch["clean"]).square().mean(dim=(1, 2, 3))
    square = batch["sigma"].square()
    loss: Tensor = ((square + 1) / square * error).mean()
    return loss


def make_trainer(
    config: FitConfig, trainer_config: TrainerConfig, callbacks: list[Callback], loggers: list[Logger]
) -> lightning.Trainer:
    """Lightning's trainer; DeviceError where the accelerator, the devices or the precision cannot be had."""
    # Lightning's hints on hardware, loggers and loader workers say nothing of the run.
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
                max_epochs=math.ceil(config.steps / config.checkpoint_every_steps),
                max_steps=config.steps,
                gradient_clip_val=config.gradient_clip,
                callbacks=callbacks,
                logger=loggers,
                log_every_n_steps=min(50, config.checkpoint_every_steps),
                reload_dataloaders_every_n_epochs=1,
                use_distributed_sampler=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise DeviceError(
            f"trainer asks for accelerator {trainer_config.accelerator!r} and {trainer_config.devices} devices, which "
            f"cannot be had here ({reason}): change the table [trainer]"
        ) from None
    if trainer_config.precision == "16-mixed" and isinstance(trainer.accelerator, CPUAccelerator):
        raise DeviceError("trainer.precision is '16-mixed', which a CPU cannot do: expected 'bf16-mixed' or '32-true'")
    return trainer


def check_trainer(config: FitConfig, trainer_config: TrainerConfig) -> torch.device:
    """This process's device; DeviceError or UsageError for what `fit` would miss later."""
    if trainer_config.tensorboard and not (find_spec("tensorboardX") or find_spec("tensorboard")):
        raise UsageError(
            "trainer.tensorboard is true, expected the package tensorboardX to be installed: pip install tensorboardX, "
            "or set it to false"
        )
    return make_trainer(config, trainer_config, [], []).strategy.root_device


def make_loggers(trainer_config: TrainerConfig, folder: Path) -> list[Logger]:
    """Writers of loss, learning rate and validation figure over the steps.

    The log of a resumed stage goes to a file of its own, as Lightning's logger starts each file anew.
    """
    number = len(list(folder.glob("metrics*/metrics.csv")))
    loggers: list[Logger] = [CSVLogger(folder, name="", version=f"metrics-{number}")]
    if trainer_config.tensorboard:
        loggers.append(TensorBoardLogger(folder, name="", version="tensorboard", default_hp_metric=False))
    return loggers


def fit(
    model: Model,
    loss: Callable[[Any, Any], Tensor],
    config: FitConfig,
    trainer_config: TrainerConfig,
    make_samples: MakeSamples,
    *,
    folder: Path,
    seed: int,
    progress: bool,
    validation: Callable[[Any], float] | None = None,
) -> Model:
    """The trained model with averaged weights; goes on from the last checkpoint in `folder` where there is one.

    Stopped is raised when the user interrupts, or SIGTERM does: the last checkpoint stays.
    """
    task = Fit(model, loss, config, make_samples, seed, validation, trainer_config.loader_workers)
    last = folder / "last.ckpt"
    average = EMAWeightAveraging(decay=config.average_decay, use_buffers=False)
    callbacks: list[Callback] = [
        Processes(),
        average,
        # `save_last` would write nothing while `save_top_k` is 0.
        ModelCheckpoint(
            dirpath=folder,
            filename="last",
            every_n_epochs=1,
            save_on_train_epoch_end=True,
            enable_version_counter=False,
        ),
        Report(average),
    ]
    if progress:
        callbacks.append(TrainingBar(folder.name, config.steps))
    trainer = make_trainer(config, trainer_config, callbacks, make_loggers(trainer_config, folder))
    try:
        with interruptible(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.fit(task, ckpt_path=last if last.exists() else None, weights_only=True)
    except SystemExit:  # what Lightning makes of an interruption
        done = trainer.global_step // config.checkpoint_every_steps * config.checkpoint_every_steps
        raise Stopped(f"stopped; the same command goes on from step {done} of {config.steps}") from None
    return model


def forget_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a finished stage; its log stays."""
    for path in folder.glob("*.ckpt"):
        path.unlink(missing_ok=True)
