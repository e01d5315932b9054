"""Command lines: a configuration dataclass from YAML files and options, and errors of one line."""

from glow.cli.files import config_names
from glow.cli.parsing import parse_config
from glow.cli.stage import run_stage

__all__ = ["config_names", "parse_config", "run_stage"]
