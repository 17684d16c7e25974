from hypothesis import given
from hypothesis import strategies as st

from generate.curation.clusters import cluster, near_held_out
from potstill.schema import Message, Prompt

LOST = "I lost my card, what do I do now?"
PLEASE = "I lost my card, what do I do now, please?"
QUICK = "I lost my card, what do I do now, please? Quick!"
WEATHER = "What is the weather like in Dublin today?"


def prompt(text: str, split: str = "train", name: str | None = None) -> Prompt:
    return Prompt(
        prompt_id=name or text,
        cluster_id=text,
        split=split,
        messages=(Message(role="system", content="Be brief."), Message(role="user", content=text)),
        source="test",
    )


def test_a_chain_of_similar_prompts_is_one_cluster(asked):
    prompts = [asked(text) for text in (WEATHER, QUICK, PLEASE, LOST)]
    clusters = cluster(prompts, 0.6)

    chain = [one.prompt_id for one in prompts[1:]]
    assert clusters == {prompts[0].prompt_id: prompts[0].prompt_id} | dict.fromkeys(
        chain, min(chain)
    )


@given(st.permutations([LOST, PLEASE, QUICK, WEATHER, "", "...", WEATHER + " And tomorrow?"]))
def test_clusters_do_not_depend_on_the_order(texts):
    ordered = sorted(texts)
    named = {text: prompt(text or "-", name=str(ordered.index(text))) for text in texts}

    assert cluster([named[text] for text in texts], 0.6) == cluster(
        [named[text] for text in ordered], 0.6
    )


def test_prompts_without_words_are_not_alike(asked):
    prompts = [asked("..."), asked("?!")]

    assert len(set(cluster(prompts, 0.6).values())) == 2


def test_common_system_prompts_make_no_cluster(asked):
    system = "You are a helpful assistant of a bank and answer in one sentence, always politely."
    prompts = [asked(LOST, system=system), asked(WEATHER, system=system)]

    assert len(set(cluster(prompts, 0.6).values())) == 2


def test_training_prompts_near_a_held_out_one_are_named_with_the_nearest():
    prompts = [
        prompt(PLEASE),
        prompt(WEATHER),
        prompt(LOST, "test"),
        prompt(QUICK, "validation"),
        prompt(QUICK + " Now!", "test"),
    ]

    assert near_held_out(prompts, 0.6) == {PLEASE: QUICK}
