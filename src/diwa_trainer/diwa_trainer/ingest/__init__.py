"""Bags in, a dataset out: MCAP files are read, cut into episodes by their marks, and turned into rows."""
