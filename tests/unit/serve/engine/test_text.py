"""Text is released whole: no half characters, nothing of a stop string, nothing lost."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from serve.engine.sampler import SampledLogprob
from serve.engine.text import TextStream


def cut(content: bytes, borders: list[int]) -> list[bytes]:
    edges = [0, *sorted({border % (len(content) + 1) for border in borders}), len(content)]
    return [content[a:b] for a, b in pairwise(edges)]


def play(pieces: list[bytes], stop: tuple[str, ...]) -> tuple[list[str], list[int], bool]:
    stream = TextStream(stop)
    texts, tokens = [], []
    for number, piece in enumerate(pieces):
        released = stream.push(piece, SampledLogprob(number, -1.0, ()))
        texts.append(released.text)
        tokens += [entry.token_id for entry in released.logprobs]
        if released.stop is not None:
            break
    rest = stream.finish()
    return (
        [*texts, rest.text],
        tokens + [entry.token_id for entry in rest.logprobs],
        (released.stop is not None if pieces else False),
    )


@given(st.text(), st.lists(st.integers(0, 500)), st.lists(st.text(min_size=1, max_size=3)))
def test_any_cut_of_the_bytes_gives_the_text_before_the_first_stop(text, borders, stop):
    texts, _, stopped = play(cut(text.encode(), borders), tuple(stop))
    found = [at for one in stop if (at := text.find(one)) >= 0]
    joined = "".join(texts)
    if not found:
        assert joined == text
        assert not stopped
    else:
        assert stopped
        assert text.startswith(joined)
        assert not any(one in joined for one in stop)
        assert any(text.startswith(one, len(joined)) for one in stop)


@given(st.text(min_size=1), st.lists(st.integers(0, 500)))
def test_characters_are_never_split(text, borders):
    pieces = cut(text.encode(), borders)
    texts, tokens, _ = play(pieces, ())
    assert "".join(texts) == text
    assert "\ufffd" not in "".join(texts) or "\ufffd" in text
    assert tokens == list(range(len(pieces)))


def test_text_that_may_become_a_stop_string_is_held_back():
    stream = TextStream(("<end>",))
    assert stream.push(b"a <e", None).text == "a "
    assert stream.push(b"n", None).text == ""
    assert stream.push(b"try", None).text == "<entry"
    assert stream.push(b"<en", None).text == ""
    assert stream.push(b"d> more", None).stop == "<end>"
    assert stream.finish().text == ""


def test_tokens_held_back_at_the_end_are_reported():
    texts, tokens, stopped = play([b"x", b"a"], ("ab",))
    assert ("".join(texts), tokens, stopped) == ("xa", [0, 1], False)


def test_tokens_of_the_stop_string_are_not_reported():
    texts, tokens, stopped = play([b"one", b" two", b" st", b"op", b" x"], (" stop",))
    assert ("".join(texts), tokens, stopped) == ("one two", [0, 1], True)


def test_bytes_that_are_no_text_are_replaced_and_do_not_get_stuck():
    texts, tokens, _ = play([b"a\xff", b"b", b"\xe2\x82"], ())
    assert "".join(texts) == "a\ufffdb\ufffd"
    assert tokens == [0, 1, 2]
