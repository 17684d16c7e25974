"""A tiny model on its own teacher's conversations, against a loop over whole distributions."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from potstill.distributions import SIGNAL_COLUMNS, decode_row
from potstill.divergences import NUM_LOWEST, StudentRows, TeacherRows
from potstill.fidelity import FidelityMeter
from train.data.batches import Collator
from train.data.cache import load_split
from train.evaluation import fidelity
from train.evaluation.fidelity import measure_fidelity
from train.students.checks import evaluating

pytestmark = pytest.mark.usefixtures("one_thread")

MAX_LENGTH = 60
COLLATOR = Collator(MAX_LENGTH, 0)


@pytest.fixture(scope="module")
def held_out(tiny_conversations):
    return [one for one in tiny_conversations if one.prompt.split == "test"]


@pytest.fixture(scope="module")
def split(held_out, write_conversations, tmp_path_factory):
    directory = tmp_path_factory.mktemp("conversations")
    write_conversations(directory, held_out)
    return load_split(directory, "test", MAX_LENGTH, directory / "scratch")


@pytest.fixture(scope="module")
def teacher(tiny_teacher_dir):
    return AutoModelForCausalLM.from_pretrained(tiny_teacher_dir, dtype=torch.float32)


@pytest.fixture
def student(tiny_teacher_dir):
    """The teacher with noise on its weights."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_pretrained(tiny_teacher_dir, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model.train()


def measure(model, split, *, max_conversations=64, batch_size=4, drawn=True, collator=COLLATOR):
    return measure_fidelity(
        model,
        split,
        collator,
        max_conversations=max_conversations,
        batch_size=batch_size,
        label="measuring",
        drawn=drawn,
    )


def slowly(model, split):
    """Measure conversation by conversation, from whole logits in float64."""
    meter = FidelityMeter(drawn=True)
    model.eval()
    for row in split:
        ids = torch.tensor(row["token_ids"][:MAX_LENGTH].astype(np.int64))
        with torch.no_grad():
            logits_LV = model(ids[None]).logits[0].double()
        turns = zip(row["turn_starts"], row["turn_lengths"], strict=True)
        places = [start + t for start, length in turns for t in range(length)]
        places = [at for at in places if at < MAX_LENGTH]
        logprobs_TV = np.stack([logits_LV[at - 1].log_softmax(-1).numpy() for at in places])
        signal = decode_row(row).slice(0, len(places))
        teacher = TeacherRows.from_signal(ids[places].numpy(), signal)
        meter.add(
            teacher,
            StudentRows(
                logprobs_TV[range(len(places)), ids[places]],
                np.take_along_axis(logprobs_TV, teacher.top_token_ids_TK, -1),
                logprobs_TV.argmax(-1),
                logprobs_TV.max(-1),
                np.sort(logprobs_TV, -1)[:, :NUM_LOWEST],
            ),
        )
    return meter.result()


def test_all_figures_match_a_loop_over_whole_distributions(monkeypatch, student, split):
    monkeypatch.setattr(fidelity, "CHUNK_TOKENS", 7)
    assert min(split["length"]) < max(split["length"]) <= MAX_LENGTH
    found = measure(student, split)
    expected = vars(slowly(student, split))
    assert None not in expected.values()
    assert vars(found) == pytest.approx(expected, rel=1e-4)
    assert 0.01 < found.kl_nats < found.kl_estimate_nats < found.kl_upper_bound_nats


@pytest.mark.parametrize("chunk_tokens", [1, 1000])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_batches_and_chunks_change_nothing(monkeypatch, student, split, batch_size, chunk_tokens):
    expected = vars(measure(student, split))
    monkeypatch.setattr(fidelity, "CHUNK_TOKENS", chunk_tokens)
    found = vars(measure(student, split, batch_size=batch_size))
    assert found == pytest.approx(expected, rel=1e-4)


def test_the_teacher_is_next_to_itself(teacher, split):
    found = measure(teacher, split)
    assert found.kl_nats < 1e-3
    assert found.kl_estimate_nats == pytest.approx(0.0, abs=2e-3)
    assert found.acceptance_estimate == pytest.approx(1.0, abs=0.1)
    assert found.acceptance_upper_bound == pytest.approx(1.0, abs=1e-2)
    assert found.top1_agreement == 1.0


def test_the_first_conversations_count(student, split):
    expected = measure(student, split.select([0, 1]))
    found = measure(student, split, max_conversations=2)
    assert vars(found) == vars(expected)
    assert found.num_tokens < measure(student, split).num_tokens


def test_without_draws_nothing_is_estimated(student, split):
    assert measure(student, split, drawn=False).kl_estimate_nats is None


def test_a_split_without_a_signal_has_nats_and_calibration(student, split):
    whole = measure(student, split)
    found = measure(student, split.remove_columns(list(SIGNAL_COLUMNS)))
    assert found.kl_nats is None
    assert found.loss_nats == found.nats_per_token == pytest.approx(whole.nats_per_token)
    assert found.calibration_error == pytest.approx(whole.calibration_error)


def test_autocast_rounds_hidden_states_but_not_logits(student, split):
    expected = measure(student, split)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = measure(student, split)
    assert found.kl_nats == pytest.approx(expected.kl_nats, rel=0.1)
    assert found.kl_nats != expected.kl_nats
    assert measure(student.bfloat16(), split).kl_nats == pytest.approx(expected.kl_nats, rel=0.2)


def test_every_module_is_back_in_its_mode(student, split):
    student.model.layers[1].eval()
    before = [module.training for module in student.modules()]
    measure(student, split)
    assert [module.training for module in student.modules()] == before
    assert {True, False} <= set(before)
    with evaluating(student):
        assert not any(module.training for module in student.modules())
    student.model.forward = None
    with pytest.raises(TypeError, match="not callable"):
        measure(student, split)
    assert [module.training for module in student.modules()] == before


def test_no_gradient_is_left(student, split):
    measure(student, split)
    assert all(parameter.grad is None for parameter in student.parameters())
