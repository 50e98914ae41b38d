"""The training loop: one Lightning module per model, an epoch being the steps between two checkpoints."""

import logging
import math
import signal
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from fsae.runtime.errors import DeviceError, Stopped

from .autoencoder import Autoencoder
from .config import FitConfig, TrainerConfig
from .denoiser import Denoiser
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
    ) -> None:
        super().__init__()
        self.model, self.loss, self.config, self.make_samples = model, loss, config, make_samples
        self.seed, self.validation = seed, validation

    def train_dataloader(self) -> DataLoader[Any]:
        """Samples of this epoch: they follow from seed and index, so a resumed run sees what it would have seen."""
        size = self.config.checkpoint_every_steps * self.config.batch * self.trainer.world_size
        return DataLoader(self.make_samples(self.current_epoch * size, size), batch_size=self.config.batch)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Dropout depends on the step alone, not on what ran before."""
        torch.manual_seed(self.seed * 1_000_003 + self.global_step)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """The loss of a batch."""
        loss = self.loss(self.model, batch)
        self.log("loss", loss.detach(), prog_bar=True)
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
    """One line of the log per epoch: step, loss, validation figure."""

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Called by Lightning."""
        if not isinstance(pl_module, Fit):
            raise TypeError(f"found {type(pl_module)}, expected Fit")
        line = f"step {trainer.global_step}/{pl_module.config.steps} loss {float(trainer.callback_metrics['loss']):.4f}"
        if pl_module.validation is not None:
            pl_module.model.eval()
            line += f" validation {pl_module.validation(pl_module.model):.4f}"
            pl_module.model.train()
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
    config: FitConfig, trainer_config: TrainerConfig, callbacks: list[Callback], folder: Path
) -> lightning.Trainer:
    """Lightning's trainer; DeviceError where the accelerator or the devices are not there.

    The log of a resumed stage goes to a file of its own, as Lightning's logger starts each file anew.
    """
    number = len(list(folder.glob("metrics*/metrics.csv")))
    try:
        return lightning.Trainer(
            accelerator=trainer_config.accelerator,
            devices=trainer_config.devices,
            precision=trainer_config.precision,
            max_epochs=math.ceil(config.steps / config.checkpoint_every_steps),
            max_steps=config.steps,
            gradient_clip_val=config.gradient_clip,
            callbacks=callbacks,
            logger=CSVLogger(folder, name="", version=f"metrics-{number}"),
            log_every_n_steps=min(50, config.checkpoint_every_steps),
            reload_dataloaders_every_n_epochs=1,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
    except (MisconfigurationException, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise DeviceError(
            f"trainer asks for accelerator {trainer_config.accelerator!r} and {trainer_config.devices} devices, which "
            f"cannot be had here ({reason}): change the table [trainer]"
        ) from None


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

    Stopped is raised when the user interrupts: the last checkpoint stays.
    """
    # Lightning's hints on hardware, loggers and loader workers say nothing of the run.
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    task = Fit(model, loss, config, make_samples, seed, validation)
    last = folder / "last.ckpt"
    callbacks: list[Callback] = [
        EMAWeightAveraging(decay=config.average_decay, use_buffers=False),
        ModelCheckpoint(dirpath=folder, save_last=True, save_top_k=0, every_n_epochs=1, save_on_train_epoch_end=True),
        Report(),
    ]
    if progress:
        callbacks.append(TrainingBar(folder.name, config.steps))
    trainer = make_trainer(config, trainer_config, callbacks, folder)
    handler = signal.getsignal(signal.SIGINT)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            trainer.fit(task, ckpt_path=last if last.exists() else None, weights_only=True)
    except SystemExit:  # what Lightning makes of SIGINT and SIGTERM
        done = trainer.global_step // config.checkpoint_every_steps * config.checkpoint_every_steps
        raise Stopped(f"stopped; the same command goes on from step {done} of {config.steps}") from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)  # Lightning leaves it ignored
    return model


def forget_checkpoints(folder: Path) -> None:
    """Remove the checkpoints of a finished stage; its log stays."""
    for path in folder.glob("*.ckpt"):
        path.unlink(missing_ok=True)
