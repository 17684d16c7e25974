import pytest

from generate.init.split import split_items
from potstill.schema import Message
from potstill.task.answers import Answer, Item

WORDS = [
    "apple",
    "river",
    "stone",
    "cloud",
    "violin",
    "harbor",
    "tiger",
    "candle",
    "bridge",
    "winter",
]


def item(text, answer="yes", *more):
    given = [Message(role="user", content=text), *more]
    return Item(messages=tuple(given), known=Answer(text=answer) if answer else None)


def unlike(count):
    """Return items that no two of are similar."""
    return [
        item(f"{WORDS[n % 10]} {WORDS[n // 10]} {WORDS[(3 * n + 1) % 10]} {n * 7919}")
        for n in range(count)
    ]


@pytest.mark.parametrize(("share", "wanted"), [(0.0, 0), (0.3, 12), (0.5, 20)])
def test_a_share_of_the_known_answers_is_kept_aside(share, wanted):
    items = unlike(40)
    examples, references = split_items(items, share, seed=0)
    assert len(references) == wanted
    assert sorted(map(items.index, examples + references)) == list(range(40))
    assert [items.index(one) for one in references] == sorted(map(items.index, references))


def test_the_seed_decides():
    items = unlike(40)
    assert split_items(items, 0.3, seed=0) == split_items(items, 0.3, seed=0)
    assert split_items(items, 0.3, seed=0) != split_items(items, 0.3, seed=1)


def test_similar_prompts_are_never_apart():
    long = "I have lost my bank card somewhere on the train to the office, please help"
    items = [*unlike(10), *(item(f"{long}{'!' * n}") for n in range(4))]
    for seed in range(8):
        _, references = split_items(items, 0.5, seed)
        assert sum(one.messages[0].content.startswith(long) for one in references) in {0, 4}


def test_turns_of_one_dialogue_are_never_apart():
    turns = [
        item("hello", "hi"),
        item(
            "hello",
            "yes",
            Message(role="assistant", content="hi"),
            Message(role="user", content="open?"),
        ),
    ]
    for seed in range(8):
        _, references = split_items([*unlike(10), *turns], 0.5, seed)
        assert sum(one.messages[0].content == "hello" for one in references) in {0, 2}


def test_prompts_without_a_known_answer_are_examples():
    items = [*unlike(10), item("who are you", None)]
    examples, references = split_items(items, 0.5, seed=0)
    assert len(references) == 5
    assert items[-1] in examples
