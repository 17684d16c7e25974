"""The limits that deploy/nginx.conf repeats are those of the server's settings."""

import re
from pathlib import Path

import pytest

from serve.config import ServeConfig

NGINX = (Path(__file__).parents[2] / "deploy" / "nginx.conf").read_text()
UNITS = {"s": 1, "m": 1 << 20}


def value(directive: str) -> int:
    """The only value of a directive, in seconds or bytes."""
    (found,) = re.findall(rf"^ *{directive} (\d+)([sm]);$", NGINX, re.MULTILINE)
    return int(found[0]) * UNITS[found[1]]


@pytest.mark.parametrize(
    ("directive", "field"),
    [
        ("client_header_timeout", "head_timeout_seconds"),
        ("send_timeout", "write_timeout_seconds"),
        ("client_max_body_size", "max_body_bytes"),
        ("client_body_timeout", "body_timeout_seconds"),
        ("proxy_read_timeout", "request_timeout_seconds"),
    ],
)
def test_nginx_has_the_limits_of_the_server(directive, field):
    assert value(directive) == getattr(ServeConfig(), field)


def test_nginx_closes_an_idle_connection_before_the_server_does():
    assert value("keepalive_timeout") <= ServeConfig().head_timeout_seconds / 2
