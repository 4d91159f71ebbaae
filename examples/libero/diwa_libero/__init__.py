"""LIBERO-90's kitchens for DiWA: ``gymnasium.make("diwa_libero:Kitchen-v0", task="open_top_drawer")``."""

import gymnasium

EPISODE_STEPS = 100
"""Step limit of an episode, the paper's for LIBERO-90: 5 s at 20 Hz."""

gymnasium.register(id="Kitchen-v0", entry_point="diwa_libero.environment:Kitchen", max_episode_steps=EPISODE_STEPS)
