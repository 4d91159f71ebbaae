"""The world model: features of an observation, the RSSM over them, its loss, and how well it predicts."""
