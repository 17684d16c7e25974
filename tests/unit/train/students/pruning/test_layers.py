from itertools import pairwise

import pytest
import torch

from train.students.pruning.layers import (
    block_influence,
    decoder_layers,
    evenly_spread,
    keep_layers,
    most_influential,
)


@pytest.fixture
def model(make_model):
    return make_model("llama", num_hidden_layers=5)


def make_identity(layer):
    torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
    torch.nn.init.zeros_(layer.mlp.down_proj.weight)


def test_a_planted_identity_layer_is_found(model, conversations):
    make_identity(decoder_layers(model)[2])
    influence = block_influence(model, conversations)
    assert len(influence) == 5
    assert influence[2] == pytest.approx(0.0, abs=1e-6)
    assert min(value for index, value in enumerate(influence) if index != 2) > 0.01
    assert most_influential(influence, 4) == [0, 1, 3, 4]


def test_influence_is_a_mean_over_tokens(model, conversations):
    long, short = conversations
    each = [block_influence(model, [one])[1] for one in (long, short)]
    together = block_influence(model, [long, short])[1]
    weighted = (each[0] * len(long) + each[1] * len(short)) / (len(long) + len(short))
    assert together == pytest.approx(weighted, rel=1e-5)


def test_influence_leaves_no_hook(model, conversations):
    block_influence(model, conversations)
    assert not any(layer._forward_hooks for layer in decoder_layers(model))


def test_removing_identity_layers_changes_nothing_but_the_size(model, conversations, reloaded):
    for index in (1, 3):
        make_identity(decoder_layers(model)[index])
    before = model(conversations[0][None]).logits
    keep_layers(model, [0, 2, 4])
    assert model.config.num_hidden_layers == len(decoder_layers(model)) == 3
    assert [layer.self_attn.layer_idx for layer in decoder_layers(model)] == [0, 1, 2]
    torch.testing.assert_close(model(conversations[0][None]).logits, before)
    torch.testing.assert_close(reloaded(model)(conversations[0][None]).logits, before)


@pytest.mark.parametrize(
    ("family", "setting", "changes"),
    [
        ("gemma3_text", "layer_types", {"sliding_window": 4, "sliding_window_pattern": 2}),
        ("smollm3", "no_rope_layers", {"no_rope_layer_interval": 2}),
    ],
)
def test_settings_of_single_layers_go_with_them(
    make_model, conversations, reloaded, family, setting, changes
):
    """Both families alternate; two layers of the same kind stay."""
    model = make_model(family, num_hidden_layers=4, **changes)
    entries = getattr(model.config, setting)
    assert entries[1] == entries[3] != entries[0]
    keep_layers(model, [1, 3])
    assert getattr(model.config, setting) == [entries[1], entries[3]]
    kept = model(conversations[0][None]).logits
    torch.testing.assert_close(reloaded(model)(conversations[0][None]).logits, kept)
    cached, plain = (
        reloaded(model).generate(
            conversations[0][None], max_new_tokens=8, do_sample=False, use_cache=use_cache
        )
        for use_cache in (True, False)
    )
    assert torch.equal(cached, plain)


@pytest.mark.parametrize(
    ("num_layers", "num_kept", "kept"),
    [
        (30, 24, [0, 1, 3, 4, 5, 6, 8, 9, 10, 11, 13, 14, 15, 16, 18, 19, 20, 21, 23, 24, 25, 26]),
        (5, 3, [0, 2, 4]),
        (4, 4, [0, 1, 2, 3]),
        (7, 2, [0, 6]),
        (7, 1, [0]),
    ],
)
def test_layers_are_spread_from_the_first_to_the_last(num_layers, num_kept, kept):
    found = evenly_spread(num_layers, num_kept)
    assert found[: len(kept)] == kept
    assert len(set(found)) == num_kept
    assert found[-1] == (num_layers - 1 if num_kept > 1 else 0)
    gaps = {after - before for before, after in pairwise(found)}
    assert not gaps or max(gaps) - min(gaps) <= 1
