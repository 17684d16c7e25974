import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generate.curation.config import CurationConfig
from generate.curation.pii import PersonalData, redact
from potstill.errors import ConfigError

ALL = PersonalData(CurationConfig())


def redacted(text: str, personal_data: PersonalData = ALL) -> str:
    return redact(text, personal_data.find(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to bob@example.com, please.", "Write to [email], please."),
        ("Call (415) 555-2671 or +49 30 901820 now", "Call [phone] or [phone] now"),
        ("card 4111 1111 1111 1111!", "card [credit_card]!"),
        ("to GB33BUKB20201555555555", "to [iban]"),
        ("to GB33 BUKB 2020 1555 5555 55.", "to [iban]."),
        ("my ssn is 123-45-6789", "my ssn is [ssn]"),
        ("bob@example.com\nann@example.org", "[email]\n[email]"),
    ],
)
def test_personal_data_is_replaced_by_its_kind(text, expected):
    assert redacted(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "i want a bmw suv for march 2 to 6th in dallas",
        "What is 123456789 * 987654321?",
        "The card 4111 1111 1111 1112 has a wrong checksum",
        "Python 3.11.7 on 192.168.0.1",
        "In 1999-2004 it grew from 1,000,000 to 2,500,000.",
        "Follow @potstill, 12 people do",
        "",
    ],
)
def test_other_numbers_stay(text):
    assert redacted(text) == text


def test_only_the_configured_kinds_are_found():
    mail_only = PersonalData(CurationConfig(pii_kinds=("email", "ip")))
    text = "bob@example.com at 10.20.30.40, 12:30:45, (415) 555-2671"

    assert redacted(text, mail_only) == "[email] at [ip], 12:30:45, (415) 555-2671"
    assert mail_only.judge_text(text) == "email, ip"
    assert mail_only.judge_text("(415) 555-2671") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2001:db8::8a2e:370:7334, fe80::1.", "[ip], [ip]."),
        ("http://10.0.0.1:8080/ or 10.0.0.1.", "http://[ip]:8080/ or [ip]."),
        ("1:2 at 12:30:45, chapter 1.2.3.4.5, 999.1.1.1", None),
        ("std::vector<int> f :: Int ->> map::at; ::global 1234", None),
    ],
)
def test_addresses_are_distinguished_from_lookalikes(text, expected):
    ip_only = PersonalData(CurationConfig(pii_kinds=("ip",)))

    assert redacted(text, ip_only) == (expected or text)


def test_the_country_decides_which_local_numbers_are_known():
    german = PersonalData(CurationConfig(phone_region="DE"))
    nowhere = PersonalData(CurationConfig(phone_region=""))

    assert redacted("030 901820", german) == "[phone]"
    assert redacted("030 901820, +49 30 901820", nowhere) == "030 901820, [phone]"


def test_an_unknown_country_is_refused():
    with pytest.raises(ConfigError, match="XX"):
        PersonalData(CurationConfig(phone_region="XX"))


pieces = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        ["bob@example.com", "4111 1111 1111 1111", "+49 30 901820", "GB33BUKB20201555555555"]
    ),
)


@settings(max_examples=40)
@given(st.lists(pieces, max_size=6).map(" ".join))
def test_spans_are_ordered_and_do_not_overlap(text):
    spans = ALL.find(text)

    ends = [0, *(place for span in spans for place in (span.start, span.end)), len(text)]
    assert ends == sorted(ends)
    assert "bob@example.com" not in redact(text, spans)
