"""One module a verb: a config dataclass and a `run` that reads from top to bottom."""
