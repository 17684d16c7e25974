import numpy as np
import pytest
import torch

from quantize.quantization.sensitivity import ChangedCheckpoint

from .conftest import SEQUENCES


def kl_of_two_models(directory, name, weights):
    """Load two models, change one, run both in float64."""
    from transformers import AutoModelForCausalLM

    one = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64)
    other = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64)
    dict(other.named_parameters())[name].data = torch.tensor(weights, dtype=torch.float64)
    values = []
    with torch.inference_mode():
        for ids in SEQUENCES:
            logp, logq = (
                model(torch.tensor([ids])).logits[0].log_softmax(-1) for model in (one, other)
            )
            values += (logp.exp() * (logp - logq)).sum(-1).tolist()
    return float(np.mean(values))


@pytest.mark.parametrize(
    ("name", "tied"),
    [
        ("model.embed_tokens.weight", True),
        ("model.embed_tokens.weight", False),
        ("model.layers.0.self_attn.q_proj.weight", True),
        ("model.layers.1.mlp.down_proj.weight", True),
        ("lm_head.weight", False),
    ],
)
def test_kl_of_changed_weights_is_that_of_two_whole_models(make_checkpoint, name, tied):
    directory = make_checkpoint(tie_word_embeddings=tied)
    checkpoint = ChangedCheckpoint(directory, SEQUENCES)
    random = np.random.default_rng(0)
    weights = dict(checkpoint._model.named_parameters())[name].numpy(force=True).copy()
    changed = weights + 0.02 * random.standard_normal(weights.shape, dtype=np.float32)
    expected = kl_of_two_models(directory, name, changed)
    assert checkpoint.kl_nats({name: changed}) == pytest.approx(expected, rel=1e-3)
    assert checkpoint.kl_nats({name: weights}) < 1e-6, "the change was undone"
    assert checkpoint.num_tokens == sum(map(len, SEQUENCES))
