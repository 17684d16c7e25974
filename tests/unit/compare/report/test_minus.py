"""Minus signs stand before numbers, and hyphens stay."""

from __future__ import annotations

import pytest

from compare.report.minus import minus_signs


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("difference -0.010, -0.034 to 0.014", "difference {}0.010, {}0.034 to 0.014"),
        ("[-.5, -1]", "[{}.5, {}1]"),
        ("two one-sided 96% bounds of a 2-sided test", None),
        ("student-0.5b, Qwen2.5-1.5B, 1e-05, 2026-12-01", None),
    ],
)
def test_only_numbers_get_a_minus_sign(text, expected):
    assert minus_signs(text) == (expected or text).replace("{}", "\N{MINUS SIGN}")
