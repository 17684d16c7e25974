import os
import signal
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path

import pytest

from potstill.endpoint import HOST, running_endpoint
from potstill.errors import BackendUnavailableError
from potstill.processes import free_port

ROOT = Path(__file__).parents[3]
STAND_IN = ROOT / "tests" / "fixtures" / "endpoint_stand_in.py"


def is_listening(port: int) -> bool:
    connection = HTTPConnection(HOST, port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def test_server_ends_with_the_block(tmp_path):
    port = free_port()
    command = [sys.executable, str(STAND_IN), str(port), str(tmp_path / "requests")]
    with running_endpoint(command, port, tmp_path / "log", 20.0) as base_url:
        assert base_url == f"http://{HOST}:{port}/v1"
        assert is_listening(port)
    assert not is_listening(port)


@pytest.mark.slow
def test_server_that_ends_is_reported_with_its_last_lines(tmp_path):
    command = [sys.executable, "-c", "import sys; sys.exit('model file is damaged')"]
    with (
        pytest.raises(BackendUnavailableError, match="did not become ready") as caught,
        running_endpoint(command, free_port(), tmp_path / "log", 20.0),
    ):
        pass
    assert "exit code 1" in str(caught.value)
    assert "model file is damaged" in str(caught.value)


@pytest.mark.slow
def test_server_that_never_gets_ready_is_stopped(tmp_path):
    pid_path = tmp_path / "pid"
    source = (
        f"import os, time; open({str(pid_path)!r}, 'w').write(str(os.getpid())); time.sleep(99)"
    )
    with (
        pytest.raises(BackendUnavailableError, match=r"in 1 s"),
        running_endpoint([sys.executable, "-c", source], free_port(), tmp_path / "log", 1.0),
    ):
        pass
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_path.read_text()), 0)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG")
def test_server_ends_when_its_parent_is_killed(tmp_path):
    port = free_port()
    source = f"""
import sys, time
from pathlib import Path
from potstill.endpoint import running_endpoint
command = [sys.executable, {str(STAND_IN)!r}, "{port}", {str(tmp_path / "requests")!r}]
with running_endpoint(command, {port}, Path({str(tmp_path / "log")!r}), 20.0):
    print("ready", flush=True)
    time.sleep(60)
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", source], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    assert is_listening(port)
    parent.send_signal(signal.SIGKILL)
    parent.communicate()
    deadline = time.monotonic() + 5
    while is_listening(port) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_listening(port)
