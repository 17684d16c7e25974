import pytest

from generate.curation.config import CurationConfig
from generate.curation.toxicity import Toxicity
from potstill.errors import ConfigError


def test_the_english_list_is_known():
    assert Toxicity(CurationConfig()).judge_text("That is Bullshit!") == "the word 'bullshit'"


def test_words_inside_of_others_are_not_found():
    assert Toxicity(CurationConfig()).judge_text("Scunthorpe has a classy assessment") is None


def test_phrases_of_a_list_of_ones_own_are_found_across_punctuation(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("secret sauce\n\nÄrger\n", encoding="utf-8")
    own = Toxicity(CurationConfig(toxic_words=(str(path),)))

    assert own.judge_text("the SECRET, sauce") == "the word 'secret sauce'"
    assert own.judge_text("nur ärger") == "the word 'ärger'"
    assert own.judge_text("secret secret source, bullshit") is None


@pytest.mark.parametrize("content", [None, b"\xff\xfe\xfa"])
def test_a_list_that_cannot_be_read_is_refused(tmp_path, content):
    path = tmp_path / "words.txt"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(ConfigError, match=r"words\.txt"):
        Toxicity(CurationConfig(toxic_words=(str(path),)))
