"""Settings of a verb: a frozen dataclass, filled from presets, YAML files and flags."""

from diwa_runtime.config.bounds import check_between, check_bounds, check_together
from diwa_runtime.config.loading import load_config, to_plain, to_yaml
from diwa_runtime.config.values import config_from
from diwa_runtime.config.yaml_file import parse_yaml, read_yaml

__all__ = [
    "check_between", "check_bounds", "check_together", "config_from", "load_config", "parse_yaml", "read_yaml",
    "to_plain", "to_yaml",
]  # fmt: skip
