import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generate.prompts import ID_DIGITS, RawPrompt, assign_splits, choose, distinct, normalize
from potstill.schema import Message

SHARES = st.floats(0.001, 0.499)


def numbered(count: int) -> list[RawPrompt]:
    return [
        RawPrompt((Message(role="user", content=f"What is number {number}?"),), "made in a test")
        for number in range(count)
    ]


def splits_of(prompts, *shares, clusters=()) -> dict[str, str]:
    found = assign_splits(prompts, dict(clusters), *shares)
    return {prompt.prompt_id: prompt.split for prompt in found}


def test_ids_are_the_same_on_every_machine_and_in_every_version(raw_prompt):
    """Stored prompts are found by them: a change here breaks runs that exist."""
    assert raw_prompt("What is 17 plus 25?").prompt_id == "8c02af732958e55d"
    assert raw_prompt("café", "oui", "東京").prompt_id == "ad34137a99a95c77"


def test_an_id_is_of_the_messages_alone(raw_prompt):
    prompt = raw_prompt("Hello?")
    assert len(prompt.prompt_id) == ID_DIGITS
    assert raw_prompt("Hello?", source="elsewhere", license="MIT").prompt_id == prompt.prompt_id
    others = [raw_prompt("Hello!"), raw_prompt("hello?"), raw_prompt("Hello?", "Yes?", "Well?")]
    system = RawPrompt((Message(role="system", content="Hello?"),), "made in a test")
    ids = {one.prompt_id for one in (prompt, system, *others)}
    assert len(ids) == 5


def test_prompts_that_differ_in_case_spacing_or_punctuation_are_one(raw_prompt):
    same = ["How are you?", "how are you", "How  are\nyou?!", "HOW ARE YOU?", "How are, you?"]
    found = distinct(raw_prompt(text) for text in same)
    assert found == [raw_prompt("How are you?")]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("How are you?", "How are they?"),
        ("What is 1 plus 2?", "What is 1 plus 3?"),
        ("東京はどこですか", "京都はどこですか"),
        ("Où est-il ?", "Ou est-il ?"),
        ("🙂", "🙁"),
        ("+?", "-?"),
        ("दिन क्या है", "दान क्या है"),
        ("What is 7 + 2?", "What is 7 - 2?"),
    ],
)
def test_prompts_of_other_words_are_two(raw_prompt, one, other):
    assert len(distinct([raw_prompt(one), raw_prompt(other)])) == 2


def test_the_first_of_equal_prompts_stays_in_its_place(raw_prompt):
    prompts = [
        raw_prompt("b b b"),
        raw_prompt("a"),
        raw_prompt("A!"),
        raw_prompt("c"),
        raw_prompt("a?"),
    ]
    assert distinct(prompts) == [prompts[0], prompts[1], prompts[3]]


def test_earlier_turns_count(raw_prompt):
    prompts = [raw_prompt("Hi", "Yes?", "Go on."), raw_prompt("Hi", "No?", "Go on.")]
    assert distinct(prompts) == prompts


@given(st.integers(0, 40), st.integers(1, 30), st.randoms())
def test_what_is_chosen_does_not_depend_on_the_order(count, wanted, shuffler: random.Random):
    prompts = numbered(count)
    shuffled = list(prompts)
    shuffler.shuffle(shuffled)
    chosen = choose(prompts, wanted)
    assert choose(shuffled, wanted) == chosen
    assert len(chosen) == min(count, wanted)
    assert set(chosen) <= set(prompts)


def test_what_is_chosen_comes_from_everywhere_in_the_file():
    prompts = numbered(1000)
    places = sorted(prompts.index(prompt) for prompt in choose(prompts, 100))
    assert 400 < sum(places) / 100 < 600
    assert places != list(range(100))


def test_choosing_more_keeps_what_was_chosen():
    prompts = numbered(50)
    assert choose(prompts, 30)[:10] == choose(prompts, 10)


@given(st.integers(3, 60), SHARES, SHARES)
def test_validation_and_test_are_never_empty(count, validation_share, test_share):
    splits = list(splits_of(numbered(count), validation_share, test_share).values())
    assert len(splits) == count
    assert splits.count("validation") > 0
    assert splits.count("test") > 0


