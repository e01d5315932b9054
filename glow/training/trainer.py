"""The training loop: batches in; a trained model, checkpoints and metrics out. It knows nothing of images."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from glow.config import TrainRun
from glow.data.read.manifest import Split
from glow.parallel.agreement import check_agreement, first_given, read_by_main
from glow.parallel.layout import Layout
from glow.parallel.tensors import local_gradients, to_device
from glow.training.batch import TrainingBatch
from glow.training.board import Value
from glow.training.checkpoints.background import BackgroundSaver
from glow.training.checkpoints.manager import CheckpointManager
from glow.training.checkpoints.state import State
from glow.training.checkpoints.writing import Snapshot
from glow.training.diagnosis import TrainingDiverged, describe_divergence
from glow.training.display import Display, Preview
from glow.training.drift import Drift
from glow.training.ema import EMA
from glow.training.loss_scale import LossScale
from glow.training.metrics import BITS_PER_DIM, Scale
from glow.training.optimizer import build_optimizer, load_optimizer_tensors, optimizer_tensors
from glow.training.progress import Progress
from glow.training.resuming import Resumption, read_averages, read_moments
from glow.training.schedule import learning_rate
from glow.training.skipped import Skipped
from glow.training.stop import StopRequest, record_stop, remove_stop_file
from glow.training.update import Update
from glow.training.validation import Validation, eval_mode, total_log_prob


class Trainer:
    """Maximises the mean of ``model(*batch.inputs)``, log-probabilities ``[N]`` in nats.

    The loss of a step is in bits/dim: the sum over the global batch divided by its size. It does not depend on the
    number of processes and microbatches. All state that a resumed run needs goes through checkpoints; the randomness
    is in the batches.

    Args:
        layout: The model, laid over processes.
        num_dims: Dimensions of an example.
        run: The configuration.
        accelerator: Of this process.
        data: The train split.
        scale: The unit in which losses are reported.
        facts: What checkpoints say of the data, so that a resumed run notices other data: entries of ``State``.
    """

    def __init__(
        self,
        layout: Layout,
        num_dims: int,
        run: TrainRun,
        accelerator: Accelerator,
        data: Split | None = None,
        scale: Scale = BITS_PER_DIM,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.layout, self.model = layout, layout.model
        self.num_dims, self.scale = num_dims, scale
        self.run, self.facts = run, facts or {}
        self.accelerator = accelerator
        self.bits_per_nat = 1 / (num_dims * math.log(2))
        self.optimizer = build_optimizer(self.model.parameters(), run.optimizer)
        self.ema = EMA(self.model, run.train.ema_decay)
        self.update = Update(self.model, self.optimizer, self.ema, run)
        self.checkpoints = CheckpointManager(run.output, run.train.keep_last, run.train.keep_every)
        self.loss_scale = LossScale() if accelerator.mixed_precision == "fp16" else None
        self.drift = Drift(self.model, run, accelerator)
        self.progress = Progress(accelerator, run.train.batch_size)
        self.skipped = Skipped(run, data.num_images if data else 0, is_reader=layout.placement.stage == 0)
        self.step = self.num_overflows = 0
        self.best = math.inf

    @property
    def images_seen(self) -> int:
        """Position in the sequence of training images."""
        return self.step * self.run.train.batch_size

    @property
    def num_updates(self) -> int:
        """Steps that moved the weights: those without an overflow."""
        return self.step - self.num_overflows

    def fit(
        self,
        batches: Iterator[TrainingBatch],
        validation: Validation | None,
        preview: Preview,
        stop: StopRequest | None = None,
    ) -> str | None:
        """Train up to ``train.num_steps``, or until a process is asked to stop: then save, and write stopped.json.

        Args:
            batches: This process's parts of the global batches, from ``images_seen`` on.
            validation: Gives this process's part of the held-out data, anew at each call; None without such data.
            preview: Called on the main process with the averaged model: what to show of it at each validation.
            stop: Whether this process was asked to stop. One process is enough.

        Returns:
            The reason for which a process was asked to stop; None if none was.

        Raises:
            ValueError: on all processes, when their positions differ, or when more data was skipped than
                data.max_skipped allows.
            OSError: on the main process, when a checkpoint could not be written.
            TrainingDiverged: on all processes, before the optimiser step, when loss or gradient is not finite.
        """
        train = self.run.train
        check_agreement({"step": self.step})
        with ExitStack() as stack:
            saver = stack.enter_context(BackgroundSaver(self.checkpoints))
            shown = Display(self.run, self.step, self.scale) if self.accelerator.is_main_process else None
            display = stack.enter_context(shown) if shown else None
            reason: str | None = None
            batch: TrainingBatch | None = None
            score, is_saved = None, True
            while self.step < train.num_steps and reason is None:
                saver.check()
                start = time.perf_counter()
                batch = stop.next_of(batches, stand_in=batch) if stop else next(batches)
                waited_s, step = time.perf_counter() - start, self.step
                loss, grad_norm, reason = self.train_step(batch, stop)
                if self.step == step:  # a process was starved of data
                    if not is_saved:
                        self._save(saver, score)
                    break
                self.progress.add(loss, waited_s, time.perf_counter() - start)
                values: dict[str, Value] = {}
                score, is_last = None, self.step == train.num_steps
                if is_last or self.step % train.log_every == 0:
                    values |= self._summarise(grad_norm)
                if is_last or self.step % train.validate_every == 0:
                    with self.ema.applied(self.model), eval_mode(self.model):
                        if validation:
                            score = self.validate(validation())
                            values |= self._report("validation", score)
                        whole_model = self.layout.whole_model()
                        values |= preview(whole_model) if whole_model is not None else {}
                if display:
                    # Before the checkpoint: a resume takes over the lines up to it.
                    display.record(self.step, values)
                is_best = score is not None and score < self.best
                is_saved = bool(is_last or reason or is_best or self.step % train.checkpoint_every == 0)
                if is_saved:
                    self._save(saver, score)
                if display:
                    display.show(self.step, self.scale.of_loss(loss, self.num_dims), values)
        self._leave(reason, stop)
        return reason

    def train_step(self, batch: TrainingBatch, stop: StopRequest | None = None) -> tuple[float, float, str | None]:
        """Make one optimiser step (a collective); none when a process was starved of data.

        Returns:
            The loss of the global batch in bits/dim, the norm of its gradient, and the reason to stop, if any.
        """
        loss_scale = self.loss_scale.scale if self.loss_scale else 1.0
        scale = loss_scale * (-self.bits_per_nat / self.run.train.batch_size)
        # Of the global batch: the sum over processes of what each returns.
        total = self.layout.backward(*self._inputs(batch), scale) / loss_scale
        gradients = local_gradients(self.model.parameters())
        squared_norm = nn.utils.get_total_norm(gradients).double().square() / self.layout.num_copies
        reason = stop.reason() if stop else None
        own = (bool(reason), len(self.skipped.in_batch(batch)), bool(stop and stop.is_starved))
        mine = [total.new_full((), float(value)) for value in own]
        # The one time in a step that the host waits for the device: all processes see the same numbers.
        sums = self.accelerator.reduce(torch.stack([total, squared_norm, self.drift.exceeds_bound(), *mine]), "sum")
        loss, scaled_norm, drifted, stops, skipped, starved = sums.tolist()
        if starved:  # its batch was a stand-in, so that the other processes need not wait for it
            self.optimizer.zero_grad()
            return loss, math.nan, first_given(reason)
        norm = math.sqrt(scaled_norm) / loss_scale
        # Under fp16, the loss scale takes care of a gradient that overflows.
        if not math.isfinite(loss) or not (math.isfinite(norm) or self.loss_scale):
            raise TrainingDiverged(self._diagnosis(batch, loss, norm))
        if drifted:
            raise TrainingDiverged(f"step {self.step + 1}: {self.drift.problem()}")
        if skipped:
            self.skipped.record(batch, self.images_seen)
        self._update(gradients, norm, loss_scale)
        if self.loss_scale and self.loss_scale.is_collapsed:
            raise TrainingDiverged(f"{self._diagnosis(batch, loss, norm)}. The loss scale is below 1")
        self.optimizer.zero_grad()
        self.step += 1
        if stops:  # not every process may have been asked
            reason = first_given(reason)
        return loss, norm, reason

    def _update(self, gradients: list[Tensor], norm: float, loss_scale: float) -> None:
        """Clip the gradients, and move the weights and their average; after an overflow, only lower the loss scale."""
        lr = learning_rate(self.num_updates, self.run.train.num_steps, self.run.optimizer)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        if self.loss_scale:
            self.loss_scale.update(math.isfinite(norm))
        if not math.isfinite(norm):
            self.num_overflows += 1
            return
        max_norm = self.run.optimizer.max_grad_norm
        factor = 1.0 if max_norm is None else min(1.0, max_norm / (norm + 1e-6))
        self.update(gradients, factor / loss_scale, lr, self.num_updates + 1)

    def validate(self, batches: Iterable[TrainingBatch]) -> float:
        """Return the mean bits/dim over the batches of all processes (a collective).

        Raises:
            TrainingDiverged: on all processes, when it is not finite.
        """
        total, count = total_log_prob(self.layout, batches, self.accelerator)
        if not math.isfinite(total):
            raise TrainingDiverged(f"validation after step {self.step}: the log-likelihood is not finite")
        return -total * self.bits_per_nat / count

    def restore(self, found: Resumption) -> None:
        """Go on from a checkpoint of this run (a collective). The model must have its weights already."""
        state = found.state
        averages, moments = (partial(read, found.checkpoint) for read in (read_averages, read_moments))
        self.ema.load_state_dict(read_by_main(averages, self.accelerator))
        load_optimizer_tensors(self.optimizer, self.model, read_by_main(moments, self.accelerator))
        self.step, self.num_overflows = state.step, state.num_overflows
        self.progress.losses = state.losses_since_log
        if self.loss_scale and state.loss_scale:
            self.loss_scale.load_state_dict(state.loss_scale)
        self.skipped.count, self.skipped.since_log = state.num_skipped, state.skipped_since_log
        self.best = found.best

    def _save(self, saver: BackgroundSaver, score: float | None) -> None:
        """Hand a copy of the state to the main process's saver (a collective)."""
        held = {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(self.model),
            "optimizer": optimizer_tensors(self.optimizer, self.model),
        }
        tensors = {name: self.layout.gather(values) for name, values in held.items()}
        if self.accelerator.is_main_process:
            state = State(
                step=self.step,
                images_seen=self.images_seen,
                validation_bits_per_dim=score,
                losses_since_log=self.progress.losses,
                num_overflows=self.num_overflows,
                loss_scale=self.loss_scale.state_dict() if self.loss_scale else None,
                num_skipped=self.skipped.count,
                skipped_since_log=self.skipped.since_log,
                num_processes=self.accelerator.num_processes,
                **self.facts,
            )
            saver.save(Snapshot(tensors, self.run, state))
        if score is not None:
            self.best = min(self.best, score)

    def _leave(self, reason: str | None, stop: StopRequest | None) -> None:
        """Write stopped.json if training ended early, and wait for all processes (a collective)."""
        if stop:
            stop.may_wait = True  # for the last checkpoint, which the main process writes
        # Before the others may go: a launcher that ends first can have this process killed.
        if self.accelerator.is_main_process:
            if reason and self.step < self.run.train.num_steps:
                record_stop(self.run.output, self.step, reason)
            else:
                remove_stop_file(self.run.output)
        self.accelerator.wait_for_everyone()

    def _summarise(self, grad_norm: float) -> dict[str, Value]:
        """Return the metrics of the steps since the last line of the log (a collective)."""
        values = self._report("train", self.progress.mean_loss())
        if math.isfinite(grad_norm):  # no overflow
            values["train/grad_norm"] = grad_norm
        values |= {"train/lr": float(self.optimizer.param_groups[0]["lr"]), "images_seen": self.images_seen}
        if self.loss_scale:
            values |= {"train/loss_scale": self.loss_scale.scale, "train/num_overflows": self.num_overflows}
        return values | self.skipped.metrics() | self.progress.speed() | self.drift.metrics()

    def _report(self, part: str, loss: float) -> dict[str, Value]:
        """Return a loss in bits/dim as the metric of a part of the data, in the unit of the reports."""
        return {f"{part}/{self.scale.key}": self.scale.of_loss(loss, self.num_dims)}

    def _inputs(self, batch: TrainingBatch) -> tuple[list[Tensor], int]:
        """Return what the model takes, and the size of its microbatches."""
        inputs = [to_device(value, self.accelerator.device) for value in batch.inputs]
        return inputs, self.run.train.microbatch_size or len(batch)

    def _diagnosis(self, batch: TrainingBatch, loss: float, norm: float) -> str:
        place = describe_divergence(self.layout, *self._inputs(batch), self.checkpoints.latest())
        return f"step {self.step + 1}: loss {loss}, gradient norm {norm}, {place}"
