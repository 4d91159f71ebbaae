"""Settings of a verb: a frozen dataclass, filled from presets, YAML files and flags."""

from diwa_runtime.config.loading import check_between, check_bounds, load_config, to_plain, to_yaml
from diwa_runtime.config.values import config_from

__all__ = ["check_between", "check_bounds", "config_from", "load_config", "to_plain", "to_yaml"]