@pytest.mark.parametrize("count", [3, 4, 5])
def test_training_is_never_empty(count):
    assert "train" in splits_of(numbered(count), 0.499, 0.499).values()


@settings(deadline=None)
@given(st.integers(0, 400), st.integers(3, 6), SHARES, SHARES)
def test_each_split_of_a_few_prompts_has_one(first, count, validation_share, test_share):
    prompts = numbered(first + count)[first:]
    assert len({*splits_of(prompts, validation_share, test_share).values()}) == 3


def test_prompts_keep_their_order_and_fields(raw_prompt):
    raw = [
        raw_prompt(f"number {n}", source=f"s{n}", license=["MIT", None][n % 2]) for n in range(9)
    ]
    prompts = assign_splits(raw, {}, 0.2, 0.2)
    for prompt, one in zip(prompts, raw, strict=True):
        assert prompt.prompt_id == one.prompt_id
        assert (prompt.messages, prompt.source) == (one.messages, one.source)
        assert prompt.license == one.license


@pytest.mark.slow
@given(st.integers(40, 120), st.integers(0, 80), st.randoms())
def test_a_prompt_stays_in_its_split_when_others_come(count, more, shuffler: random.Random):
    shares = (0.2, 0.2)
    before = splits_of(numbered(count), *shares)
    grown = numbered(count + more)
    shuffler.shuffle(grown)
    after = splits_of(grown, *shares)
    assert {prompt_id: after[prompt_id] for prompt_id in before} == before


def test_what_is_held_out_for_the_test_is_so_at_any_validation_share():
    prompts = numbered(200)
    tests = []
    for validation_share in (0.05, 0.3):
        splits = splits_of(prompts, validation_share, 0.1)
        tests.append({prompt_id for prompt_id, split in splits.items() if split == "test"})
    assert tests[0] == tests[1]
    assert tests[0]


def test_shares_are_met():
    splits = list(splits_of(numbered(4000), 0.1, 0.2).values())
    assert splits.count("validation") / 4000 == pytest.approx(0.1, abs=0.02)
    assert splits.count("test") / 4000 == pytest.approx(0.2, abs=0.02)


def test_what_is_chosen_first_is_not_what_is_held_out():
    """The order of choice and the splits come of hashes that know nothing of each other."""
    prompts = numbered(2000)
    splits = splits_of(choose(prompts, 500), 0.1, 0.2)
    assert list(splits.values()).count("test") / 500 == pytest.approx(0.2, abs=0.06)


def test_prompts_of_one_cluster_are_in_one_split():
    prompts = numbered(400)
    clusters = {one.prompt_id: prompts[n - n % 4].prompt_id for n, one in enumerate(prompts)}
    found = assign_splits(prompts, clusters, 0.2, 0.2)
    splits: dict[str, set[str]] = {}
    for prompt in found:
        assert prompt.cluster_id == clusters[prompt.prompt_id]
        splits.setdefault(prompt.cluster_id, set()).add(prompt.split)
    assert len(splits) == 100
    assert all(len(of_cluster) == 1 for of_cluster in splits.values())
    assert set.union(*splits.values()) == {"train", "validation", "test"}


def test_three_clusters_make_three_splits():
    prompts = numbered(30)
    clusters = {one.prompt_id: f"cluster {n % 3}" for n, one in enumerate(prompts)}
    splits = splits_of(prompts, 0.01, 0.01, clusters=clusters)
    assert set(splits.values()) == {"train", "validation", "test"}


def test_the_same_question_with_other_tools_is_another(raw_prompt):
    prompts = [raw_prompt("What now?"), raw_prompt("What now?", tools='[{"name": "clock"}]')]
    assert distinct(prompts) == prompts
    assert prompts[0].prompt_id != prompts[1].prompt_id


@settings(deadline=None)
@given(st.text())
def test_normalized_text_stays_as_it_is(text):
    assert normalize(normalize(text)) == normalize(text)


def test_case_width_and_punctuation_do_not_count_but_signs_do():
    assert normalize("  Why? WHY,\twhy… ") == normalize("why ｗｈｙ why")  # noqa: RUF001
    assert normalize("5 - 3") != normalize("5 + 3") != normalize("5 * 3")
