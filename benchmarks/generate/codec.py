"""Bytes and accuracy of stored distributions: `python benchmarks/generate/codec.py [--json PATH]`.

The embedded teacher writes prompts and answers them at temperature 1; every encoding stores the
distributions of all answers in Parquet with zstd, and what it decodes to is compared with the full
distribution at the positions of every sixth conversation. What an encoding does not store is spread
over the other tokens: evenly, as peers do; by the data set's tail prior, which is made from the
conversations that are not tested; by the conversation's, which adds its own stored entries. The
same is done for the teacher sharpened to 2 bits, a stand-in for a larger one.

Peers: the plain top-k; DistillKit's "budget" and "recommended" settings, written anew from its
README (43f6e1b, "Logit Compression"); Random-Sampling KD at its 36 bytes (Anshumann et al. 2025,
"Sparse Logit Sampling", section 3: the counts of tokens drawn from the teacher, 24 bits each).

Shapes: T positions, K entries, V vocabulary, D width.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from _encodings import (
    DISTILLKIT,
    DISTILLKIT_BUDGET,
    OURS,
    Answers,
    Stored,
    Top,
    distillkit,
    ours,
    ours_within,
    plain,
    random_sampling,
)

from potstill.checkpoints import find_checkpoint
from potstill.distributions import TokenDistributions
from potstill.models.named import SMOLLM2_135M

NUM_CONVERSATIONS = 96
MAX_PROMPT_TOKENS, MAX_ANSWER_TOKENS = 48, 160
PROMPT_TEMPERATURE = 0.7
"""Below 1, so that a small teacher's questions are as plain as people's."""
TEST_EVERY = 6
SHARPENED_BITS = 2.0
TOP_K = 255
CHUNK = 128
MIN_MISSING = 1e-4
"""Least probability of the tokens that are not stored:
without it one such token makes KL infinite."""
K = 128
BUDGETS = ((1e-2, K), (3e-3, K), (1e-3, K), (3e-4, K), (1e-4, 255))
"""Least probability stored and most entries."""
SPREADS = ("evenly", "by prior", "by conversation")
NUM_SPREADS = len(SPREADS)
GOAL_BYTES, GOAL_TV, GOAL_GAIN = 45, 0.025, 0.4


@dataclass(frozen=True)
class Decoded:
    """The decoded distributions of an encoding at the tested positions."""

    name: str
    bytes: float
    """Per token."""
    entries: float
    """Per token."""
    missing: float
    """Mean probability that is not stored."""
    dense: list[Callable[[torch.Tensor], torch.Tensor]]
    """For the positions of a conversation the full distributions [T, V], as in `Row.tv`."""


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    encoding: str
    bytes_per_token: float
    entries_per_token: float
    missing_mass: float
    tv: list[float]
    """Total variation with missing mass spread evenly, by the data set's prior and by the
    conversation's; only one where nothing is missing."""
    kl_nats: list[float]


# --- the teacher's answers


