"""Pruning: fewer layers, narrower MLPs, and the check that the config matches."""
