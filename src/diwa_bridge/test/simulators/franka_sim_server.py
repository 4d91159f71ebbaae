"""franka-sim, which enforces limits, as a process: ``HOSTNAME ASSETS [TRACE]``, by its own environment's Python.

Its physics model is looked for on the network unless it is given one; `ASSETS` are franky-sim's. With `TRACE`, it
writes what nobody else could say of an arm that its bridge has left: a line of its time (s) and its TCP (m) every few
milliseconds; and, as the real arm does, it aborts a motion after twenty lost commands. Says READY when it answers.
"""

import os
import sys
import tempfile
import threading
import time
from pathlib import Path


def trace(simulation, path):
    with open(path, "w", encoding="utf-8", buffering=1) as file:
        newest = 0.0
        while True:
            time.sleep(0.004)
            if simulation.data is None or (state := simulation.get_robot_state()) is None:
                continue
            now = simulation.data.time
            if now > newest:
                newest = now
                file.write(f"{now:.4f} {' '.join(f'{value:.6f}' for value in state['O_T_EE'][12:15])}\n")


def say_when_it_answers(simulation):
    """Its network is up before its physics run; who connects in between is cut off."""
    while simulation.data is None or simulation.data.time == 0:
        time.sleep(0.01)
    print("READY", flush=True)


hostname, assets, *traced = sys.argv[1:]
with tempfile.TemporaryDirectory() as folder:
    model = Path(folder) / "fr3.xml"
    text = (Path(assets) / "fr3.xml").read_text(encoding="utf-8")
    model.write_text(text.replace('meshdir="assets"', f'meshdir="{assets}/meshes"'), encoding="utf-8")
    os.environ["FR3_MJCF"] = str(model)

    from franka_sim import FrankaSimServer

    server = FrankaSimServer(
        host=hostname, enable_gripper=False, enforce_motion_limits=True, enforce_comm_constraints=bool(traced)
    )
    for path in traced:
        threading.Thread(target=trace, args=(server.physics_sim, path), daemon=True).start()
    threading.Thread(target=say_when_it_answers, args=(server.physics_sim,), daemon=True).start()
    server.start()
