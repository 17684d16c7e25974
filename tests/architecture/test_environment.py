"""What packages ask of other libraries by the environment, unless the user has asked already."""

import os
import subprocess
import sys

import pytest

SET = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "ONEDNN_PRIMITIVE_CACHE_CAPACITY")


def environment_after(module: str, **own: str) -> dict[str, str]:
    clean = {name: text for name, text in os.environ.items() if name not in SET}
    source = f"import os, {module}; print(dict(os.environ))"
    done = subprocess.run(
        [sys.executable, "-c", source], env=clean | own, capture_output=True, text=True, check=True
    )
    return eval(done.stdout)


@pytest.mark.parametrize(
    ("module", "variable", "value"),
    [
        ("potstill", "GOMP_SPINCOUNT", "1000"),
        ("potstill", "KMP_BLOCKTIME", "200"),
        ("train", "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64"),
    ],
)
def test_a_variable_is_set_unless_the_user_has_set_it(module, variable, value):
    assert environment_after(module)[variable] == value
    assert environment_after(module, **{variable: "7"})[variable] == "7"


def test_a_policy_of_the_users_own_is_left_alone():
    assert environment_after("potstill")["OMP_WAIT_POLICY"] == "active"
    found = environment_after("potstill", OMP_WAIT_POLICY="passive")
    assert found["OMP_WAIT_POLICY"] == "passive"
    assert not {"GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & set(found)
