"""The pictures in README and docs, of a finished run of the demo: `python -m tests.pictures RUN`.

In: the run, and a machine that does nothing else, whose speed the playground shows. Out:
docs/report.png and docs/playground.png.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import Browser, expect

from compare.comparison import Report, read_report
from compare.report.page import render_page
from potstill.rundir import RunDirectory
from tests.fixtures.browser import chromium
from tests.fixtures.served import Server

DOCS = Path(__file__).parents[1] / "docs"
REPORT = {"width": 1200, "height": 1600}
PLAYGROUND = {"width": 1100, "height": 760}
EXAMPLE = "Can I activate my card with the app?"


def take_report(browser: Browser, report: Report) -> None:
    """Show the beginning of a report, as it is rendered now."""
    page = browser.new_page(viewport=REPORT)
    page.set_content(render_page(report))
    page.screenshot(path=DOCS / "report.png")


def take_playground(browser: Browser, url: str) -> None:
    """Show the answer to one of the task's examples, which the server has answered before."""
    page = browser.new_page(viewport=PLAYGROUND)
    page.goto(url)
    for _ in range(2):
        page.get_by_role("button", name="New chat").click()
        page.get_by_role("button", name=EXAMPLE).click()
        expect(page.get_by_role("button", name="Retry")).to_be_visible(timeout=60_000)
    page.screenshot(path=DOCS / "playground.png")


def main(root: str) -> None:
    """Take all pictures."""
    report = read_report(RunDirectory(Path(root)).stage_dir("comparison") / "report.json")
    with chromium() as browser, TemporaryDirectory() as scratch:
        take_report(browser, report)
        server = Server(Path(root), Path(scratch) / "log", key=None, threads=2)
        take_playground(browser, f"{server.root_url}/")
        server.stop()


if __name__ == "__main__":
    main(sys.argv[1])
