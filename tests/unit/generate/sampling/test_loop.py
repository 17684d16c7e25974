import random
from collections import Counter
from functools import partial

import pytest

from generate.config import GenerateConfig
from generate.sampling.best_of_n import make_choice
from generate.sampling.dialogue import Dialogue
from generate.sampling.loop import MAX_ATTEMPTS, ConversationLoop
from generate.sampling.parts import FailedConversation, finished_parts, part_path, read_failures
from generate.sampling.settings import ConversationSettings
from generate.sampling.simulated_user import SimulatedUser
from generate.teachers.protocol import Failure
from potstill.errors import ArtifactError, TeacherError
from potstill.tables import read_conversations

pytestmark = pytest.mark.timeout(60)

PER_PART = 2
VOCAB_SIZE = 1 << 16
OTHER_MODEL = {"base_url": "http://127.0.0.1:1/v1", "model": "user", "tokenizer": "user"}


class Making:
    """Conversations of five prompts, two prompts a part, one or more conversations of each."""

    def __init__(self, directory, prompts, tokenizer, **turns) -> None:
        tables = {"sampling": {"max_tokens": 40, "top_logprobs": 3}, "turns": turns}
        self.config = GenerateConfig.model_validate(tables)
        self.directory, self.prompts = directory, prompts
        self.settings = ConversationSettings(self.config, tokenizer, 1000)
        self.num_taken = self.num_begun = 0
        """Conversations of the parts that were taken up, and those of them that were begun."""

    def parts(self):
        done = finished_parts(self.directory)
        each = range(self.config.turns.num_sampled)
        for index in range(-(-len(self.prompts) // PER_PART)):
            chosen = self.prompts[index * PER_PART : (index + 1) * PER_PART]
            if index not in done:
                begins = [partial(self._begin, one, answer) for one in chosen for answer in each]
                self.num_taken += len(begins)
                yield index, begins

    def run(self, teacher, user=None, parts=None) -> None:
        choose = make_choice(self.config.turns)
        loop = ConversationLoop(self.directory, VOCAB_SIZE, choose, user)
        ask = partial(teacher.sample, top_logprobs=3)
        parts = self.parts() if parts is None else parts
        loop.run(ask, parts, total=5, num_done=0, at_once=teacher.max_num_seqs)

    def content(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.directory.iterdir()}

    def stored(self, index):
        return list(read_conversations(part_path(self.directory, index)))

    def _begin(self, prompt, answer):
        self.num_begun += 1
        return Dialogue(self.settings, prompt, answer)


@pytest.fixture
def making(tmp_path, prompts, toy_tokenizer):
    """Return a function that begins a directory of conversations; keywords are turns' settings."""

    def make(name="parts", **turns) -> Making:
        (tmp_path / name).mkdir()
        return Making(tmp_path / name, prompts, toy_tokenizer, **turns)

    return make


@pytest.fixture
def user(fake_teacher):
    """Return a function that makes another model which plays the user."""
    made = []

    def make(config, answer) -> SimulatedUser:
        made.append(SimulatedUser(fake_teacher(answer), config))
        return made[-1]

    yield make
    for one in made:
        one.close()


SEVERAL = {"kind": "simulate", "min_turns": 1, "max_turns": 3, "num_answers": 2}


def answer_or_fail(request):
    """Answer in kind; one conversation always fails, another in its second turn."""
    if request.request_id.startswith("q-1") or request.request_id == "t-0 user 1":
        return Failure(request.request_id, f"no answer to {request.request_id}")
    return f"re {request.request_id}" + ("" if "x" in request.request_id else "|")


@pytest.fixture
def undisturbed(making, fake_teacher):
    """Several turns and answers of each prompt, made one after another."""
    work = making("undisturbed", **SEVERAL)
    teacher = fake_teacher(answer_or_fail, max_num_seqs=1)
    work.run(teacher)
    work.num_answers = len(teacher.asked)
    return work


def ids(conversations) -> list[str]:
    return [one.conversation_id for one in conversations]


def test_parts_hold_the_conversations_of_consecutive_prompts(making, answering, prompts):
    work = making()
    work.run(answering())
    assert sorted(work.content()) == [f"part-0000{index}.parquet" for index in range(3)]
    assert [ids(work.stored(index)) for index in range(3)] == [
        ["p-0", "q-0"],
        ["x-0", "s-0"],
        ["t-0"],
    ]
    assert [one.prompt for index in range(3) for one in work.stored(index)] == prompts
    first, cut_off = work.stored(0)[0], work.stored(1)[0]
    assert first.completion[0].content == "re p-0 assistant 0"
    assert (first.turns[0].finish_reason, cut_off.turns[0].finish_reason) == ("stop", "length")


def test_undisturbed_there_are_all_turns_and_failures(undisturbed):
    stored = [one for index in range(3) for one in undisturbed.stored(index)]
    assert {len(one.turns) for one in stored} == {1, 2, 3}
    assert ids(stored) == ["p-0", "p-1", "q-0", "x-0", "x-1", "s-0", "s-1", "t-1"]
    assert read_failures(undisturbed.directory) == [
        FailedConversation("q-1", "no answer to q-1 assistant 0"),
        FailedConversation("t-0", "no answer to t-0 user 1"),
    ]


@pytest.mark.parametrize("seed", range(6))
def test_the_order_in_which_answers_end_does_not_change_parts(
    making, fake_teacher, undisturbed, seed
):
    shuffled, work = random.Random(seed), making(**SEVERAL)
    work.run(
        fake_teacher(
            answer_or_fail,
            order=lambda held: shuffled.sample(held, len(held)),
            max_num_seqs=1 + 2 * seed,
        )
    )
    assert work.content() == undisturbed.content()


def test_killed_after_any_number_of_answers_and_gone_on_with_the_content_is_the_same(
    making, fake_teacher, undisturbed
):
    expected = undisturbed.content()
    for lives in range(undisturbed.num_answers):
        work = making(f"killed after {lives}", **SEVERAL)
        with pytest.raises(KeyboardInterrupt):
            work.run(fake_teacher(answer_or_fail, lives=lives))
        kept = work.content()
        assert kept.items() <= expected.items()
        again = fake_teacher(answer_or_fail)
        work.run(again)
        assert work.content() == expected
        assert (len(again.asked) < undisturbed.num_answers) == any("part" in one for one in kept)


def test_only_what_is_missing_is_asked_again(making, answering):
    work = making()
    with pytest.raises(KeyboardInterrupt):
        work.run(answering(lives=3))
    teacher = answering()
    work.run(teacher)
    assert [one.request_id[0] for one in teacher.asked] == ["x", "s", "t"]


def test_a_part_is_written_as_soon_as_its_last_conversation_ends(making, answering):
    work = making()
    teacher = answering(
        order=lambda held: sorted(held, key=lambda one: "xstpq".index(one.request_id[0])),
        max_num_seqs=5,
        lives=3,
    )
    with pytest.raises(KeyboardInterrupt):
        work.run(teacher)
    assert sorted(work.content()) == ["part-00001.parquet", "part-00002.parquet"]


class Flaky:
    """Fails each request several times before it answers."""

    def __init__(self, num_failures: int, which: str = "") -> None:
        self.attempts: Counter = Counter()
        self._num_failures, self._which = num_failures, which

    def __call__(self, request):
        name = request.request_id
        self.attempts[name] += 1
        if name.startswith(self._which) and self.attempts[name] <= self._num_failures:
            return Failure(name, f"attempt {self.attempts[name]} failed")
        return "so|"


def test_every_request_is_tried_again_in_every_turn(making, fake_teacher):
    work, flaky = making(kind="simulate", min_turns=3), Flaky(MAX_ATTEMPTS - 1)
    work.run(fake_teacher(flaky))
    assert set(flaky.attempts.values()) == {MAX_ATTEMPTS}
    assert len(flaky.attempts) == 5 * 5
    assert read_failures(work.directory) == []
    assert [len(one.turns) for index in range(3) for one in work.stored(index)] == [3] * 5


def test_a_conversation_is_given_up_after_so_many_attempts_and_listed(making, fake_teacher):
    work, flaky = making(), Flaky(MAX_ATTEMPTS, "s")
    work.run(fake_teacher(flaky))
    assert flaky.attempts["s-0 assistant 0"] == MAX_ATTEMPTS
    assert (work.directory / "failed-00001.jsonl").is_file()
    assert read_failures(work.directory) == [
        FailedConversation("s-0", f"attempt {MAX_ATTEMPTS} failed")
    ]
    assert ids(work.stored(1)) == ["x-0"]
    assert len(work.content()) == 4


def test_a_conversation_that_cannot_be_begun_is_listed_and_others_are_made(making, answering):
    work = making()
    (_, begins), *_ = work.parts()
    given_up = [FailedConversation("a-0", "too long"), FailedConversation("b-0", "no question")]
    hopeless = [partial(lambda one: one, one) for one in given_up]
    work.run(answering(), parts=[(0, hopeless), (1, [hopeless[0], *begins])])
    assert (ids(work.stored(0)), ids(work.stored(1))) == ([], ["p-0", "q-0"])
    assert read_failures(work.directory) == [*given_up, given_up[0]]


def test_a_part_of_nothing_is_written_and_empty(making, answering):
    work = making()
    (_, begins), *_ = work.parts()
    work.run(answering(), parts=[(0, []), (1, []), (2, begins), (3, [])])
    assert [ids(work.stored(index)) for index in range(4)] == [[], [], ["p-0", "q-0"], []]


def test_nothing_to_make_means_nothing_asked(making, answering):
    work, teacher = making(), answering()
    work.run(teacher, parts=[])
    assert teacher.asked == []
    assert work.content() == {}


def test_the_best_of_a_prompts_conversations_are_kept(making, fake_teacher):
    lengths = {"p": (3, 9, 6), "q": (8, 2, 5), "x": (1, 2, 3), "s": (3, 2, 1), "t": (4, 5, 4)}

    def answer(request):
        name, number = request.request_id.partition(" ")[0].split("-")
        return "o" * lengths[name][int(number)] + "|"

    work = making(num_answers=2, best_of=3, best_by="length")
    work.run(fake_teacher(answer))
    assert [ids(work.stored(index)) for index in range(3)] == [
        ["p-1", "p-2", "q-0", "q-2"],
        ["x-2", "x-1", "s-0", "s-1"],
        ["t-1", "t-0"],
    ]
    assert [one.score for one in work.stored(0)] == [10.0, 7.0, 9.0, 6.0]


def test_the_best_is_chosen_among_those_that_did_not_fail(making, fake_teacher):
    work = making(num_answers=1, best_of=2, best_by="length")
    work.run(fake_teacher(Flaky(MAX_ATTEMPTS, "p-0")))
    assert ids(work.stored(0)) == ["p-1", "q-0"]
    assert [one.conversation_id for one in read_failures(work.directory)] == ["p-0"]


def test_a_part_that_cannot_be_written_is_an_error_that_names_it(making, answering):
    work = making()
    work.directory.rmdir()
    with pytest.raises(ArtifactError, match="writing conversations failed") as caught:
        work.run(answering(), parts=list(work.parts()))
    assert str(work.directory) in str(caught.value.where)


def test_a_teacher_that_drops_requests_is_an_error(making, answering):
    work, teacher = making(), answering()
    sample = teacher.sample

    def drop(next_requests, *, top_logprobs):
        next_requests(1)
        return sample(next_requests, top_logprobs=top_logprobs)

    teacher.sample = drop
    with pytest.raises(TeacherError, match="before all conversations ended") as caught:
        work.run(teacher)
    assert caught.value.where == "p-0"


@pytest.fixture
def many_prompts(make_prompt):
    return [make_prompt(f"n{number}", "Why?") for number in range(60)]


def test_no_more_is_under_way_than_the_teacher_asks_for_and_one_parts_beginnings(
    making, fake_teacher, many_prompts
):
    work, num_answered, under_way, waiting = making(), Counter(), set(), set()
    work.prompts = many_prompts

    def answer(_):
        under_way.add(work.num_begun - num_answered.total())
        waiting.add(work.num_taken - work.num_begun)
        num_answered["all"] += 1
        return "so|"

    work.run(fake_teacher(answer))
    assert num_answered.total() == 60
    assert max(under_way) == 4
    assert max(waiting) == PER_PART - 1


class SlowUser:
    """Replies only when the loop waits for it, to one conversation at a time."""

    def __init__(self) -> None:
        self.waiting: list[str] = []
        self.most_waiting = 0

    def ask(self, name, messages):
        assert messages[-1].role == "assistant"
        self.waiting.append(name)
        self.most_waiting = max(self.most_waiting, len(self.waiting))

    def answers(self, *, wait):
        if wait:
            yield self.waiting.pop(), "Go on."


def test_a_slow_user_is_waited_for_and_holds_back_the_beginning_of_others(
    making, answering, many_prompts
):
    work = making(kind="simulate", min_turns=3, user=OTHER_MODEL)
    work.prompts, user = many_prompts, SlowUser()
    work.run(answering(), user)
    stored = [one for index in range(30) for one in work.stored(index)]
    assert [len(one.turns) for one in stored] == [3] * 60
    assert user.most_waiting <= 2 * answering().max_num_seqs


def test_another_model_plays_the_user_and_both_fail_now_and_then(making, fake_teacher, user):
    """In any order nothing is lost, and the loop never waits for an answer that will not come."""

    def say(request):
        if request.request_id.startswith("q"):
            return Failure(request.request_id, "busy")
        return f"user {len(request.messages)} {request.request_id}|"

    contents = []
    for number, max_num_seqs in enumerate((1, 2, 4, 16)):
        work = making(str(number), kind="simulate", min_turns=3, user=OTHER_MODEL)
        teacher = fake_teacher(Flaky(number % MAX_ATTEMPTS), max_num_seqs=max_num_seqs)
        work.run(teacher, user(work.config, say))
        contents.append(work.content())
    assert contents == contents[:1] * 4
    stored = [one for index in range(3) for one in work.stored(index)]
    assert [(one.prompt.prompt_id, len(one.turns)) for one in stored] == [
        ("p", 3),
        ("q", 1),
        ("x", 3),
        ("s", 3),
        ("t", 3),
    ]
    assert stored[0].completion[1].content == "user 4 p-0"


def test_a_user_whose_model_fails_as_a_whole_ends_the_work(making, fake_teacher, user):
    def fail(_):
        raise TeacherError("the server is gone")

    work = making(kind="simulate", min_turns=2, user=OTHER_MODEL)
    with pytest.raises(TeacherError, match="the server is gone"):
        work.run(fake_teacher(Flaky(0)), user(work.config, fail))