def sample_answers() -> Answers:
    """Let the embedded teacher write prompts from its template's empty user slot, and answer."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    checkpoint_dir = find_checkpoint(SMOLLM2_135M.name)
    tokenizer = AutoTokenizer.from_pretrained(checkpoint_dir)
    model = AutoModelForCausalLM.from_pretrained(checkpoint_dir, dtype=torch.bfloat16).eval()
    end, mark = tokenizer.eos_token_id, "MARK"
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": mark}], tokenize=False, add_generation_prompt=True
    )
    before, after = (
        tokenizer(part, add_special_tokens=False)["input_ids"] for part in text.split(mark)
    )

    def complete(prompts: list[list[int]], max_tokens: int, temperature: float) -> list[list[int]]:
        width = max(map(len, prompts))
        padded = torch.tensor([[end] * (width - len(one)) + one for one in prompts])
        attended = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in prompts])
        texts = model.generate(
            padded,
            attention_mask=attended,
            max_new_tokens=max_tokens,
            do_sample=True,
            temperature=temperature,
            top_k=0,
            top_p=1.0,
            eos_token_id=end,
            pad_token_id=end,
        )[:, width:].tolist()
        return [one[: one.index(end) + 1] if end in one else one for one in texts]

    torch.manual_seed(0)
    written_prompts = complete([before] * NUM_CONVERSATIONS, MAX_PROMPT_TOKENS, PROMPT_TEMPERATURE)
    prompts = [before + [one for one in ids if one != end] + after for ids in written_prompts]
    completions = complete(prompts, MAX_ANSWER_TOKENS, 1.0)
    hidden = []
    for prompt, completion in zip(prompts, completions, strict=True):
        with torch.inference_mode():
            states_LD = model.base_model(torch.tensor([prompt + completion])).last_hidden_state[0]
        hidden.append(states_LD[len(prompt) - 1 : -1].float())
    lengths = [len(one) for one in completions]
    sampled_T = torch.tensor([token_id for one in completions for token_id in one])
    tested_T = np.repeat(np.arange(len(lengths)) % TEST_EVERY == 0, lengths)
    head_VD = model.get_output_embeddings().weight.detach().float()
    return Answers(torch.cat(hidden), sampled_T, lengths, tested_T, head_VD)


def log_probabilities(
    hidden_TD: torch.Tensor, head_VD: torch.Tensor, sharpness: float
) -> torch.Tensor:
    """Return the full distributions [T, V]."""
    return (sharpness * hidden_TD @ head_VD.T).log_softmax(-1)


def entropy_bits(logprobs_TV: torch.Tensor) -> float:
    """Return the mean entropy."""
    return float(-(logprobs_TV.exp() * logprobs_TV).sum(-1).mean() / np.log(2))


def find_sharpness(answers: Answers, bits: float) -> float:
    """Return the factor of the logits with which the mean entropy is `bits`."""
    logits_TV = answers.hidden_TD[:: len(answers.hidden_TD) // 400] @ answers.head_VD.T
    low, high = 1.0, 4.0
    for _ in range(8):
        middle = (low + high) / 2
        found = entropy_bits((middle * logits_TV).log_softmax(-1))
        low, high = (middle, high) if found > bits else (low, middle)
    return (low + high) / 2


def find_top(answers: Answers, sharpness: float) -> Top:
    """Return the most probable tokens of every position."""
    parts, bits = [], 0.0
    for chunk in torch.arange(len(answers.hidden_TD)).split(CHUNK):
        logprobs_TV = log_probabilities(answers.hidden_TD[chunk], answers.head_VD, sharpness)
        values_TK, ids_TK = logprobs_TV.topk(TOP_K)
        sampled_T = logprobs_TV.gather(1, answers.sampled_T[chunk, None])[:, 0]
        parts.append((ids_TK.numpy(), values_TK.numpy(), sampled_T.numpy()))
        bits += entropy_bits(logprobs_TV) * len(chunk)
    arrays = [np.concatenate(one) for one in zip(*parts, strict=True)]
    return Top(*arrays, entropy_bits=bits / len(answers.hidden_TD))


# --- comparison


def densify(
    ids_TK: torch.Tensor, probabilities_TK: torch.Tensor, spread_V: torch.Tensor, least: float
) -> torch.Tensor:
    """Return full distributions [T, V] from entries: what they lack, or `least`, is spread."""
    spread_V = torch.cat([spread_V, torch.zeros(1)])
    ids_TK = torch.where(ids_TK < 0, len(spread_V) - 1, ids_TK)
    mass_T = probabilities_TK.sum(1, keepdim=True)
    missing_T = (1 - mass_T).clamp_min(least)
    dense_TV = spread_V * (missing_T / (1 - spread_V[ids_TK].sum(1, keepdim=True)))
    dense_TV.scatter_(1, ids_TK, probabilities_TK * ((1 - missing_T) / mass_T))
    return dense_TV[:, :-1]


def entries(ids_TK: torch.Tensor, probabilities_TK: torch.Tensor) -> TokenDistributions:
    """Return entries as the functions of `potstill.distributions` take them."""
    logprobs_TK = probabilities_TK.log().numpy()
    return TokenDistributions.from_padded(ids_TK.numpy(), logprobs_TK, np.zeros(len(ids_TK)))


def tail_prior(entries: TokenDistributions, vocab_size: int) -> np.ndarray:
    """Return shares [V] for the ids that are no entry: 1 + the positions with the id as an entry.

    It needs no bytes of its own, since it is made from the stored entries.
    """
    counts_V = 1 + np.bincount(entries.top_token_ids_N, minlength=vocab_size)
    return (counts_V / counts_V.sum()).astype(np.float32)


def conversation_tail_prior(prior_V: np.ndarray, conversation: TokenDistributions) -> np.ndarray:
    """Return the mean of a data set's prior and the shares of ids among a conversation's entries.

    What is said in a conversation is likelier to be said in it again.
    """
    counts_V = np.bincount(conversation.top_token_ids_N, minlength=len(prior_V))
    return ((prior_V + counts_V / counts_V.sum()) / 2).astype(np.float32)


def from_entries(stored: Stored, answers: Answers) -> Decoded:
    """Return what an encoding's entries decode to at tested positions."""
    ids_TK = torch.from_numpy(stored.ids_TK.astype(np.int64))
    probabilities_TK = torch.from_numpy(stored.probabilities_TK).float()
    probabilities_TK[ids_TK < 0] = 0
    even_V = torch.full((len(answers.head_VD),), 1 / len(answers.head_VD))
    if stored.is_estimate:
        dense = [lambda chunk: densify(ids_TK[chunk], probabilities_TK[chunk], even_V, 0.0)]
    else:
        tested_T = torch.from_numpy(answers.tested_T)
        others = entries(ids_TK[~tested_T], probabilities_TK[~tested_T])
        prior_V = tail_prior(others, len(even_V))
        ids_TK, probabilities_TK = ids_TK[tested_T], probabilities_TK[tested_T]

        def own_V(chunk: torch.Tensor) -> torch.Tensor:
            conversation = entries(ids_TK[chunk], probabilities_TK[chunk])
            return torch.from_numpy(conversation_tail_prior(prior_V, conversation))

        spreads = (lambda _: even_V, lambda _: torch.from_numpy(prior_V), own_V)
        dense = [
            lambda chunk, spread=spread: densify(
                ids_TK[chunk], probabilities_TK[chunk], spread(chunk), MIN_MISSING
            )
            for spread in spreads
        ]
    return Decoded(
        stored.name,
        stored.num_bytes / len(answers.sampled_T),
        float((ids_TK >= 0).sum(1).float().mean()),
        float((1 - probabilities_TK.sum(1)).clamp_min(0).mean()),
        dense,
    )


