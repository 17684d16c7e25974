"""The statistics of the question "is the student no worse than the teacher by more than a margin?".

In: numpy arrays or sequences of scores, counts and the keys of clusters. Out: intervals, p-values,
e-values and an `Outcome`. Knows nothing of judges, endpoints, files or pages: comparison (a sample
of fixed size) and a live experiment (looked at whenever one likes) use the same functions.
"""
