"""How much the chunked loss saves against full logits: `python benchmarks/distillation_loss.py`.

Peer: the same mixed loss in plain PyTorch, on logits of all tokens at once, differentiated by
autograd. Both get the same hidden states, frozen head and stored log-probabilities; each runs in a
process of its own, whose peak memory is read at the end, less that of a process that only makes the
tensors.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from statistics import median

import torch
from torch import Tensor

from train.losses.chunked import Mix, Targets, distillation_loss
from train.losses.forward_kl import forward_kl

NUM_TOKENS, WIDTH, VOCABULARY, TOP_K = 2048, 576, 49_152, 64
WEIGHT, CHUNK_TOKENS, NUM_ROUNDS = 0.9, 256, 5


def make_problem() -> tuple[Tensor, Tensor, Targets]:
    """Return hidden states, head and targets, the same in every process."""
    torch.manual_seed(0)
    hidden_TD = torch.randn(NUM_TOKENS, WIDTH, requires_grad=True)
    head_VD = 0.05 * torch.randn(VOCABULARY, WIDTH)
    top_ids_TK = torch.randint(0, VOCABULARY, (NUM_TOKENS, TOP_K))
    top_logprobs_TK = torch.randn(NUM_TOKENS, 2 * TOP_K).log_softmax(-1)[:, :TOP_K]
    return hidden_TD, head_VD, Targets(top_ids_TK[:, 0], top_ids_TK, top_logprobs_TK)


def chunked(hidden_TD: Tensor, head_VD: Tensor, targets: Targets) -> Tensor:
    """Return potstill's loss."""
    mix = Mix(forward_kl, WEIGHT, CHUNK_TOKENS)
    return distillation_loss(hidden_TD, head_VD, None, targets, mix).total


def full_logits(hidden_TD: Tensor, head_VD: Tensor, targets: Targets) -> Tensor:
    """Return the same loss as one would first write it."""
    logprobs_TV = (hidden_TD @ head_VD.T).log_softmax(-1)
    student_TK = logprobs_TV.gather(-1, targets.top_token_ids_TK)
    stored_TK = torch.ones_like(student_TK, dtype=torch.bool)
    divergence = forward_kl(student_TK, targets.top_logprobs_TK, stored_TK).sum()
    entropy = -logprobs_TV.gather(-1, targets.token_ids_T[:, None]).sum()
    return WEIGHT * divergence + (1 - WEIGHT) * entropy


LOSSES = {"nothing": None, "full logits": full_logits, "chunked": chunked}


def measure(name: str) -> dict[str, float]:
    """Time forward and backward; return seconds, peak memory and the value."""
    hidden_TD, head_VD, targets = make_problem()
    seconds, value = [], 0.0
    loss = LOSSES[name]
    for _ in range(NUM_ROUNDS if loss else 0):
        hidden_TD.grad = None
        started = time.perf_counter()
        result = loss(hidden_TD, head_VD, targets)
        result.backward()
        seconds.append(time.perf_counter() - started)
        value = result.item()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": median(seconds or [0.0]), "bytes": peak, "value": value}


def main() -> None:
    """Run each loss in its own process and print the ratios."""
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1])))
        return
    found = {
        name: json.loads(subprocess.check_output([sys.executable, __file__, name], text=True))
        for name in LOSSES
    }
    ours, peer, base = found["chunked"], found["full logits"], found["nothing"]["bytes"]
    print(f"{NUM_TOKENS} tokens, vocabulary {VOCABULARY}, k = {TOP_K}, float32, frozen head")
    print(f"same loss: {ours['value']:.2f} and {peer['value']:.2f} nats")
    print(f"time,   chunked / full logits: {ours['seconds'] / peer['seconds']:.2f}")
    memory = (ours["bytes"] - base) / (peer["bytes"] - base)
    print(f"memory, chunked / full logits: {memory:.2f}")


if __name__ == "__main__":
    main()
