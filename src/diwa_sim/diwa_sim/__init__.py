"""A simulated play table for DiWA: ``gymnasium.make("diwa_sim:PlayTable-v0", task="open_drawer")``."""

import gymnasium

EPISODE_STEPS = 96
"""Step limit of an episode that `gymnasium.make` is given no other: the order of the experts' own lengths."""

gymnasium.register(id="PlayTable-v0", entry_point="diwa_sim.environment:PlayTable", max_episode_steps=EPISODE_STEPS)
