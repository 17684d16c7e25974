import hashlib
import re

import pytest
from starlette.testclient import TestClient

from serve.api.app import create_app
from serve.keys import Key, KeyEntry, Keyring
from serve.playground import routes


@pytest.fixture(scope="module")
def client():
    key = Key("alice", KeyEntry(sha256=hashlib.sha256(b"secret").hexdigest()))
    app = create_app(
        {}, keyring=Keyring([key]), routers=[routes.router], open_paths=routes.OPEN_PATHS
    )
    with TestClient(app) as client:
        yield client


def references(text: str) -> set[str]:
    """Every file that a part of the page asks for, as a path of the server."""
    of_page = re.findall(r'(?:href|src)="(playground/[^"]+)"', text)
    of_module = re.findall(r'from "\./([^"]+)"', text)
    return {f"/{path}" for path in of_page} | {f"/playground/{name}" for name in of_module}


def test_the_page_needs_no_key_and_the_api_behind_it_does(client):
    assert "<title>potstill" in client.get("/").text
    assert client.get("/v1/models").status_code == 401
    assert client.get("/playground/").status_code == 401
    assert client.get("/v1/models", headers={"Authorization": "Bearer secret"}).status_code == 200


def test_the_page_s_files_are_those_that_are_served(client):
    found, unread = {"/"}, ["/"]
    while unread:
        new = references(client.get(unread.pop()).text) - found
        found |= new
        unread += new
    assert found == routes.OPEN_PATHS


@pytest.mark.parametrize("path", sorted(routes.OPEN_PATHS))
def test_a_browser_runs_only_the_server_s_own_files(client, path):
    response = client.get(path)

    assert response.status_code == 200
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert "http" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    suffix = path.rpartition(".")[2]
    kind = {"js": "javascript", "css": "css", "svg": "svg+xml"}.get(suffix, "html")
    assert kind in response.headers["content-type"]


def test_only_the_page_s_own_parts_are_served(client):
    headers = {"Authorization": "Bearer secret"}
    for name in ("index.html", "routes.py", "..%2Froutes.py", "%2e%2e/routes.py"):
        assert client.get(f"/playground/{name}", headers=headers).status_code == 404
