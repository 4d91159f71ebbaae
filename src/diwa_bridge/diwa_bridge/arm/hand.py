"""The Franka hand, in a process of its own: wishes in, states out, over one connection.

``python -m diwa_bridge.arm.hand HOSTNAME SPEED FORCE DESCRIPTOR``, started by `diwa_bridge.arm.gripper`. A call to a
hand whose computer no longer answers never returns, and franky then holds all of the interpreter; a process can be
ended.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from diwa_bridge.arm.franka import franky_library
from diwa_runtime.errors import one_line

OPEN, CLOSE, HALT, END = b"open", b"close", b"halt", b"end"
LOOK_S = 0.03
"""How often its state goes out, also while the fingers move."""
ANY_WIDTH_M = 0.2
"""Tolerance of a grasp: whatever is between the fingers is held."""


def work(device: Any, bridge: Connection, speed: float, force: float) -> None:
    """Follow the newest wish and tell the state until the bridge ends or is gone; fingers that move then stop.

    Args:
        device: franky's gripper.
        bridge: the other end; a state is JSON: `width`, `max_width` (m), `grasped`, and `moving`, until a call returns.
        speed: of the fingers, m/s.
        force: with which it holds, N.
    """
    running, wish = None, HALT
    try:
        while wish != END:
            state = device.state
            told = {"width": state.width, "max_width": state.max_width, "grasped": state.is_grasped}
            bridge.send_bytes(json.dumps({**told, "moving": running is not None}).encode())
            if bridge.poll(LOOK_S):
                while bridge.poll():
                    wish = bridge.recv_bytes()
                if running is not None and not running.wait(0):
                    device.stop()
                running = None
                if wish == OPEN:
                    running = device.move_async(state.max_width, speed)
                elif wish == CLOSE:
                    running = device.grasp_async(0.0, speed, force, ANY_WIDTH_M, ANY_WIDTH_M)
            if running is not None and running.wait(0):
                running.get()  # raises what went wrong; grasping nothing is no fault
                running = None
    except (EOFError, ConnectionError):  # the bridge is gone
        if running is not None and not running.wait(0):
            device.stop()


def main() -> None:
    """Connect to the hand and work; what goes wrong is told as `fault`."""
    hostname, speed, force, descriptor = sys.argv[1:]
    bridge = Connection(int(descriptor))
    try:
        work(franky_library().Gripper(hostname), bridge, float(speed), float(force))
    except Exception as error:  # the edge to franky, whose errors have no common kind
        with suppress(OSError):
            bridge.send_bytes(json.dumps({"fault": one_line(error)}).encode())
    # A call that has not returned would hold up an orderly end until it does.
    os._exit(0)


if __name__ == "__main__":
    main()
