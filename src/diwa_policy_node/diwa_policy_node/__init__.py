"""Runs bundles at control rate: a lifecycle node with the RunSkill action. No torch, no training code."""
