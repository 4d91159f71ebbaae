"""A node's parameters as a table: declared with description and range, read once, never changed while it runs."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node

from diwa_runtime.errors import ConfigError


@dataclass(frozen=True)
class Parameter:
    """One parameter: its default gives its type. Every number has bounds; those of a list hold for each of them."""

    default: Any
    about: str
    low: float | None = None
    high: float | None = None

    def descriptor(self) -> ParameterDescriptor:
        """Describe it to ROS."""
        found = ParameterDescriptor(description=self.about, read_only=True)
        if self.low is not None and self.high is not None and not isinstance(self.default, list):
            if isinstance(self.default, float):
                found.floating_point_range = [FloatingPointRange(from_value=self.low, to_value=self.high)]
            else:
                found.integer_range = [IntegerRange(from_value=int(self.low), to_value=int(self.high), step=1)]
        return found

    def odd(self, value: Any) -> float | None:
        """Return the first number of a value that is out of bounds; ROS lets a number that is none pass, and lists."""
        if self.low is None or self.high is None:
            return None
        numbers = value if isinstance(value, list | tuple | array) else [value]
        return next((number for number in numbers if not self.low <= number <= self.high), None)


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
        if (odd := parameter.odd(values[name])) is not None:
            raise ConfigError(
                f"{node.get_name()}: parameter {name} ({parameter.about}): {odd} is not from {parameter.low:g} to "
                f"{parameter.high:g}"
            )
    return values
