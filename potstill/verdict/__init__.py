"""Shared by offline and live comparison: outcomes and plans, sample sizes, anytime-valid tests.

In: numpy arrays or sequences of scores and the keys of clusters. Out: e-values, bounds, numbers of
pairs, an `Outcome`.
"""
