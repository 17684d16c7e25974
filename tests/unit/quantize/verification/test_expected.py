from potstill.chat import render_prompt
from potstill.schema import Message
from quantize.loading import load_tokenizer
from quantize.verification.expected import read_expected

from ..conftest import VOCAB_SIZE


def test_chats_are_compared_in_normal_form_where_the_tokenizer_normalizes(
    make_checkpoint, tokenizer_dir
):
    from tokenizers.normalizers import NFC

    tokenizer = load_tokenizer(tokenizer_dir)
    tokenizer.backend_tokenizer.normalizer = NFC()
    decomposed = Message(
        role="assistant", content="cafe\N{COMBINING ACUTE ACCENT}", tool_calls="[]"
    )
    chats = [[Message(role="user", content="x"), decomposed]]
    expected = read_expected(tokenizer, make_checkpoint(), VOCAB_SIZE, chats)
    composed = decomposed.model_copy(update={"content": "café"})
    assert expected.chats[0] == [chats[0][0], composed]
    assert expected.chat_token_ids[0] == render_prompt(tokenizer, expected.chats[0])
