"""The training loop: batches in, a trained model, checkpoints and metrics out. It knows nothing of images."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn
from tqdm import tqdm

from glow.config import TrainRun
from glow.data.read.manifest import Split
from glow.execution.memory import drift_of
from glow.parallel.agreement import check_agreement
from glow.parallel.layout import Layout, microbatches
from glow.parallel.tensors import local_gradients
from glow.training.checkpoints.background import BackgroundSaver
from glow.training.checkpoints.manager import CheckpointManager
from glow.training.checkpoints.reading import read_state, read_tensors
from glow.training.checkpoints.writing import Snapshot
from glow.training.diagnosis import first_nonfinite_module, last_nonfinite_gradient
from glow.training.ema import EMA
from glow.training.loss_scale import LossScale
from glow.training.metrics import BITS_PER_DIM, MetricsLog, Scale, Value
from glow.training.optimizer import build_optimizer, load_optimizer_tensors, optimizer_tensors
from glow.training.schedule import learning_rate
from glow.training.stop import StopRequest, record_stop, remove_stop_file

MAX_DRIFT, MAX_DRIFT_IN_HALF = 1e-3, 0.1

Preview = Callable[[nn.Module], Mapping[str, float | np.ndarray]]


class TrainingBatch(Protocol):
    """What the trainer asks of a batch: the arguments of the model's forward, each ``[N, ...]``."""

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Arguments of forward."""

    @property
    def skipped(self) -> Sequence[str]:
        """What was wrong with each example that another one stands in for."""

    def __len__(self) -> int:
        """Return N."""


class TrainingDiverged(ValueError):
    """Loss or gradient is not finite any more."""


class Trainer:
    """Maximises the mean of ``model(*batch.inputs)``, log-probabilities ``[N]`` in nats, of a model laid over
    processes.

    The loss of a step is in bits/dim: the sum over the global batch divided by its size, whatever the number of
    processes and microbatches. It is shown in the scale that is given.

    All that a resumed run needs goes through checkpoints; randomness is in the batches.
    The checksum of ``data``, the split that is trained on, goes into checkpoints too, to tell whether it changed.
    """

    def __init__(
        self,
        layout: Layout,
        num_dims: int,
        run: TrainRun,
        accelerator: Accelerator,
        data: Split | None = None,
        scale: Scale = BITS_PER_DIM,
    ) -> None:
        self.num_dims = num_dims
        self.scale = scale
        self.layout = layout
        self.model = model = layout.model
        self.data = data
        self.run = run
        self.accelerator = accelerator
        self.bits_per_nat = 1 / (num_dims * math.log(2))
        self.optimizer = build_optimizer(model.parameters(), run.optimizer)
        self.ema = EMA(model, run.train.ema_decay)
        self.checkpoints = CheckpointManager(run.output, run.train.keep_last, run.train.keep_every)
        self.loss_scale = LossScale() if accelerator.mixed_precision == "fp16" else None
        self.max_drift = run.max_drift or (MAX_DRIFT if accelerator.mixed_precision == "no" else MAX_DRIFT_IN_HALF)
        self.step = 0
        self.num_overflows = 0
        self.best = math.inf
        self.losses_since_log: list[float] = []
        self.num_skipped = 0
        self.skipped_since_log: list[str] = []

    @property
    def images_seen(self) -> int:
        """Position in the sequence of training images."""
        return self.step * self.run.train.batch_size

    def restore(self, checkpoint: Path) -> None:
        """Go on from a checkpoint of this run; the model has its weights already."""
        state = read_state(checkpoint)
        self.ema.load_state_dict(read_tensors(checkpoint, "ema"))
        load_optimizer_tensors(self.optimizer, self.model, read_tensors(checkpoint, "optimizer"))
        self.step = state["step"]
        self.losses_since_log = state["losses_since_log"]
        self.num_overflows = state.get("num_overflows", 0)
        if self.loss_scale and state.get("loss_scale"):
            self.loss_scale.load_state_dict(state["loss_scale"])
        self.num_skipped, self.skipped_since_log = state["num_skipped"], state["skipped_since_log"]
        best = self.checkpoints.best()
        self.best = read_state(best)["validation_bits_per_dim"] if best else math.inf

    def fit(
        self,
        batches: Iterator[TrainingBatch],
        validation_batches: Callable[[], Iterable[TrainingBatch]] | None,
        preview: Preview,
        stop: StopRequest | None = None,
    ) -> None:
        """Train up to ``train.num_steps``, or until a process is asked to stop: then save, and leave stopped.json.

        Args:
            batches: This process's parts of the global batches, from ``images_seen`` on.
            validation_batches: Gives this process's part of the held-out data, anew at each call. None: there is none.
            preview: Called on the main process with the model and averaged weights: what to show at each validation.
            stop: Says whether this process was asked to stop; one process is enough.

        Raises:
            ValueError: on all processes, when they differ in position; names one that does.
            OSError: on the main process, when a checkpoint could not be written.
            TrainingDiverged: on all processes, before the optimiser step, when loss or gradient is not finite.
            ValueError: on all processes, when more data was skipped than data.max_skipped allows.
        """
        train, is_main = self.run.train, self.accelerator.is_main_process
        check_agreement({"step": self.step})
        with ExitStack() as stack:
            saver = stack.enter_context(BackgroundSaver(self.checkpoints))
            log = stack.enter_context(MetricsLog(self.run.output, self.step)) if is_main else None
            hidden = None if is_main else True  # None: hidden where stderr is no terminal
            bar = stack.enter_context(tqdm(total=train.num_steps, initial=self.step, unit="step", disable=hidden))
            waited_s, busy_s, since = 0.0, 0.0, self.step
            reason: str | None = None
            while self.step < train.num_steps and reason is None:
                saver.check()
                start = time.perf_counter()
                batch = next(batches)
                waited_s += time.perf_counter() - start
                loss, grad_norm, reason = self.train_step(batch, stop)
                busy_s += time.perf_counter() - start
                self.losses_since_log.append(loss)
                bar.update()
                values: dict[str, Value] = {}
                score, last = None, self.step == train.num_steps
                if last or self.step % train.log_every == 0:
                    values |= self._progress(grad_norm) | self._speed(self.step - since, busy_s, waited_s)
                    values |= self._drift()
                    bar.set_postfix_str(f"{values[f'train/{self.scale.key}']:.3f} {self.scale.unit}")
                    waited_s, busy_s, since = 0.0, 0.0, self.step
                if last or self.step % train.validate_every == 0:
                    with self.ema.applied(self.model), _eval_mode(self.model):
                        if validation_batches:
                            score = self._validate(validation_batches())
                            values |= self._told("validation", score)
                        whole_model = self.layout.whole_model()
                        values |= preview(whole_model) if whole_model is not None else {}
                if log and values:
                    log.write(self.step, values)
                if is_main and score is not None:
                    bar.write(f"step {self.step}: {self._describe(values)}")
                is_best = score is not None and score < self.best
                if last or reason or is_best or self.step % train.checkpoint_every == 0:
                    self._save(saver, score)
        # Before the others may go: a launcher that ends first can have this process killed.
        if is_main and reason and self.step < train.num_steps:
            record_stop(self.run.output, self.step, reason)
        elif is_main:
            remove_stop_file(self.run.output)
        self.accelerator.wait_for_everyone()

    @property
    def lr(self) -> float:
        """Learning rate of the last step."""
        return float(self.optimizer.param_groups[0]["lr"])

    def train_step(self, batch: TrainingBatch, stop: StopRequest | None = None) -> tuple[float, float, str | None]:
        """Make one optimiser step; return the loss of the global batch, the norm of its gradient, and why to stop."""
        train, accelerator = self.run.train, self.accelerator
        inputs = [value.to(accelerator.device) for value in batch.inputs]
        loss_scale = self.loss_scale.scale if self.loss_scale else 1.0
        scale = -self.bits_per_nat / train.batch_size
        # Of the global batch: the sum over processes of what each returns.
        total = self.layout.backward(inputs, train.microbatch_size or len(batch), loss_scale * scale) / loss_scale
        gradients = local_gradients(self.model.parameters())
        squared_norm = nn.utils.get_total_norm(gradients).double().square() / self.layout.num_copies
        reason = stop.reason() if stop else None
        mine = total.new_tensor([float(reason is not None), len(self._skipped(batch))])
        # The one host sync of a step: all processes see the same numbers.
        sums = accelerator.reduce(torch.stack([total, squared_norm, self._exceeds_drift(), *mine]), "sum")
        loss_value, scaled_norm, drifted, stops, skipped = sums.tolist()
        norm = math.sqrt(scaled_norm) / loss_scale
        is_finite = math.isfinite(norm)
        if not math.isfinite(loss_value) or not (is_finite or self.loss_scale):
            raise TrainingDiverged(self._diagnosis(batch, loss_value, norm))
        if drifted:
            raise TrainingDiverged(self._drift_diagnosis())
        if skipped:
            self._record_skipped(batch)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.num_updates, train.num_steps, self.run.optimizer)
        if is_finite:
            self._update(gradients, norm, loss_scale)
        else:
            self.num_overflows += 1
        if self.loss_scale:
            self.loss_scale.update(is_finite)
            if self.loss_scale.is_collapsed:
                raise TrainingDiverged(f"{self._diagnosis(batch, loss_value, norm)}. The loss scale is below 1")
        self.optimizer.zero_grad()
        self.step += 1
        if stops:  # not every process may have been asked
            reason = next(theirs for theirs in gather_object([reason]) if theirs is not None)
        return loss_value, norm, reason

    def _update(self, gradients: list[Tensor], norm: float, loss_scale: float) -> None:
        """Clip the gradients, and move the weights and their average; overflows do not advance the learning rate."""
        max_norm = self.run.optimizer.max_grad_norm
        factor = 1.0 if max_norm is None else min(1.0, max_norm / (norm + 1e-6))
        if factor != loss_scale:
            torch._foreach_mul_(gradients, factor / loss_scale)
        self.optimizer.step()
        self.ema.update(self.model, self.num_updates + 1)

    @property
    def num_updates(self) -> int:
        """Steps that moved the weights."""
        return self.step - self.num_overflows

    def _skipped(self, batch: TrainingBatch) -> list[str]:
        """Return what this process is to report: those of one pipeline read the same batch."""
        return list(batch.skipped) if self.layout.placement.stage == 0 else []

    def _record_skipped(self, batch: TrainingBatch) -> None:
        """Count and list what all processes skipped in this step (a collective)."""
        problems = gather_object(self._skipped(batch))
        self.num_skipped += len(problems)
        self.skipped_since_log += [problem for problem in problems if problem not in self.skipped_since_log]
        images = max(self.images_seen, self.data.num_images if self.data else 0)
        if self.num_skipped > self.run.data.max_skipped * images:
            raise ValueError(
                f"data.max_skipped: {self.num_skipped} of {images} images were skipped, more than the fraction "
                f"{self.run.data.max_skipped} that is allowed; the last: {problems[-1]}"
            )

    def _progress(self, grad_norm: float) -> dict[str, Value]:
        """Return what the steps since the last line of the log came to, and begin anew."""
        mean = sum(self.losses_since_log) / len(self.losses_since_log)
        values = self._told("train", mean) | {"train/grad_norm": grad_norm, "train/lr": self.lr}
        values["images_seen"] = self.images_seen
        if not math.isfinite(grad_norm):  # an overflow
            del values["train/grad_norm"]
        if self.loss_scale:
            values |= {"train/loss_scale": self.loss_scale.scale, "train/num_overflows": self.num_overflows}
        if self.run.data.on_error == "skip":
            values["data/num_skipped"] = self.num_skipped
        if self.skipped_since_log:
            values["data/skipped"] = self.skipped_since_log
        self.losses_since_log, self.skipped_since_log = [], []
        return values

    def _told(self, part: str, loss: float) -> dict[str, Value]:
        """Return a loss in bits/dim as it is shown."""
        return {f"{part}/{self.scale.key}": self.scale.of_loss(loss, self.num_dims)}

    def _describe(self, values: Mapping[str, Value]) -> str:
        shown = {part: values.get(f"{part}/{self.scale.key}") for part in ("train", "validation")}
        parts = [f"{part} {value:.4f}" for part, value in shown.items() if value is not None]
        return ", ".join(parts) + f" {self.scale.unit}"

    def _speed(self, steps: int, busy_s: float, waited_s: float) -> dict[str, Value]:
        """Return throughput, times a step, and memory; the wait is that of the slowest reader (a collective)."""
        longest_wait_s = float(self.accelerator.gather(torch.tensor([waited_s], device=self.accelerator.device)).max())
        images_per_s = steps * self.run.train.batch_size / busy_s
        return {
            "train/images_per_s": images_per_s,
            "train/images_per_process_per_s": images_per_s / self.accelerator.num_processes,
            "train/step_s": busy_s / steps,
            "train/data_wait_s": longest_wait_s / steps,
            "train/data_wait_s_per_s": longest_wait_s / busy_s,
            "train/peak_memory_bytes": _peak_memory_bytes(),
        }

    def _exceeds_drift(self) -> Tensor:
        """Return 1 when a rebuilt state was too far from the real one, else 0: a float64 scalar on the device."""
        drift = drift_of(self.model)
        if drift is None:
            return torch.zeros((), dtype=torch.float64, device=self.accelerator.device)
        return (~(drift <= self.max_drift)).double()

    def _drift(self) -> dict[str, Value]:
        """Return the largest drift of all processes since the last line of the log (a collective), and begin anew."""
        if self.run.memory != "reversible":
            return {}
        largest = float(self.accelerator.gather(drift_of(self.model, reset=True)).max())
        return {"memory/drift": largest}

    @torch.no_grad()
    def _validate(self, batches: Iterable[TrainingBatch]) -> float:
        """Return the mean bits/dim over all processes' batches (a collective)."""
        sums = torch.zeros(2, dtype=torch.float64, device=self.accelerator.device)
        for batch, is_real in self.layout.in_step(batches):
            log_prob = self.layout.log_prob([value.to(self.accelerator.device) for value in batch.inputs])
            if is_real and log_prob is not None:
                sums += torch.stack([log_prob.double().sum(), sums.new_tensor(len(batch))])
        total, count = self.accelerator.reduce(sums, "sum").tolist()
        if not math.isfinite(total):
            raise TrainingDiverged(f"validation after step {self.step}: the log-likelihood is not finite")
        return -total * self.bits_per_nat / count

    def _save(self, saver: BackgroundSaver, score: float | None) -> None:
        """Hand a copy of the state to the main process's saver (a collective)."""
        held = {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(self.model),
            "optimizer": optimizer_tensors(self.optimizer, self.model),
        }
        tensors = {name: self.layout.gather(values) for name, values in held.items()}
        if self.accelerator.is_main_process:
            state = {
                "step": self.step,
                "images_seen": self.images_seen,
                "validation_bits_per_dim": score,
                "losses_since_log": self.losses_since_log,
                "num_overflows": self.num_overflows,
                "loss_scale": self.loss_scale.state_dict() if self.loss_scale else None,
                "num_skipped": self.num_skipped,
                "skipped_since_log": self.skipped_since_log,
                "data_sha256": self.data.sha256 if self.data else None,
                "num_processes": self.accelerator.num_processes,
            }
            saver.save(Snapshot(tensors, self.run, state))
        if score is not None:
            self.best = min(self.best, score)

    def _diagnosis(self, batch: TrainingBatch, loss: float, norm: float) -> str:
        size = self.run.train.microbatch_size or len(batch)
        parts = [part for part, _ in microbatches([v.to(self.accelerator.device) for v in batch.inputs], size)]
        where = first_nonfinite_module(self.layout, parts) or last_nonfinite_gradient(self.model) or "another process"
        latest = self.checkpoints.latest()
        return (
            f"step {self.step + 1}: loss {loss}, gradient norm {norm}, first seen in {where}; nothing was updated. "
            f"Last good checkpoint: {latest or 'none yet'}. A lower optimizer.lr, a longer optimizer.warmup_steps or "
            "optimizer.max_grad_norm may help"
        )

    def _drift_diagnosis(self) -> str:
        drift = self._drift()["memory/drift"]
        return (
            f"step {self.step + 1}: memory reversible rebuilt a state that is {drift:.1e} away from the real one, "
            f"more than max_drift {self.max_drift} allows; nothing was updated. A lower anchor_every or memory "
            "checkpoint may help"
        )


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    """Let maps that depend on the batch in training mode be fixed."""
    model.eval()
    try:
        yield
    finally:
        model.train()


def _peak_memory_bytes() -> int:
    """Return the most memory that was in use so far: of the GPU, or of the process where there is none."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
