"""Assignment of users to variants: the same user always gets the same one.

Nothing is stored: restarts and other servers assign alike.

Source: weighted rendezvous hashing (Thaler & Ravishankar 1998; weights by an exponential race,
-ln(u)/w with u uniform by user and variant: the least of them wins with probability w/Σw). When
one weight grows, users move to that variant and nowhere else; when it shrinks, away from it only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from serve.backends.protocol import Caller
from serve.experiment.config import ExperimentConfig
from serve.storage.storage import salted_hash
from serve.wire.chat import ChatRequest

HASH_BYTES = 8


def user_of(config: ExperimentConfig, request: ChatRequest, caller: Caller) -> str | None:
    """Return the first user name that a request has, by `sticky`; None if it has none.

    Names of different kinds never collide: a user named like a key is another user.
    """
    extra = request.model_extra or {}
    names = {
        "user": extra.get("user") or extra.get("safety_identifier"),
        "key": caller.key_name,
        "header": caller.headers.get(config.header.lower()),
    }
    found = ((kind, names[kind]) for kind in config.sticky)
    return next((f"{kind}\0{name}" for kind, name in found if name), None)


def choose(weights: Mapping[str, float], salt: str, experiment: str, user: str) -> str:
    """Return a user's variant.

    Args:
        weights: Weights by variant, not all 0.
    """
    return min(
        (variant for variant, weight in weights.items() if weight > 0),
        key=lambda variant: -math.log(_uniform(salt, experiment, variant, user)) / weights[variant],
    )


def _uniform(salt: str, *parts: str) -> float:
    """Return a number in (0, 1), the same for the same parts."""
    number = int.from_bytes(salted_hash(salt, *parts)[:HASH_BYTES])
    return (number + 0.5) / (1 << 8 * HASH_BYTES)
