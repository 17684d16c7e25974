import pytest
import typer

from potstill.terminal import key_among, printable


def test_what_controls_a_terminal_is_replaced():
    assert printable("a\x1b[2J\x07b\r\u202e\n\tc é") == "a�[2J�b��\n\tc é"


def test_a_key_is_one_of_some():
    key = key_among("yn")
    assert key("y") == "y"
    with pytest.raises(typer.BadParameter, match="y, n"):
        key("x")
