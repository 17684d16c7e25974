"""Self-contained HTML pages: no network, no second file, no script but the package's own.

In: a package's template, which fills the blocks of `page.html.j2`, and values, which are untrusted
text. Out: HTML.
"""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import Any


def render_page(
    room: str,
    template: str,
    *,
    script: str | None = None,
    **values: Any,  # noqa: ANN401  (what is shown)
) -> str:
    """Render a template in a package's folder; text in values is escaped.

    Args:
        script: JavaScript in the package's folder. The page's policy names its hash, so that a
            browser runs it and nothing else, whatever is in the values.
    """
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(room, "."), PackageLoader("potstill", ".")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    code = _read(room, script) if script else ""
    return environment.get_template(template).render(
        **values, script=Markup(code), script_source=_source(code) if code else ""
    )


def policy_of(room: str, script: str) -> str:
    """Return a policy for a file that should be such a page, but that others may have written.

    It runs nothing but the script, reads and sends nothing, and is of no server's origin.
    """
    return (
        "sandbox allow-scripts; default-src 'none'; style-src 'unsafe-inline'; "
        f"script-src '{_source(_read(room, script))}'"
    )


def _read(room: str, script: str) -> str:
    return resources.files(room).joinpath(script).read_text(encoding="utf-8").removesuffix("\n")


def _source(code: str) -> str:
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    return f"sha256-{digest}"
