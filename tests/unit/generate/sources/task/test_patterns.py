import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from generate.sources.task.patterns import matching_text

PATTERNS = [
    r"^[A-Z]{2}-\d{4}$",
    r"^(GB|DE)\d{2}( \d{4}){3,4}$",
    r"^[^aeiou\s]{3}$",
    r"a?b+c*[x-z]+\.(com|org)",
    r"^\w{2,}@example\.(?:com|net)$",
    r"^[\dA-F]{8}[-_]?$",
    r"^(?:|none|\$\d+)$",
    r"",
]


@pytest.mark.parametrize("pattern", PATTERNS)
@given(seed=st.integers(0, 2**32))
def test_a_text_matches_its_pattern(pattern, seed):
    assert re.search(pattern, matching_text(pattern, random.Random(seed)))


def test_texts_differ():
    texts = {matching_text(r"^\d{6}$", random.Random(seed)) for seed in range(50)}
    assert len(texts) > 45


@pytest.mark.parametrize("pattern", ["(?=a)b", r"(a)\1b", "(", "(?P<x>a)"])
def test_what_is_not_supported_is_refused(pattern):
    with pytest.raises(ValueError, match="regular expression"):
        matching_text(pattern, random.Random(0))
