"""Self-contained HTML pages: no network, no second file, no script but the package's own.

In: a package's template, which fills the blocks of `page.html.j2`, and values, which are untrusted
text. Out: HTML.
"""

from __future__ import annotations

import base64
import hashlib
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
    code = environment.get_template(script).render() if script else ""
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    return environment.get_template(template).render(
        **values, script=Markup(code), script_source=f"sha256-{digest}" if code else ""
    )
