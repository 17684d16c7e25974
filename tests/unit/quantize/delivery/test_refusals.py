import pytest

from quantize.delivery.refusals import in_texts

KEY = "a1B2" * 12


@pytest.mark.parametrize(
    "text",
    [
        f"sk-{KEY}",
        f"hf_{KEY}",
        f"ghp_{KEY}",
        "AKIAABCDEFGHIJKLMNOP",
        f"Authorization: Bearer {KEY}",
        "-----BEGIN RSA PRIVATE KEY-----",
        "postgresql://me:secret@db/traffic",
        "write to ann@example.com",
        "made in /home/ann/models",
        "DE89 3704 0044 0532 0130 00",
    ],
)
def test_secrets_and_personal_data_are_found_and_not_repeated(text):
    (found,) = in_texts({"README.md": f"# A student\n\n{text}\n"})
    assert found.where == "README.md, line 3"
    assert KEY not in found.found
    assert found.unless is None


def test_a_card_as_potstill_writes_it_passes():
    card = "KL 0.31 nats; sha256 " + "0f" * 32 + "; 113,274,432 parameters; ollama create NAME"
    assert in_texts({"README.md": card, "Modelfile": 'PARAMETER stop "<|im_end|>"'}) == []
