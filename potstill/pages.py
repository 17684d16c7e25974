"""HTML pages that need nothing else: no script, no network, no second file.

In: a room's template, which fills the blocks of `page.html.j2`, and values, which are untrusted
text. Out: HTML. Knows nothing of what a page is about.
"""

from __future__ import annotations

from typing import Any


def render_page(room: str, template: str, **values: Any) -> str:  # noqa: ANN401  (what is shown)
    """Render a template that lies in a room's folder; text in values is escaped."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=ChoiceLoader([PackageLoader(room, "."), PackageLoader("potstill", ".")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)
