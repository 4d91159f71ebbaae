"""A node's parameters as a table: declared with description and range, read once, never changed while it runs."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rcl_interfaces.srv import SetParameters, SetParametersAtomically
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.node import Node
from rclpy.parameter import Parameter as RosParameter

from diwa_ros.peers import full_name
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
    refuse_unknown_types(node)
    for name, parameter in parameters.items():
        try:
            value = node.declare_parameter(name, parameter.default, parameter.descriptor()).value
            # An empty list in a file has no type, and comes back as nothing.
            values[name] = [] if value is None and isinstance(parameter.default, list) else value
        except (InvalidParameterTypeException, InvalidParameterValueException) as error:
            raise ConfigError(f"{full_name(node)}: parameter {name} ({parameter.about}): {error}") from None
        if (odd := parameter.odd(values[name])) is not None:
            raise ConfigError(
                f"{full_name(node)}: parameter {name} ({parameter.about}): {odd} is not from {parameter.low:g} to "
                f"{parameter.high:g}"
            )
    return values


def refuse_unknown_types(node: Node) -> None:
    """Let the node answer a request to set a parameter of a type that ROS does not have; rclpy's callback ends it."""
    for service in node.services:
        if service.srv_type in (SetParameters, SetParametersAtomically) and not hasattr(service.callback, "careful"):
            service.callback = _careful(service.callback)


def _careful(callback: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    known = {int(kind.value) for kind in RosParameter.Type}

    def on_request(request: Any, response: Any) -> Any:
        unknown = next((each for each in request.parameters if each.value.type not in known), None)
        if unknown is None:
            return callback(request, response)
        why = f"parameter {unknown.name!r}: there is no type {unknown.value.type}; nothing was set"
        refused = SetParametersResult(successful=False, reason=why)
        if hasattr(response, "results"):
            response.results = [refused] * len(request.parameters)
        else:
            response.result = refused
        return response

    on_request.careful = True  # type: ignore[attr-defined]
    return on_request
