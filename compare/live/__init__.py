"""Verdicts on live experiments, and thresholds of cascades."""
