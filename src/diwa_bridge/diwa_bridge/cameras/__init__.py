"""Cameras as topics: sources, one reader for all of them, what watches them, and the node."""
