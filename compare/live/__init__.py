"""Experiments on live traffic, judged; cascades, fitted."""
