"""The playground's static files, with headers under which a browser runs only these.

The page calls the same API as other clients, with its visitor's key.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse

PAGE_DIR = Path(__file__).with_name("page")
PARTS = frozenset(path.name for path in PAGE_DIR.iterdir()) - {"index.html"}
OPEN_PATHS = frozenset({"/", *(f"/playground/{name}" for name in PARTS)})
"""Paths that need no key: they reveal nothing about what is served."""

HEADERS = {
    "Content-Security-Policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self'",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            # Text can never become markup, whatever a script does.
            "require-trusted-types-for 'script'",
            "trusted-types 'none'",
        )
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

router = APIRouter(include_in_schema=False)


@router.get("/")
async def show_page() -> FileResponse:
    """Return the page."""
    return _file("index.html")


@router.get("/playground/{name}")
async def show_part(name: str) -> FileResponse:
    """Return one of the page's parts."""
    if name not in PARTS:
        raise HTTPException(404, "Not Found")
    return _file(name)


def _file(name: str) -> FileResponse:
    return FileResponse(PAGE_DIR / name, headers=HEADERS)
