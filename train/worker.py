"""One of the processes that `accelerate launch` starts to train; the stage starts the launcher.

In: the stage's scratch directory and a phase. Out: the phase's files there, or its error.
The training code is imported late: this process must be tied to its parent first.

    accelerate launch --config_file FILE -m train.worker SCRATCH PHASE
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import get_args

from potstill.errors import PotstillError
from potstill.processes import end_with_parent
from potstill.progress import set_up_logging

PATIENCE_SECONDS = 30.0
"""How long a failed process waits for the stage to read the error and end it. If it ended by
itself, the launcher would print a traceback of its own over the error."""


def main(arguments: list[str]) -> None:
    """Train as one of several processes; only the first shows progress."""
    if (tie := end_with_parent()) is not None:
        tie()
    set_up_logging()
    logging.getLogger("accelerate").setLevel(logging.WARNING)
    if os.environ.get("RANK", "0") != "0":
        logging.disable(logging.INFO)
        sys.stderr = _NoTerminal(sys.stderr.buffer, line_buffering=True)
    from train.job import Phase, PhaseFiles, write_text
    from train.phases import train

    scratch_dir = Path(arguments[0])
    phase: Phase = next(one for one in get_args(Phase) if one == arguments[1])
    try:
        train(scratch_dir, phase)
    except PotstillError as error:
        write_text(json.dumps(error.to_dict()), PhaseFiles(scratch_dir, phase).failure_path)
        time.sleep(PATIENCE_SECONDS)
        sys.exit(error.exit_code)


class _NoTerminal(io.TextIOWrapper):
    """Standard error without progress bars."""

    def isatty(self) -> bool:
        """Return False, so that libraries show no progress bars."""
        return False


if __name__ == "__main__":
    main(sys.argv[1:])
