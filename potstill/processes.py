"""Child processes that never outlive their parent.

In: nothing. Out: what to run in a child before it becomes another program. Linux only; elsewhere a
child of a killed parent goes on.
"""

from __future__ import annotations

import ctypes
import signal
import sys
from collections.abc import Callable

PR_SET_PDEATHSIG = 1
"""Option of prctl(2) that names the signal a process gets when its parent ends."""


def end_with_parent() -> Callable[[], None] | None:
    """Return a `preexec_fn` for subprocess; libc is loaded here, before the fork."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None)
    return lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
