"""Seeded episodes in an environment: who acts, what came of it, and whether a difference is luck."""
