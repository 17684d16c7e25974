import pytest

from potstill.licenses import UNKNOWN, teacher_license


@pytest.mark.parametrize(
    ("text", "license"),
    [
        ("---\nlicense: apache-2.0\n---\nA model.", "apache-2.0"),
        ("---\nlicense:\n---\n", UNKNOWN),
        ("license: mit", UNKNOWN),
        (None, UNKNOWN),
    ],
)
def test_the_teachers_license_is_read_from_its_front_matter(tmp_path, text, license):
    if text is not None:
        (tmp_path / "README.md").write_text(text)
    assert teacher_license(tmp_path) == license
