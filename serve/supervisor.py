"""Reports to systemd that the server is ready, and that its event loop still turns.

Source: sd_notify(3). Without `NOTIFY_SOCKET`, as outside of systemd, nothing is sent.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress

READY, ALIVE, STOPPING = b"READY=1", b"WATCHDOG=1", b"STOPPING=1"


def notify(state: bytes) -> None:
    """Send a state; a supervisor that cannot be reached is no error."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]  # a name in Linux's abstract namespace
    with (
        suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender,
    ):
        sender.setblocking(False)
        sender.sendto(state, address)
