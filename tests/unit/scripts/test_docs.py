"""The site of the documentation: built whole, without a dead link, and without the network."""

import re
import shutil
import subprocess
import tomllib
from collections import Counter
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from scripts import docs
from tests.fixtures.browser import chromium

MOST_WORDS = 1500


def words(page):
    """Count words: what has a letter or a digit; the bars of tables are none."""
    return sum(any(map(str.isalnum, word)) for word in page.read_text().split())


def in_navigation(entries):
    for entry in entries:
        if isinstance(entry, str):
            yield entry
        elif isinstance(entry, list):
            yield from in_navigation(entry)
        else:
            yield from in_navigation(entry.values())


def test_no_page_is_long():
    pages = {
        path.relative_to(docs.DOCS).as_posix(): words(path) for path in docs.DOCS.rglob("*.md")
    }
    assert not {name for name, number in pages.items() if number > MOST_WORDS}


def headings(page):
    return re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)


def test_no_page_has_a_heading_twice():
    for page in docs.DOCS.rglob("*.md"):
        repeated = {one for one, number in Counter(headings(page)).items() if number > 1}
        assert not repeated, f"{page.name}: {repeated}"


def anchors(page):
    """Return the anchors of a page's headings, as GitHub names them."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings(page)
    }


def test_links_from_outside_of_the_site_lead_somewhere():
    pages = [*docs.ROOT.glob("[A-Z]*.md"), *docs.ROOT.glob("examples/*/*.md")]
    links = {
        (page, target, anchor)
        for page in pages
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]+)#?([^)]*)\)", page.read_text())
    }
    assert len(links) > 30
    for page, target, anchor in links:
        path = page.parent / target
        assert path.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(path), f"{page.name}: {target}#{anchor}"


def test_pages_that_code_names_exist():
    command = [
        "git",
        "grep",
        "-hoE",
        r"docs/[a-z/-]+\.md",
        "--",
        "*.py",
        "*.toml",
        "*.ipynb",
        "deploy",
    ]
    found = subprocess.run(command, cwd=docs.ROOT, capture_output=True, text=True, check=True)
    named = set(found.stdout.split()) - {"docs/gguf.md"}  # ggml's own.
    assert len(named) > 10
    assert {name for name in named if not (docs.ROOT / name).is_file()} == set()


def test_each_page_is_in_the_navigation():
    config = tomllib.loads((docs.DOCS / "zensical.toml").read_text())
    listed = list(in_navigation(config["project"]["nav"]))
    assert len(listed) == len(set(listed))
    written = {path.relative_to(docs.DOCS).as_posix() for path in docs.DOCS.rglob("*.md")}
    generated = {f"reference/{name}" for name in docs.docs_reference.pages()}
    assert not written & generated
    assert set(listed) == written | generated


@contextmanager
def served(directory):
    """Serve a directory on loopback; yield its address."""
    handler = partial(SimpleHTTPRequestHandler, directory=directory)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build the site; return the directory of its pages."""
    return docs.build(tmp_path_factory.mktemp("site") / "docs").parent


@pytest.mark.slow
def test_the_site_links_to_what_it_has(site):
    html = {path: path.read_text() for path in site.rglob("*.html") if path.name != "404.html"}
    assert len(html) > 40
    for path, text in html.items():
        for link in re.findall(r"<a\b[^>]*\bhref=\"([^\"#:]+)[\"#]", text):
            assert (path.parent / link).exists(), f"{path.name}: {link}"
    assert "compare.verdict.margin" in html[site / "reference/configuration/compare.html"]


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_needs_no_other_server(site, width, scheme):
    with served(site) as address, chromium() as browser:
        page = browser.new_page(
            viewport={"width": width, "height": 900}, color_scheme=scheme, base_url=address
        )
        page.set_default_timeout(30_000)
        asked, failures = [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: failures.append(error))
        for name in ("index", "results", "reference/configuration/compare", "reference/commands"):
            page.goto(f"/{name}.html")
            assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        page.wait_for_load_state("networkidle")  # The search listens once its script is loaded.
        page.keyboard.press("Control+k")
        page.locator("input:focus").wait_for()
        page.keyboard.type("least_mean_logprob")
        page.locator("a[href*='serve.cascades']").first.wait_for()
    assert {url.startswith((address, "data:", "blob:")) for url in asked} == {True}
    assert failures == []


@pytest.mark.slow
def test_links_that_lead_nowhere_fail(tmp_path, monkeypatch, capfd):
    shutil.copytree(docs.DOCS, tmp_path / "docs")
    for name in ("SECURITY.md", "examples", "deploy"):
        (tmp_path / name).symlink_to(docs.ROOT / name)
    monkeypatch.setattr(docs, "DOCS", tmp_path / "docs")
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    links = ("missing.md", "how-to/gate.md#missing", "#missing", "../examples/missing.md")
    page = docs.DOCS / "index.md"
    num_lines = page.read_text().count("\n")
    page.write_text(page.read_text() + "".join(f"[somewhere]({link})\n" for link in links))
    with pytest.raises(subprocess.CalledProcessError):
        docs.build(tmp_path / "site")
    printed = re.sub(r"\x1b\[[0-9;]*m", "", "".join(capfd.readouterr()))
    found = {int(number) for number in re.findall(r"\[ index\.md:(\d+):", printed)}
    assert found == {num_lines + number for number in range(1, len(links) + 1)}
