"""potstill: distill a large chat model into a small one, and prove that it is good enough.

This package is the contract between the stages: errors, values, tables, manifests, the run
directory, configuration and the command line. It loads no machine-learning library.
"""

import os

# Threads of GNU's OpenMP, which llama.cpp and torch use, wait for each other in loops that occupy a
# core, by default for so long that two programs on the same cores can stop each other. They sleep
# after 1,000 rounds with this. Without the policy it is 100 where a process has more such threads
# than cores, as any server has, and each wait costs a switch of threads. Intel's OpenMP would never
# sleep with the policy; it keeps its default of 200 ms. docs/explanation/serving-measured.md has
# the figures.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "active"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("KMP_BLOCKTIME", "200")
