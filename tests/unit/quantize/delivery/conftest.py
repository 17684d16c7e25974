import pytest

from tests.fixtures.judged_run import write_judged_run


@pytest.fixture
def judged_run(tmp_path, make_conversation, write_conversations):
    """Return a function that writes a run with every stage, see `write_judged_run`."""

    def write(**changes):
        return write_judged_run(
            tmp_path / "Mine", make_conversation, write_conversations, **changes
        )

    return write
