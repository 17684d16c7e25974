"""Tables of spreadsheets: which columns are read, and where a table is at fault."""

import pytest

from potstill.csv_text import CsvError, read_csv


def rows(text, by_place=2):
    return [row for _, row in read_csv(text.splitlines(keepends=True), by_place=by_place)]


@pytest.mark.parametrize(
    "text",
    [
        "prompt,answer\nWhere is it?,card\n",
        "\ufeffprompt;answer\r\nWhere is it?;card\r\n",
        "prompt\tanswer\nWhere is it?\tcard",
        "Answer,id,Prompt\ncard,7,Where is it?\n",
        "Ticket;Team\nWhere is it?;card\n",
        "prompt,Team\nWhere is it?,card\n",
        'prompt,answer,,\n"Where is it?", card ,,\n,,,\n\n',
    ],
    ids=["plain", "windows", "tabs", "other columns", "by place", "one name", "empty cells"],
)
def test_prompts_and_answers_are_found_however_a_spreadsheet_writes_them(text):
    assert rows(text) == [{"prompt": "Where is it?", "answer": "card"}]


def test_a_cell_has_separators_quotes_and_lines_of_its_own():
    text = 'prompt,answer\n"Hello,\n""you""",a\nBye,b\n'
    found = list(read_csv(text.splitlines(keepends=True), by_place=2))
    assert found == [
        (2, {"prompt": 'Hello,\n"you"', "answer": "a"}),
        (4, {"prompt": "Bye", "answer": "b"}),
    ]


def test_an_empty_answer_is_not_known():
    assert rows("prompt,answer\nHi,\n") == [{"prompt": "Hi"}]


def test_source_and_license_are_read():
    (row,) = rows("prompt,source,license,other\nHi,a book,MIT,x\n")
    assert row == {"prompt": "Hi", "source": "a book", "license": "MIT"}


@pytest.mark.parametrize(
    ("text", "line", "found"),
    [
        ("", 1, "columns none"),
        ("id,ticket,team\n1,Hi,a\n", 1, "columns 'id', 'ticket', 'team'"),
        ("prompt,prompt\nHi,a\n", 1, "columns 'prompt', 'prompt'"),
        ("Hi,card\nBye,cash\nWhere?,card\n", 1, "Hi,card, which is a row"),
        ("prompt,answer\nHi,a\n\nWell, well,b\n", 4, "cells in the row: 3, columns: 2"),
        ("prompt,answer\nHi\n", 2, "cells in the row: 1, columns: 2"),
        ("prompt,answer\n,a\n", 2, "a row without a prompt"),
        ('prompt,answer\nHi,a\n"Bye,b\nAnd,c\n', 3, "not CSV: unexpected end of data"),
    ],
    ids=["empty", "no name", "twice", "no heading", "more", "fewer", "no prompt", "quote"],
)
def test_a_table_at_fault_is_refused_with_the_line(text, line, found):
    with pytest.raises(CsvError, match=f"^{found}") as caught:
        rows(text)
    assert caught.value.line == line


def test_two_columns_without_names_are_refused_where_the_second_may_be_anything():
    assert rows("Ticket\nHi\n", by_place=1) == [{"prompt": "Hi"}]
    with pytest.raises(CsvError, match="columns 'Ticket', 'Date'"):
        rows("Ticket,Date\nHi,Monday\n", by_place=1)