def measure(answers: Answers, sharpness: float) -> tuple[float, list[Row]]:
    """Return the mean entropy in bits, and the table."""
    top = find_top(answers, sharpness)
    hidden_TD = answers.hidden_TD[torch.from_numpy(answers.tested_T)]
    chunks = torch.arange(len(hidden_TD)).split(answers.lengths[::TEST_EVERY])

    def full(chunk: torch.Tensor) -> torch.Tensor:
        return log_probabilities(hidden_TD[chunk], answers.head_VD, sharpness)

    budget, recommended = (distillkit(top, answers, name) for name in DISTILLKIT)
    stored = [
        *(ours(top, answers, *one) for one in BUDGETS),
        ours_within(top, answers, GOAL_BYTES, K),
        ours_within(top, answers, budget.num_bytes / len(answers.sampled_T), K),
        *(plain(top, answers, k) for k in (20, 50)),
        budget,
        recommended,
        random_sampling((full(chunk).exp() for chunk in chunks), len(answers.sampled_T)),
    ]
    decoded = [from_entries(one, answers) for one in stored]
    sums = np.zeros((len(decoded), 2, NUM_SPREADS))
    for chunk in chunks:
        logprobs_TV = full(chunk)
        probabilities_TV = logprobs_TV.exp()
        for row, one in enumerate(decoded):
            for column, dense in enumerate(one.dense):
                dense_TV = dense(chunk)
                sums[row, 0, column] += float((probabilities_TV - dense_TV).abs().sum()) / 2
                nats_TV = probabilities_TV * (logprobs_TV - dense_TV.log_())
                sums[row, 1, column] += float(nats_TV.sum())
    rows = [
        Row(one.name, one.bytes, one.entries, one.missing, *means[:, : len(one.dense)].tolist())
        for one, means in zip(decoded, sums / len(hidden_TD), strict=True)
    ]
    return top.entropy_bits, rows


