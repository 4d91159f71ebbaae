"""franky-sim as a process: ``HOSTNAME``. Run by the Python of its own environment; says READY when it listens."""

import sys

from franky_sim import SimulationServer
from franky_sim.mujoco_simulator import MujocoSimulator

with MujocoSimulator() as simulator:
    simulator.add_robot()
    with SimulationServer(simulator, hostname_candidates=[sys.argv[1]]) as server:
        print("READY", flush=True)
        server.run_forever()
