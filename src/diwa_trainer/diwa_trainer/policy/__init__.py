"""The policy and what improves it: diffusion, imagined episodes, their reward, PPO."""
