"""What systemd hears of the server."""

import socket

import pytest

from serve.supervisor import ALIVE, notify


@pytest.mark.parametrize("is_abstract", [False, True])
def test_states_are_sent_to_the_socket_of_the_environment(tmp_path, monkeypatch, is_abstract):
    path = f"@{tmp_path}" if is_abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as supervisor:
        supervisor.bind(path.replace("@", "\0"))
        supervisor.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        notify(ALIVE)
        assert supervisor.recv(100) == b"WATCHDOG=1"
    notify(ALIVE)
    monkeypatch.delenv("NOTIFY_SOCKET")
    notify(ALIVE)
