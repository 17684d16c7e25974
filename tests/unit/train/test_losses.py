import pytest

from train.config import KDConfig
from train.losses import DIVERGENCES, TAILS, mix_of


@pytest.mark.parametrize(
    ("field", "registry"),
    [("divergence", DIVERGENCES), ("tail", TAILS)],
    ids=["divergence", "tail"],
)
def test_every_name_in_the_configuration_is_registered(field, registry):
    assert set(KDConfig.model_fields[field].annotation.__args__) == set(registry)


def test_a_mix_is_what_is_configured():
    mix = mix_of(KDConfig(divergence="jsd", tail="truncate", weight=0.3, chunk_tokens=5))
    assert (mix.weight, mix.chunk_tokens) == (0.3, 5)
    assert mix.tail.__name__ == "truncate"
