"""potstill: distill a large chat model into a small one, and prove that it is good enough.

This package is the contract between the stages: errors, values, tables, manifests, the run
directory, configuration and the command line. It loads no machine-learning library.
"""

import os

# Threads of GNU's OpenMP, which llama.cpp and torch use, wait for each other in loops that occupy a
# core, by default for so long that two programs on the same cores can stop each other. They sleep
# soon with this; docs/explanation/serving-measured.md has what it costs and brings.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
