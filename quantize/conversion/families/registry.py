"""The architectures that can become GGUF, by their names in transformers.

To add one: a row here, a module for what it does differently, and a case in the tests that compare
it with the Hugging Face model and with llama.cpp's converter.
"""

from __future__ import annotations

from potstill.errors import ConversionError
from quantize.conversion.families.family import Family
from quantize.conversion.families.gemma import GEMMA3
from quantize.conversion.families.llama import LLAMA, MISTRAL, QWEN2, QWEN3, SMOLLM3
from quantize.conversion.families.phi import PHI, PHI3

FAMILIES = {
    "LlamaForCausalLM": LLAMA,
    "MistralForCausalLM": MISTRAL,
    "SmolLM3ForCausalLM": SMOLLM3,
    "Qwen2ForCausalLM": QWEN2,
    "Qwen3ForCausalLM": QWEN3,
    "Gemma3ForCausalLM": GEMMA3,
    "PhiForCausalLM": PHI,
    "Phi3ForCausalLM": PHI3,
}


def find_family(architecture: str | None, where: object) -> Family:
    """Return the row of an architecture.

    Raises:
        ConversionError: There is none.
    """
    if architecture not in FAMILIES:
        raise ConversionError(
            f"the architecture {architecture} cannot be converted to GGUF",
            where=where,
            expected=" | ".join(FAMILIES),
            found=architecture,
            hint="choose a teacher or student of one of these architectures",
        )
    return FAMILIES[architecture]
