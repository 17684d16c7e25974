"""Parts of several stages' facts: the teacher's identity and measured fidelity."""

from __future__ import annotations

from typing import Literal

from potstill.facts.base import Record

Role = Literal["student", "teacher"]


class TeacherIdentity(Record):
    """The teacher."""

    model: str
    """As the configuration names it."""
    path: str
    """Directory of its checkpoint."""
    num_parameters: int
    """0 for a served teacher whose weights are not on this machine."""
    dtype: str
    """Precision of sampling, in vLLM's words."""
    fingerprint: str
    """Hash of its checkpoint."""
    gguf_sha256: str | None = None
    """Hash of the GGUF file that its checkpoint was made from; None for other checkpoints."""
    text_only: bool = False
    """Whether it gave text alone: `path` is then the checkpoint in whose tokens conversations are
    stored, and the student learned at sequence level."""


class FurtherTeacher(Record):
    """A teacher beside the first one."""

    identity: TeacherIdentity
    level: Literal["token", "sequence"]
    """`token` where its tokenizer and chat template are the first one's, so that its distributions
    are stored; else its answers' tokens are certain."""


class FidelityFigures(Record):
    """Means over tokens, in nats where not a share; None where a figure cannot be known.

    Standard errors take conversations, not tokens, as independent. All but nats per token and
    calibration compare distributions over the same tokens, and are None for a student with others.
    """

    kl_nats: float | None
    """Forward KL(teacher‖student), a lower bound: stored tokens and one bucket for the tail."""
    kl_standard_error: float | None
    top1_agreement: float | None
    """Share of positions where the most probable token of both is the same."""
    num_tokens: int
    kl_upper_bound_nats: float | None = None
    """Upper bound of forward KL. Usually far above it, because the student may give almost no
    probability to tokens that are not stored. None also where it is infinite."""
    kl_estimate_nats: float | None = None
    """Unbiased estimate of the full forward KL. None unless tokens are draws from the teacher."""
    kl_estimate_standard_error: float | None = None
    reverse_kl_nats: float | None = None
    """Reverse KL(student‖teacher), a lower bound as for `kl_nats`. There is no upper bound: a token
    that is not stored may have probability 0 under the teacher."""
    reverse_kl_standard_error: float | None = None
    acceptance_lower_bound: float | None = None
    """Share of the student's draws that a speculative decoder would accept for the teacher, which
    is the overlap of both distributions."""
    acceptance_upper_bound: float | None = None
    acceptance_estimate: float | None = None
    """Unbiased estimate of it. None unless tokens are draws from the teacher."""
    acceptance_standard_error: float | None = None
    """Of the estimate."""
    top1_standard_error: float | None = None
    nats_standard_error: float | None = None
    calibration_error: float | None = None
    """Expected calibration error: mean difference between the student's confidence in its most
    probable token and the share of positions where that is the teacher's token. None where it was
    not measured."""


class Fidelity(FidelityFigures):
    """How close a student is to its teacher."""

    nats_per_token: float
    """Negative log-probability that the student gives the teacher's tokens."""

    @property
    def loss_nats(self) -> float:
        """The held-out loss that decides which student is better: lower is better."""
        return self.nats_per_token if self.kl_nats is None else self.kl_nats
