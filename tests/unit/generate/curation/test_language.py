import pytest

from generate.curation.config import CurationConfig
from generate.curation.language import Detector, Language
from potstill.errors import ConfigError

ENGLISH = "How do I change the address of my bank account?"
GERMAN = "Wie kann ich die Adresse meines Bankkontos ändern?"
FRENCH = "Comment puis-je annuler la commande que j'ai passée hier ?"
CHINESE = "如何重置我的密码？"  # noqa: RUF001


@pytest.fixture(scope="module")
def english():
    return Language(CurationConfig(languages=("en",)))


@pytest.mark.parametrize(("text", "code"), [(GERMAN, "de"), (FRENCH, "fr"), (CHINESE, "zh")])
def test_other_languages_are_named(english, text, code):
    assert english.judge_text(text) == f"language {code}"


@pytest.mark.parametrize(
    "text",
    [
        ENGLISH,
        "hola",
        "12345",
        "",
        "SELECT * FROM users WHERE id = 3;",
        "i want a bmw suv for march 2 to 6th in dallas",
        "how many pesos can i get for one dollar",
    ],
)
def test_what_may_be_english_is_kept(english, text):
    assert english.judge_text(text) is None


def test_several_languages_can_be_kept():
    kept = Language(CurationConfig(languages=("en", "de")))

    assert kept.judge_text(GERMAN) is None
    assert kept.judge_text(FRENCH) == "language fr"


def test_without_languages_all_are_kept():
    assert Language(CurationConfig()).judge_text(GERMAN) is None


def test_an_unknown_code_is_refused():
    with pytest.raises(ConfigError, match="not known to the detector") as refusal:
        Language(CurationConfig(languages=("en", "english", "pcm")))

    assert refusal.value.found == "english, pcm"


def test_the_detector_says_when_it_does_not_know():
    detector = Detector()

    assert [detector.language(text) for text in (ENGLISH, CHINESE, "1 + 1 = 2", "")] == [
        "en",
        "zh",
        None,
        None,
    ]
    assert detector.language(ENGLISH, min_confidence=1.0) is None
