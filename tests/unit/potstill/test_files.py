import hashlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from potstill.errors import ArtifactError, ConfigError
from potstill.files import (
    CHUNK_BYTES,
    disk_errors,
    read_typed_text,
    replacing,
    sha256_bytes,
    sha256_file,
    unfinished_path,
    write_text_atomically,
)

ROOT = Path(__file__).parents[3]


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize("num_bytes", [0, 1, CHUNK_BYTES, 2 * CHUNK_BYTES + 7])
def test_a_file_has_the_hash_of_its_content(tmp_path, num_bytes):
    content = bytes(range(256)) * (num_bytes // 256 + 1)
    content = content[:num_bytes]
    (tmp_path / "file").write_bytes(content)
    assert sha256_file(tmp_path / "file") == hashlib.sha256(content).hexdigest()
    assert sha256_bytes(content) == hashlib.sha256(content).hexdigest()


def test_the_old_file_stands_until_the_block_is_done(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("half of the n")
        assert path.read_text() == "old"
        assert temporary.parent == tmp_path
        temporary.write_text("the new one")
    assert path.read_text() == "the new one"
    assert names(tmp_path) == ["file"]


def fail_while_replacing(path: Path, error: type[BaseException]) -> None:
    with replacing(path) as temporary:
        temporary.write_text("half of the n")
        raise error


@pytest.mark.parametrize("error", [ValueError, OSError, KeyboardInterrupt])
def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(error):
        fail_while_replacing(path, error)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file"]


def test_an_exception_makes_no_file_where_none_was(tmp_path):
    with pytest.raises(LookupError):
        fail_while_replacing(tmp_path / "file", LookupError)
    assert names(tmp_path) == []


def test_a_killed_process_leaves_the_old_file_and_the_next_one_clears_up(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    source = (
        "import os, signal, sys; from pathlib import Path; from potstill.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('x' * 100_000)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", source, path], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    assert len(names(tmp_path)) == 2
    with replacing(path) as temporary, temporary.open("a") as stream:
        stream.write("new")
    assert path.read_text() == "new"
    assert names(tmp_path) == ["file"]


def test_a_reader_sees_the_old_file_or_the_new_one_never_a_part(tmp_path):
    path = tmp_path / "file"
    versions = {letter * 200_000 for letter in "ab"}
    write_text_atomically(path, "a" * 200_000)
    seen, stop = [], threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.append(path.read_text())

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(20):
        write_text_atomically(path, "ab"[number % 2] * 200_000)
    stop.set()
    reader.join()
    assert set(seen) <= versions
    assert seen


def test_text_is_written_as_utf8(tmp_path):
    write_text_atomically(tmp_path / "file", "KL ≥ 0, café\n")
    assert (tmp_path / "file").read_bytes() == "KL ≥ 0, café\n".encode()


def test_an_error_of_the_disk_names_the_file_and_the_reason(tmp_path):
    with (
        pytest.raises(ArtifactError, match="reading notes failed: No such file") as caught,
        disk_errors("reading notes", tmp_path),
    ):
        (tmp_path / "absent").read_text()
    assert caught.value.where == str(tmp_path / "absent")
    assert "relative paths begin" in str(caught.value)


def test_a_directory_in_the_place_of_a_file_has_its_own_hint(tmp_path):
    with (
        pytest.raises(ArtifactError, match="hint: name a file in the directory"),
        disk_errors("reading notes", tmp_path),
    ):
        tmp_path.read_text()


@pytest.mark.parametrize("content", [b"a\nb", b"\xef\xbb\xbfa\r\nb"], ids=["plain", "windows"])
def test_text_is_read_as_editors_write_it(tmp_path, content):
    (tmp_path / "typed").write_bytes(content)
    assert read_typed_text(tmp_path / "typed", "reading notes") == "a\nb"


def test_text_that_is_not_utf8_is_refused_by_its_line(tmp_path):
    (tmp_path / "typed").write_bytes("é\nà".encode("latin-1"))
    with pytest.raises(ArtifactError, match="is not UTF-8") as caught:
        read_typed_text(tmp_path / "typed", "reading notes")
    assert caught.value.where == f"{tmp_path / 'typed'}:1"
    assert caught.value.found == "byte 0xe9"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_names_the_path_at_work(tmp_path):
    descriptor = os.open("/dev/full", os.O_WRONLY)
    with (
        pytest.raises(ArtifactError, match="No space left on device") as caught,
        disk_errors("writing notes", tmp_path / "notes"),
    ):
        os.write(descriptor, b"notes")
    os.close(descriptor)
    assert caught.value.where == tmp_path / "notes"
    assert "finished work is kept" in str(caught.value)


@pytest.mark.parametrize("error", [ConfigError("ours"), KeyError("theirs"), KeyboardInterrupt()])
def test_other_errors_pass_unchanged(tmp_path, error):
    with pytest.raises(type(error)) as caught, disk_errors("reading notes", tmp_path):
        raise error
    assert caught.value is error


def test_what_killed_processes_left_is_removed_and_no_more(tmp_path):
    ended = subprocess.Popen(["true"])
    ended.wait()
    (tmp_path / f"model.partial-{ended.pid}").mkdir()
    (tmp_path / f"other.partial-{ended.pid}").touch()
    (tmp_path / f"model.partial-{os.getppid()}").touch()
    assert unfinished_path(tmp_path / "model") == tmp_path / f"model.partial-{os.getpid()}"
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {f"other.partial-{ended.pid}", f"model.partial-{os.getppid()}"}
