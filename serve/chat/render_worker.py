"""The process in which a model's chat template runs, so that no template can harm the server.

In: JSON lines on stdin, first the template's source, then what it renders. Out: JSON lines on
stdout, `{"text": …}` or `{"error": …}`. A rendering that takes too long ends the process, one that
needs too much memory fails. Knows nothing of models.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from typing import Any

import jinja2

from potstill.templates import compile_template, render_template

MAX_MEMORY_BYTES = 1 << 30
MAX_TEXT_CHARACTERS = 1 << 24


def main(seconds: float) -> None:
    """Answer until stdin ends.

    Args:
        seconds: What one rendering may take.
    """
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    template: jinja2.Template | None = None
    for line in sys.stdin.buffer:
        # The signal's default action ends the process, whatever it is doing.
        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            if template is None:
                template = compile_template(json.loads(line))
                answer = {"text": ""}
            else:
                answer = _render(template, json.loads(line))
        # A template is a program: there is no telling what it raises.
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"[:1000]}
        content = json.dumps(answer).encode() + b"\n"
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()


def _render(template: jinja2.Template, given: dict[str, Any]) -> dict[str, str]:
    text = render_template(template, given["messages"], given["named_tokens"], **given["variables"])
    if len(text) > MAX_TEXT_CHARACTERS:
        return {"error": f"it wrote more than {MAX_TEXT_CHARACTERS} characters"}
    return {"text": text}


if __name__ == "__main__":
    main(float(sys.argv[1]))
