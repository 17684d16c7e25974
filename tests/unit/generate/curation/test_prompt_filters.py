import sys
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from generate.curation.config import CurationConfig, EvaluationSetConfig
from generate.curation.prompt_filters import PROMPT_FILTERS, curate_prompts
from generate.sources.raw_prompt import RawPrompt
from potstill.errors import ConfigError
from potstill.schema import Message

LOST = "i can't find my mastercard and i want to report it as lost"
WEATHER = "What is the weather like in Dublin today?"
GERMAN = "Wie kann ich die Adresse meines Bankkontos ändern?"


def only(*names: str, **options) -> CurationConfig:
    return CurationConfig(prompt_filters=names, **options)


def test_the_first_filter_that_objects_is_named(asked):
    prompts = [asked(text) for text in (WEATHER, GERMAN, LOST, WEATHER.upper(), LOST + ", please")]

    curated = curate_prompts(prompts, CurationConfig(languages=("en",)))

    assert curated.kept == [prompts[0], prompts[2]]
    assert [(drop.prompt, drop.filter, drop.reason) for drop in curated.dropped] == [
        (prompts[1], "language", "language de"),
        (
            prompts[3],
            "exact_duplicate",
            f"similarity 1 to {prompts[0].prompt_id}, with the same words",
        ),
        (prompts[4], "near_duplicate", f"similarity 0.89 to {prompts[2].prompt_id}"),
    ]


def test_a_dropped_prompt_drops_no_other(asked):
    chain = [asked(f"{LOST}{end}") for end in ("", ", please", ", please help")]

    curated = curate_prompts(chain, only("near_duplicate", near_duplicate_threshold=0.85))

    # The third is near the second only, which is not asked.
    assert curated.kept == [chain[0], chain[2]]


def test_prompts_without_words_and_common_system_prompts_are_no_duplicates(asked):
    system = "You are a helpful assistant of a bank and answer in one sentence, always politely."
    prompts = [asked("?!"), asked("..."), asked(WEATHER, system=system), asked(LOST, system=system)]

    assert curate_prompts(prompts, CurationConfig()).dropped == []


def test_length_counts_the_users_text_at_least_and_all_text_at_most(asked):
    prompts = [asked(" \n"), asked("hi"), asked("hi", system="Answer."), asked("hi", "you", "two")]
    config = only("length", min_prompt_characters=2, max_prompt_characters=8)

    curated = curate_prompts(prompts, config)

    assert curated.kept == [prompts[1], prompts[3]]
    assert [drop.reason for drop in curated.dropped] == [
        "0 characters of the user, minimum 2",
        "9 characters, maximum 8",
    ]


def test_toxicity_reads_the_users_turns(asked):
    prompts = [asked("shit if i know"), asked("classy"), asked("hi", system="No shit, please.")]

    curated = curate_prompts(prompts, only("toxicity"))

    assert [(drop.prompt, drop.reason) for drop in curated.dropped] == [
        (prompts[0], "the word 'shit'")
    ]


def test_contamination_names_the_question(asked, tmp_path):
    path = tmp_path / "exam.txt"
    path.write_text(WEATHER)
    config = CurationConfig(evaluation_sets=(EvaluationSetConfig(name="exam", path=path),))

    (drop,) = curate_prompts([asked(LOST), asked(WEATHER)], config).dropped

    assert (drop.filter, drop.reason) == (
        "contamination",
        "similarity 1.00 to exam, row 1",
    )


def test_evaluation_sets_that_no_filter_reads_are_refused(tmp_path):
    path = tmp_path / "exam.txt"
    path.write_text(WEATHER)

    with pytest.raises(ConfigError, match="no filter excludes them"):
        curate_prompts([], only("length", evaluation_sets=({"name": "exam", "path": path},)))


def test_personal_data_is_replaced_before_filters_read(asked):
    prompts = [asked("I am ann@example.com"), asked("i am bob@example.org!"), asked(WEATHER)]

    curated = curate_prompts(prompts, CurationConfig())

    assert [one.messages[0].content for one in curated.kept] == ["I am [email]", WEATHER]
    (drop,) = curated.dropped
    assert (drop.filter, drop.prompt.messages[0].content) == ("exact_duplicate", "i am [email]!")
    assert curated.num_redacted == 2


def test_prompts_dropped_for_personal_data_are_stored_without_it(asked):
    prompts = [asked("Call +49 30 901820 or ann@example.com"), asked(WEATHER)]

    curated = curate_prompts(prompts, CurationConfig(pii="drop"))

    assert curated.kept == prompts[1:]
    (drop,) = curated.dropped
    assert drop.prompt.messages[0].content == "Call [phone] or [email]"
    assert (drop.filter, drop.reason) == ("personal_data", "phone, email")
    assert curated.num_redacted == 0


def test_personal_data_can_be_kept(asked):
    prompts = [asked("I am ann@example.com")]

    assert curate_prompts(prompts, CurationConfig(pii="keep")).kept == prompts


def test_a_filter_of_ones_own_judges_prompts(asked, tmp_path, monkeypatch):
    (tmp_path / "own_prompt_filters.py").write_text(
        "class Topics:\n"
        "    name = 'topics'\n"
        "    def judge(self, prompt):\n"
        "        return 'weather' if 'weather' in prompt.messages[-1].content else None\n"
        "def topics(config):\n"
        "    return Topics()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    prompts = [asked(WEATHER), asked(LOST)]

    curated = curate_prompts(prompts, only("own_prompt_filters:topics"))

    sys.modules.pop("own_prompt_filters")
    assert curated.kept == prompts[1:]
    assert [(drop.filter, drop.reason) for drop in curated.dropped] == [("topics", "weather")]


texts = st.sampled_from(
    ["", "?!", LOST, LOST + ", please", LOST.upper(), WEATHER, GERMAN, "oh shit", "mail a@b.com"]
)
raw_prompts = st.builds(
    lambda turns: RawPrompt(tuple(Message(role="user", content=turn) for turn in turns), "test"),
    st.lists(texts, min_size=1, max_size=2),
)


@settings(max_examples=40)
@given(st.lists(raw_prompts, max_size=8), st.permutations(sorted(PROMPT_FILTERS)))
def test_every_prompt_is_kept_or_dropped_once_and_what_is_kept_stays(prompts, names):
    config = only(*names)
    curated = curate_prompts(prompts, config)
    ids = Counter(one.prompt_id for one in curate_prompts(prompts, only()).kept)

    assert (
        Counter(
            [one.prompt_id for one in curated.kept]
            + [drop.prompt.prompt_id for drop in curated.dropped]
        )
        == ids
    )
    again = curate_prompts(curated.kept, config)
    assert (again.kept, again.dropped) == (curated.kept, [])
