"""Detect personal data: e-mail addresses, telephone, card, account and social security numbers.

In: a text. Out: the kinds in it, and the text with each replaced by its kind in brackets. Telephone
numbers are found by phonenumbers (numbers that exist in their country's plan), the rest by the
patterns and checksums of glin-profanity.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from typing import TYPE_CHECKING, NamedTuple

from generate.curation.config import CurationConfig, PiiKind
from potstill.errors import ConfigError

if TYPE_CHECKING:
    from glin_profanity.scanners.patterns.pii_patterns import PiiPattern

PRINTED_IBAN = re.compile(r"\b[A-Z]{2}[0-9]{2}(?: [A-Z0-9]{4}){2,7}(?: [A-Z0-9]{1,3})?\b")
"""An IBAN in groups of four with a shorter last one, which the library's pattern misses."""
IP = re.compile(
    r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}(?!\w|\.\d)"
    r"|(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:]))"
)
"""A possible IP address: the library's pattern matches times, and parts of version 6."""
PRIORITY: tuple[PiiKind, ...] = ("iban", "credit_card", "email", "ssn", "phone", "ip")
"""Kinds by precedence in overlaps: parts of an IBAN look like a telephone number."""
MIN_DIGITS = 4
"""Fewest digits of any number."""


class Span(NamedTuple):
    """A span of personal data in a text."""

    start: int
    end: int
    kind: PiiKind


def redact(text: str, spans: Iterable[Span]) -> str:
    """Replace the spans of a text by their kind, for example `[email]`."""
    pieces, end = [], 0
    for span in spans:
        pieces += [text[end : span.start], f"[{span.kind}]"]
        end = span.end
    return "".join([*pieces, text[end:]])


class PersonalData:
    """Finds personal data of the configured kinds.

    Raises:
        ConfigError: The country of telephone numbers is unknown.
    """

    def __init__(self, config: CurationConfig) -> None:
        # Imported here, because a run that keeps personal data does not need it.
        from glin_profanity.scanners.patterns.pii_patterns import (
            PII_PATTERNS,
            PiiPattern,
            iban_check,
        )

        patterns = [
            *(pattern for pattern in PII_PATTERNS if pattern.type != "ip"),
            PiiPattern("printed IBAN", "iban", PRINTED_IBAN, iban_check),
            PiiPattern("IP address", "ip", IP, _is_address),
        ]
        self._kinds = [kind for kind in PRIORITY if kind in config.pii_kinds]
        self._patterns: dict[PiiKind, list[PiiPattern]] = {
            kind: [pattern for pattern in patterns if pattern.type == kind]
            for kind in self._kinds
            if kind != "phone"
        }
        self._phone_region = config.phone_region or None
        _refuse_unknown(self._phone_region)

    def find(self, text: str) -> list[Span]:
        """Return the spans of personal data, in order and without overlaps."""
        if "@" not in text and sum(letter.isdigit() for letter in text) < MIN_DIGITS:
            return []
        found: list[Span] = []
        for kind in self._kinds:
            spans = self._phones(text) if kind == "phone" else self._matches(text, kind)
            for span in sorted(spans, key=lambda span: (span.start, -span.end)):
                if all(span.end <= other.start or other.end <= span.start for other in found):
                    found.append(span)
        return sorted(found)

    def judge_text(self, text: str) -> str | None:
        """Return the kinds of personal data in a text as a reason, or None."""
        kinds = dict.fromkeys(span.kind for span in self.find(text))
        return ", ".join(kinds) or None

    def _matches(self, text: str, kind: PiiKind) -> Iterator[Span]:
        for pattern in self._patterns[kind]:
            for match in pattern.pattern.finditer(text):
                if pattern.validator is None or pattern.validator(match[0]):
                    yield Span(match.start(), match.end(), kind)

    def _phones(self, text: str) -> Iterator[Span]:
        import phonenumbers

        for match in phonenumbers.PhoneNumberMatcher(text, self._phone_region):
            yield Span(match.start, match.end, "phone")


def _is_address(text: str) -> bool:
    try:
        return bool(ip_address(text)) and text != "::"
    except ValueError:
        return False


def _refuse_unknown(region: str | None) -> None:
    import phonenumbers

    if region is not None and region not in phonenumbers.SUPPORTED_REGIONS:
        raise ConfigError(
            "telephone numbers of the country are not supported",
            where="generate.curation.phone_region",
            expected="an ISO 3166 code such as US, GB, DE",
            found=region,
        )
