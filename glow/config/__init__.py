"""Configuration of every stage: frozen dataclasses, validated once; the field docstrings are the --help text."""

from glow.config.data import DataConfig, TargetConfig, VectorDataConfig
from glow.config.fields import config_from_dict, config_to_dict, require
from glow.config.model import FlowConfig, ModelConfig
from glow.config.stages import (
    MAX_PIXELS,
    CheckpointChoice,
    DemoRun,
    EvaluateRun,
    ImportRun,
    PrepareRun,
    SampleRun,
    ScoreRun,
)
from glow.config.training import (
    PARALLEL_MODES,
    InferRun,
    OptimizerConfig,
    ParallelConfig,
    PlanRun,
    TrainConfig,
    TrainRun,
)

__all__ = [
    "MAX_PIXELS",
    "PARALLEL_MODES",
    "CheckpointChoice",
    "DataConfig",
    "DemoRun",
    "EvaluateRun",
    "FlowConfig",
    "ImportRun",
    "InferRun",
    "ModelConfig",
    "OptimizerConfig",
    "ParallelConfig",
    "PlanRun",
    "PrepareRun",
    "SampleRun",
    "ScoreRun",
    "TargetConfig",
    "TrainConfig",
    "TrainRun",
    "VectorDataConfig",
    "config_from_dict",
    "config_to_dict",
    "require",
]
