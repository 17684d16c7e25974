"""The documentation as a site: the pages of docs/, what they link to, and the generated reference.

In: docs/, and the configuration and the command line as they are. Out: `html` in a directory,
build/docs by default, which needs no network. A link or an anchor that leads nowhere is an error.
`make docs` runs this.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from scripts import docs_reference

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
STAGED = {".md", ".png", ".css"}
LINK = re.compile(r"(?<=\]\()([^):#\s]+)(?=[#)])")
"""The path of a link to another file."""


def stage(pages: Path) -> None:
    """Write the site's pages in Markdown, with the files of the repository that they link to."""
    waiting = [path for path in sorted(DOCS.rglob("*")) if path.suffix in STAGED]
    staged: set[Path] = set()
    while waiting:
        source = waiting.pop()
        if source in staged:
            continue
        staged.add(source)
        target = pages / _place(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".md":
            text = source.read_text(encoding="utf-8")
            waiting += [
                linked for found in LINK.findall(text) if (linked := _linked(source, found))
            ]
            target.write_text(_relinked(source, text), encoding="utf-8")
        else:
            shutil.copyfile(source, target)
    for name, text in docs_reference.pages().items():
        target = pages / "reference" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")


def build(directory: Path) -> Path:
    """Build the site in a directory; what a former build left there is removed.

    Returns:
        Its first page.

    Raises:
        CalledProcessError: A link leads nowhere, or the configuration is wrong; zensical printed
            what and where.
    """
    shutil.rmtree(directory, ignore_errors=True)
    stage(directory / "pages")
    config = shutil.copy(DOCS / "zensical.toml", directory)
    subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict", "--config-file", config], check=True
    )
    return directory / "html" / "index.html"


def _linked(page: Path, link: str) -> Path | None:
    """Return the file outside of docs/ that a page links to; None for others."""
    path = _target(page, link)
    return path if path.is_file() and not path.is_relative_to(DOCS) else None


def _target(page: Path, link: str) -> Path:
    return Path(os.path.normpath(page.parent / link))


def _place(source: Path) -> Path:
    """Return where a file stands in the site: docs/ is its root, all else keeps its path."""
    return source.relative_to(DOCS if source.is_relative_to(DOCS) else ROOT)


def _relinked(page: Path, text: str) -> str:
    """Return a page whose links lead to the places in the site."""

    def relinked(found: re.Match[str]) -> str:
        path = _target(page, found[1])
        if not path.is_relative_to(ROOT):
            return found[1]
        return os.path.relpath(_place(path), _place(page).parent)

    return LINK.sub(relinked, text)


if __name__ == "__main__":
    try:
        print(build(Path(sys.argv[1]) if sys.argv[1:] else ROOT / "build" / "docs"))  # noqa: T201
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
