"""Configuration of every stage: frozen dataclasses, checked once. The docstrings of fields are the --help text."""

from glow.config.data import DataConfig, TargetConfig, VectorDataConfig
from glow.config.editing import EditRun, ExploreRun
from glow.config.fields import config_to_dict, flatten, require
from glow.config.measuring import BenchmarkRun, PlanRun, RaceRun, SweepRun
from glow.config.model import FlowConfig, ModelConfig
from glow.config.naming import options_suffix, path_part, temperature_text
from glow.config.policy import LearnerConfig, PolicyRun
from glow.config.sharing import ExportRun, ImportRun
from glow.config.stages import (
    MAX_PIXELS,
    CheckpointChoice,
    DemoRun,
    EvaluateRun,
    PrepareRun,
    SampleRun,
    ScoreRun,
)
from glow.config.training import (
    PARALLEL_MODES,
    InferRun,
    OptimizerConfig,
    ParallelConfig,
    TrainConfig,
    TrainRun,
)

__all__ = [
    "MAX_PIXELS",
    "PARALLEL_MODES",
    "BenchmarkRun",
    "CheckpointChoice",
    "DataConfig",
    "DemoRun",
    "EditRun",
    "EvaluateRun",
    "ExploreRun",
    "ExportRun",
    "FlowConfig",
    "ImportRun",
    "InferRun",
    "LearnerConfig",
    "ModelConfig",
    "OptimizerConfig",
    "ParallelConfig",
    "PlanRun",
    "PolicyRun",
    "PrepareRun",
    "RaceRun",
    "SampleRun",
    "ScoreRun",
    "SweepRun",
    "TargetConfig",
    "TrainConfig",
    "TrainRun",
    "VectorDataConfig",
    "config_to_dict",
    "flatten",
    "options_suffix",
    "path_part",
    "require",
    "temperature_text",
]
