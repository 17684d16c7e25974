import pytest

from generate.curation.checks import check_filters, file_digests
from generate.curation.config import CurationConfig
from generate.curation.conversation_filters import CONVERSATION_FILTERS
from generate.curation.prompt_filters import PROMPT_FILTERS
from potstill.errors import ConfigError


def test_all_known_filters_together_are_fine():
    check_filters(
        CurationConfig(
            prompt_filters=tuple(PROMPT_FILTERS), conversation_filters=tuple(CONVERSATION_FILTERS)
        )
    )


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"prompt_filters": ["truncated"]}, "truncated"),
        ({"conversation_filters": ["near_duplicate"]}, "near_duplicate"),
        ({"evaluation_sets": [{"name": "exam", "path": "gone.jsonl"}]}, "no such file"),
        ({"conversation_filters": ["toxicity"], "toxic_words": ["gone.txt"]}, "No such file"),
        ({"conversation_filters": ["language"], "languages": ["xx"]}, "xx"),
        ({"phone_region": "XX"}, "XX"),
    ],
)
def test_what_cannot_work_is_refused_without_prompts(options, found):
    with pytest.raises(ConfigError) as refusal:
        check_filters(CurationConfig.model_validate(options))

    assert found in str(refusal.value.found)


def test_files_stand_by_their_content(tmp_path):
    def digests(folder: str, question: str, word: str) -> dict[str, object]:
        directory = tmp_path / folder
        directory.mkdir()
        (directory / "exam.txt").write_text(question)
        (directory / "words.txt").write_text(word)
        return file_digests(
            CurationConfig(
                evaluation_sets=({"name": "exam", "path": directory / "exam.txt"},),
                toxic_words=("english", str(directory / "words.txt")),
            )
        )

    first = digests("first", "Why?", "sauce")

    assert first == digests("second", "Why?", "sauce")
    assert first["toxic_words"][0] == "english"
    assert first != digests("third", "How?", "sauce")
    assert first != digests("fourth", "Why?", "salt")
