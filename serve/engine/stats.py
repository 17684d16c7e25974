"""An engine's load and totals, for metrics."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class EngineStats:
    """Current load, and totals since the engine was created."""

    num_waiting: int
    """Requests in the queue."""
    num_active: int
    """Requests being answered."""
    num_sequences: int
    """The most requests that can be answered at once."""
    num_steps: int
    """Batches decoded."""
    num_decoded_tokens: int
    """Tokens that went through the model: `num_prompt_tokens` without the cached ones, and what
    was generated."""
    num_prompt_tokens: int
    """Tokens of all admitted prompts."""
    num_cached_tokens: int
    """Prompt tokens taken from the prefix cache."""
    num_generated_tokens: int
    """Tokens sampled."""
    num_scheduled_sequences: int
    """Sequences per batch, summed; divided by `num_steps` it is the mean occupancy."""
    num_drafted_tokens: int
    """Tokens proposed by a draft model."""
    num_accepted_tokens: int
    """Drafted tokens that were accepted."""
    decode_seconds: float
    """Time in llama.cpp's decoding, the draft model's and embeddings included."""
    other_seconds: float
    """Time of steps outside decoding: scheduling, sampling, text."""


@dataclass
class Totals:
    """Counters of a running engine, named as in `EngineStats`."""

    num_steps: int = 0
    num_decoded_tokens: int = 0
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_generated_tokens: int = 0
    num_scheduled_sequences: int = 0
    num_drafted_tokens: int = 0
    num_accepted_tokens: int = 0
    step_seconds: float = 0.0

    def stats(self, *, decode_seconds: float, **load: int) -> EngineStats:
        """Return the totals with the current load."""
        counts = asdict(self)
        other_seconds = max(0.0, counts.pop("step_seconds") - decode_seconds)
        return EngineStats(
            decode_seconds=decode_seconds, other_seconds=other_seconds, **load, **counts
        )
