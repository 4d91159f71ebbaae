"""A node's parameters as a table: declared with description and range, read once, never changed while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node

from diwa_runtime.errors import ConfigError


@dataclass(frozen=True)
class Parameter:
    """One parameter: its default gives its type."""

    default: Any
    about: str
    low: float | None = None
    high: float | None = None

    def descriptor(self) -> ParameterDescriptor:
        """Describe it to ROS."""
        found = ParameterDescriptor(description=self.about, read_only=True)
        if self.low is not None and self.high is not None:
            if isinstance(self.default, float):
                found.floating_point_range = [FloatingPointRange(from_value=self.low, to_value=self.high)]
            else:
                found.integer_range = [IntegerRange(from_value=int(self.low), to_value=int(self.high), step=1)]
        return found


def declared(node: Node, parameters: Mapping[str, Parameter]) -> dict[str, Any]:
    """Declare parameters and return their values.

    Raises:
        ConfigError: one is of the wrong type or out of range.
    """
    values: dict[str, Any] = {}
    for name, parameter in parameters.items():
        try:
            value = node.declare_parameter(name, parameter.default, parameter.descriptor()).value
            # An empty list in a file has no type, and comes back as nothing.
            values[name] = [] if value is None and isinstance(parameter.default, list) else value
        except (InvalidParameterTypeException, InvalidParameterValueException) as error:
            raise ConfigError(f"{node.get_name()}: parameter {name} ({parameter.about}): {error}") from None
    return values
