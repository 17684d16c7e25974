"""Exit codes of verbs that end with a verdict: 0 to 3; errors have other ones.

In: a verdict, or an error. Out: the exit code.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperCommand

from potstill.errors import ConfigError
from potstill.verdict.outcome import Outcome

WRONG_USAGE, OTHER_ERROR = 64, 70
"""Exit codes of errors, after BSD's sysexits.h (EX_USAGE, EX_SOFTWARE): 0 to 3 are verdicts."""


@contextmanager
def _codes_beside_verdicts() -> Iterator[None]:
    """Give errors exit codes that no verdict has."""
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except (ConfigError, typer.TyperException) as error:
        if getattr(error, "exit_code", None) == ConfigError.exit_code:
            error.exit_code = WRONG_USAGE
        raise
    except Exception as error:
        error.exit_code = OTHER_ERROR  # type: ignore[attr-defined]
        raise


class VerdictCommand(TyperCommand):
    """A command whose exit codes 0 to 3 are verdicts; its errors have other ones."""

    def make_context(self, *args: Any, **extra: Any) -> Any:  # noqa: ANN401  (as the base has it)
        """Read the arguments."""
        with _codes_beside_verdicts():
            return super().make_context(*args, **extra)

    def invoke(self, *args: Any, **extra: Any) -> Any:  # noqa: ANN401  (as the base has it)
        """Do the work."""
        with _codes_beside_verdicts():
            return super().invoke(*args, **extra)


def exit_with(outcome: Outcome) -> typer.Exit:
    """Return the exit of a verdict: 0 PASS, 1 FAIL, 2 INCONCLUSIVE, 3 INVALID JUDGE."""
    return typer.Exit(list(Outcome).index(outcome))
