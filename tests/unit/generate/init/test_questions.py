import pytest
import typer
from typer.testing import CliRunner

from generate.init import questions
from generate.init.files import template_names
from generate.init.make import Wanted
from potstill.cli import app


@pytest.fixture
def answered():
    """Answer the questions with lines, and return what is wanted then."""

    def ask(*lines: str, **given) -> Wanted:
        told = []
        cli = typer.Typer()

        @cli.command()
        def command() -> None:
            told.append(questions.ask(Wanted("dir", None, None, 0.3, 0, False, **given)))

        result = CliRunner().invoke(cli, input="".join(f"{line}\n" for line in lines))
        assert result.exit_code == 0, result.output
        return told[0]

    return ask


def test_every_template_is_a_kind_of_answers():
    assert sorted(questions.KINDS) == template_names()


def test_empty_answers_take_the_defaults(answered):
    wanted = answered("", "", "", "")
    assert (wanted.like, wanted.template, wanted.about) == (None, "classify", None)
    assert wanted.teacher == "qwen2.5-coder-1.5b-instruct"


def test_examples_need_no_kind(answered, tmp_path):
    path = tmp_path / "mine.jsonl"
    path.touch()
    wanted = answered(str(tmp_path / "absent"), str(path), "Sort mails.", "teacher.gguf")
    assert (wanted.like, wanted.template) == (path, None)
    assert (wanted.about, wanted.teacher) == ("Sort mails.", "teacher.gguf")


def test_a_kind_that_does_not_exist_is_asked_for_again(answered):
    assert answered("", "poems", "sql", "", "").template == "sql"


def test_what_options_say_is_not_asked(answered):
    wanted = answered("", "tools", about="Lights.", teacher="mine")
    assert (wanted.about, wanted.teacher) == ("Lights.", "mine")


@pytest.mark.slow
def test_a_pipe_is_asked_nothing(tmp_path):
    result = CliRunner().invoke(app, ["init", str(tmp_path / "task")])
    assert result.exit_code == 0, result.output
    assert "template classify" in result.output
