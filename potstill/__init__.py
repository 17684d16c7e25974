"""potstill: distill a large chat model into a small one, and prove that it is good enough.

This package is the contract between the stages: errors, values, tables, manifests, the run
directory, configuration and the command line. It loads no machine-learning library.
"""

import os

# Threads of GNU's OpenMP, which llama.cpp and torch use, wait for each other in loops that occupy a
# core, by default for so long that two programs on the same cores can stop each other. They sleep
# after 1,000 iterations with this. Without the policy they do so after 100 where a process has more
# such threads than cores, as a server of two models has, and most waits become context switches.
# Intel's OpenMP would never sleep with the policy, so it keeps its default of 200 ms.
# docs/explanation/serving-measured.md has the figures.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "active"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    os.environ.setdefault("KMP_BLOCKTIME", "200")
