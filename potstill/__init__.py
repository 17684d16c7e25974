"""potstill: distill a large chat model into a small one, and prove that it is good enough.

This package is the contract between the stages: errors, values, tables, manifests, the run
directory, configuration and the command line. It loads no machine-learning library.
"""
