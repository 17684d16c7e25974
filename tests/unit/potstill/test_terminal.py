import pytest
import typer
from rich.table import Table

from potstill.terminal import echo, key_among, printable, show


def test_what_controls_a_terminal_is_replaced():
    assert printable("a\x1b[2J\x07b\r\u202e\n\tc é") == "a�[2J�b��\n\tc é"


def test_a_key_is_one_of_some():
    key = key_among("yn")
    assert key("y") == "y"
    with pytest.raises(typer.BadParameter, match="y, n"):
        key("x")


def test_what_is_printed_controls_no_terminal_and_is_no_markup(capsys):
    hostile = "\x1b[2J[/b]\x07"
    table = Table("name", title=hostile)
    table.add_row(hostile, style="bold")
    show(table)
    show(hostile)
    show("a long line " * 20, soft_wrap=True)
    echo(hostile)
    printed = capsys.readouterr().out
    assert not set("\x1b\x07") & set(printed)
    assert printed.count("\ufffd[2J[/b]") == 4
    assert "a long line " * 20 in printed
