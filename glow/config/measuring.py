"""Options of plan, benchmark, race and sweep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from glow.config.fields import require
from glow.config.training import TrainRun


@dataclass(frozen=True)
class PlanRun(TrainRun):
    """Predict what a training needs before it starts, and recommend how to run it.

    It prints the parameters, the arithmetic, the memory of one process in each memory and parallel mode, and the
    largest microbatch that fits. All options of train can be used.
    """

    output: str = "runs/plan"
    """Not used: plan writes nothing there."""
    gpu_memory_gib: float = 80.0
    """Memory of each process's device, in GiB."""
    measure: bool = False
    """Also run a forward and a backward pass on this machine in each memory mode, and compare the measured memory with
    the prediction."""
    plot: str | None = None
    """PNG file to write: the memory that each memory mode keeps with 4, 8, 16 and 32 steps in a level, measured on this
    machine. Default: no picture."""

    def __post_init__(self) -> None:
        """Check ranges."""
        super().__post_init__()
        require(self.gpu_memory_gib > 0, "gpu_memory_gib", self.gpu_memory_gib, "give a number above 0")


@dataclass(frozen=True)
class BenchmarkRun(TrainRun):
    """Measure how fast a model trains, computes log-probabilities, samples and reads data on this machine.

    It also measures the memory, and compares the speed with the limits of the device. All options of train can be used.
    """

    output: str = "runs/benchmark"
    """Run directory to write; results go into its folder benchmark."""
    against: Literal["normflows", "stored", "checkpoint", "reversible"] | None = None
    """Second model to time, in turn with the first, for comparison. normflows: the nearest Glow of the package
    normflows, both without ActNorm in the coupling networks. stored, checkpoint, reversible: the same model in that
    memory mode, not compiled. Default: none."""
    repeats: int = 10
    """Number of calls of each kind to time, at least."""
    seconds: float = 10.0
    """Time to spend on the calls of each kind, at least, in seconds."""
    profile: bool = False
    """Also write traces of training and sampling, for TensorBoard or Perfetto."""
    readme: str | None = None
    """Markdown file with a table between the lines <!-- performance --> and <!-- -->. The results become a row of
    it, in place of an earlier row of the same model and device. Default: none."""

    def __post_init__(self) -> None:
        """Check ranges and the combination."""
        super().__post_init__()
        require(self.repeats >= 1, "repeats", self.repeats, "give 1 or more")
        require(self.seconds >= 0, "seconds", self.seconds, "give 0 or more")
        is_other = self.compile or self.against != self.memory
        require(is_other, "against", self.against, "choose another mode than that of memory")
        advice = "leave it out: benchmark measures one process"
        require(self.parallel.mode == "ddp", "parallel.mode", self.parallel.mode, advice)
        advice = "leave it out: benchmark measures a Glow of images alone"
        require(not self.is_of_vectors, "vectors.name", self.vectors.name, advice)


@dataclass(frozen=True)
class RaceRun:
    """Train several models for the same CPU time, and compare their bits/dim on held-out images.

    Each contestant is a process with one thread; two run at a time. Its learning rate falls by what is left of the
    budget. The results are a table (race.md), a picture (race.png) and all numbers (race.json). The same command again
    goes on with the contestants that have not finished.
    """

    contestants: list[str]
    """Configurations, by name or as YAML files. normflows:CONFIG is the nearest model of the package normflows, trained
    as CONFIG says. Give the option several times."""
    data: str
    """Prepared data set, for all contestants."""
    output: str = "runs/race"
    """Directory of the results."""
    cpu_seconds: float = 1800.0
    """CPU time of each contestant, in seconds: imports, initialisation, training and measurements. 1800 are 15 minutes
    on two cores."""
    split: str = "validation"
    """Split that is measured. Choose by validation; read test once."""
    num_images: int = 1000
    """Images that are measured at the end. On the way, the first 200 of them are."""
    num_checks: int = 16
    """Measurements on the way."""
    seeds: tuple[int, ...] = (0,)
    """Seeds of the training; each contestant races once with each."""
    at_a_time: int = 2
    """Contestants that run at a time. Give no more than there are cores."""

    def __post_init__(self) -> None:
        """Check ranges."""
        distinct = len(set(self.contestants)) == len(self.contestants) >= 1
        require(distinct, "contestants", self.contestants, "give one or more different ones")
        require(self.cpu_seconds > 0, "cpu_seconds", self.cpu_seconds, "give a number above 0")
        for name in ("num_images", "num_checks", "at_a_time"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "give 1 or more")
        is_fine = len(set(self.seeds)) == len(self.seeds) >= 1 and min(self.seeds) >= 0
        require(is_fine, "seeds", list(self.seeds), "give one or more different numbers, 0 or more")


@dataclass(frozen=True)
class SweepRun:
    """Train variations of a configuration, measure each, and compare them in a table.

    Each variation is a run of its own in the output directory. The table (sweep.md, sweep.csv) has what differs between
    them, their bits/dim and their cost. The same command again goes on with what is not finished.
    """

    variations: str
    """YAML file of the variations: base (a configuration), options (of every run), grid (every combination of values)
    and runs (single ones)."""
    data: str
    """Prepared data set, for all runs."""
    output: str = "runs/sweep"
    """Directory of the runs and of the table."""
    split: str = "validation"
    """Split that is measured. Choose by validation; read test once."""
    index: int | None = None
    """Number of the one variation to train, from 0 on, as the task of an array of jobs does. Default: all, one after
    the other."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.index is None or self.index >= 0, "index", self.index, "give 0 or more")
