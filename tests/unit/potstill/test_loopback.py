import http.client
import threading

import pytest

from potstill.errors import BackendUnavailableError
from potstill.loopback import LoopbackHandler, listen, serve_until_interrupted


class Handler(LoopbackHandler):
    def do_GET(self):
        self.send("<p>\ud800</p>")


def answer(server, **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=5)
    connection.request("GET", "/", headers=headers)
    response = connection.getresponse()
    return response.status, response.headers, response.read()


def test_it_answers_under_names_of_this_machine_alone():
    with listen(Handler, 0) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        status, headers, content = answer(server)
        assert (status, content) == (200, b"<p>?</p>")
        for name in ("X-Content-Type-Options", "Content-Security-Policy", "Referrer-Policy"):
            assert len(headers.get_all(name)) == 1
        assert answer(server, Host="localhost")[0] == 200
        for host in ("evil.example", "127.0.0.1.evil.example:80", "", "[::1]:80"):
            status, headers, _ = answer(server, Host=host)
            assert status == 421
            assert headers["X-Content-Type-Options"] == "nosniff"
        server.shutdown()


def test_an_address_that_is_taken_is_an_error():
    with listen(Handler, 0) as server:
        port = server.server_port
        with pytest.raises(BackendUnavailableError, match="cannot be listened on") as caught:
            listen(Handler, port)
    assert caught.value.where == f"127.0.0.1:{port}"


def test_it_ends_with_ctrl_c(capsys, monkeypatch):
    server = listen(Handler, 0)

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(server, "serve_forever", interrupted)
    serve_until_interrupted(server, "?token=x")
    printed = capsys.readouterr().out
    assert printed.startswith(f"http://127.0.0.1:{server.server_port}/?token=x until Ctrl-C")
    assert server.socket.fileno() == -1