def judge(at_1: list[Row], sharpened: list[Row]) -> dict[str, str]:
    """Return for each goal whether it is met; the peer's missing mass is spread evenly."""
    (peer,) = (row for row in at_1 if row.encoding.startswith(DISTILLKIT_BUDGET))
    small = best(sharpened, GOAL_BYTES)
    equal = best(at_1, peer.bytes_per_token)
    gains = [1 - tv / peer.tv[0] for tv in equal.tv]
    return {
        f"at most {GOAL_BYTES} bytes, total variation {GOAL_TV} near {SHARPENED_BITS:g} bits": (
            f"{small.bytes_per_token:.1f} bytes; "
            + "; ".join(
                f"{how} {tv:.4f}, {met(tv <= GOAL_TV)}"
                for how, tv in zip(SPREADS, small.tv, strict=True)
            )
        ),
        f"at {DISTILLKIT_BUDGET}'s bytes {GOAL_GAIN:.0%} less total variation, temperature 1": (
            f"{equal.bytes_per_token:.1f} of {peer.bytes_per_token:.1f} bytes; "
            + "; ".join(
                f"{how} {gain:.0%} less, {met(gain >= GOAL_GAIN)}"
                for how, gain in zip(SPREADS, gains, strict=True)
            )
        ),
    }


def best(rows: list[Row], max_bytes: float) -> Row:
    """Return potstill's best row with at most a number of bytes."""
    fitting = [row for row in rows if row.encoding.startswith(OURS)]
    return min(
        (row for row in fitting if row.bytes_per_token <= max_bytes), key=lambda row: row.tv[0]
    )


def met(reached: bool) -> str:
    """Return "met" or "missed"."""
    return "met" if reached else "MISSED"


def print_table(title: str, rows: list[Row]) -> None:
    """Print Markdown."""
    print(f"\n{title}\n")
    print(
        "| encoding | bytes/token | entries | missing | TV " + " | ".join(SPREADS) + " | KL ",
        end="",
    )
    print(" | ".join(SPREADS) + " |\n|---|" + "--:|" * (3 + 2 * NUM_SPREADS))
    for row in rows:
        cells = [f"{row.bytes_per_token:.1f}", f"{row.entries_per_token:.1f}"]
        cells.append(f"{row.missing_mass:.3f}")
        for means in (row.tv, row.kl_nats):
            cells += [f"{mean:.4f}" for mean in means] + [""] * (NUM_SPREADS - len(means))
        print(f"| {row.encoding} | " + " | ".join(cells) + " |")


def main() -> None:
    """Sample, store, compare and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="also write the figures here")
    json_path = parser.parse_args().json
    logging.disable(logging.WARNING)
    answers = sample_answers()
    print(
        f"{len(answers.lengths)} conversations, {len(answers.sampled_T):,} tokens, "
        f"{answers.tested_T.sum():,} of them tested; KL in nats"
    )
    tables = []
    for sharpness in (1.0, find_sharpness(answers, SHARPENED_BITS)):
        bits, rows = measure(answers, sharpness)
        title = f"logits times {sharpness:.2f}: entropy {bits:.2f} bits"
        print_table(title, rows)
        tables.append((title, rows))
    verdicts = judge(tables[0][1], tables[1][1])
    print()
    for goal, verdict in verdicts.items():
        print(f"- {goal}: {verdict}")
    if json_path is not None:
        figures = {title: [asdict(row) for row in rows] for title, rows in tables}
        json_path.write_text(json.dumps({"tables": figures, "goals": verdicts}, indent=2))


if __name__ == "__main__":
    main()
