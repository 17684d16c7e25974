"""Texts and chats on which tokenizers are known to differ, to show that two of them do not.

Scripts, digits, contractions, white space, emoji sequences, combining marks, control characters,
long runs, code, and texts that look like special tokens.
"""
# ruff: noqa: RUF001  (look-alike characters are the point)

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from potstill.schema import Message
from potstill.tools.formats import stored_call_id

WORDS = (
    "naïve café Ångström coöperate Zoë",
    "Straße Öl Übung größer — „Gänsefüßchen“",
    "¿Dónde está el niño? ¡Aquí!",
    "l'été où ç'aurait été l'œuf d'aujourd'hui",
    "İstanbul'da ışık çocuğun ğüşöç",
    "Привет, мир! Ещё съёмка объём",
    "Γειά σου Κόσμε — ΐ ΰ ς",
    "שלום עולם נִקּוּד",
    "مرحبا بالعالم لُغَة عَرَبِيَّة ﷺ",
    "नमस्ते दुनिया क्षत्रिय हिन्दी",
    "বাংলা ভাষা தமிழ் తెలుగు ಕನ್ನಡ മലയാളം",
    "สวัสดีชาวโลก ภาษาไทยไม่มีช่องว่าง",
    "ខ្មែរ ကမ္ဘာ ພາສາລາວ བོད་སྐད",
    "你好，世界。简体与繁體中文",
    "こんにちは世界 カタカナ ﾊﾝｶｸ 漢字かな交じり",
    "안녕하세요 세계 한국어 ㄱㄴㄷ",
    "Tiếng Việt có dấu: ở đây, những, được",
    "ქართული ენა Հայերեն አማርኛ",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝕄𝕒𝕥𝕙 𐍈 𓀀 𠜎 🄰",
    "ﬁ ﬂ Ǆ ǅ ŉ ſ K Å",
)

NUMBERS = (
    "0 1 12 123 1234 12345 123456 1234567890",
    "12,345.67 3.14e-10 1_000_000 0x1F 0b1010 0o777 1e400",
    "½ ⅓ Ⅷ ⅷ ² ³ ₂ ① ⑳ ㊿",
    "٣٤٥ १२३ ๑๒๓ ৪৫৬ 〇一二三 𝟏𝟐𝟑",
    "2024-02-29T23:59:60Z 10:30 AM 1st 2nd 3rd 4th",
    "$1,234.56 €99,- £5 ¥100 ₿0.001 50% 1/2 ±5°C",
    "+1 (555) 010-9999 192.168.0.1:8080 ::1",
    "v1.2.3-rc.4+build.5 a1b2c3 x86_64 3D 4K",
    "1 2  3   4    5",
    "000 0000 00000 000000 9" + "9" * 60,
)

CONTRACTIONS = ("s", "t", "re", "ve", "m", "ll", "d", "S", "LL", "Re", "VE", "sd", "x")

WHITE_SPACE = (
    " ",
    "  ",
    "\t",
    "\n",
    "\r\n",
    "\r",
    "\n\n",
    "\n \n",
    " \n",
    "\t\t",
    "\v",
    "\f",
    "\N{NO-BREAK SPACE}",
    "\N{EM SPACE}",
    "\N{THIN SPACE}",
    "\N{IDEOGRAPHIC SPACE}",
    "\N{LINE SEPARATOR}",
    "\N{PARAGRAPH SEPARATOR}",
    "\N{NEXT LINE}",
    "\N{ZERO WIDTH SPACE}",
    "\N{ZERO WIDTH NO-BREAK SPACE}",
)

EMOJI = (
    "👩‍👩‍👧‍👦",
    "🏳️‍🌈",
    "🇺🇳🇩🇪",
    "👍🏽👍🏿",
    "☃️☃",
    "1️⃣#️⃣",
    "🧑‍🚀🪐",
    "😀😃😄😁",
    "👁️‍🗨️",
    "🏴󠁧󠁢󠁥󠁮󠁧󠁿",
)

COMBINED = (
    "é e\u0301 ê\u0323 ệ",
    "Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A",
    "a\u0308o\u0308u\u0308",
    "ﾊﾞ が か\u3099",
    "각 \u1100\u1161\u11a8",
    "soft\u00adhyphen word\u2060joiner",
    "bidi\u202eabc\u202c \u2066iso\u2069",
    "ن\u064e\u0651 ש\u05c1",
)

CONTROL = (
    "\x01\x02\x03",
    "\x07\x08",
    "\x1b[31mred\x1b[0m",
    "\x7f\x80\x9f",
    "\ufffd\ufffe",
    "\ue000\uf8ff",
    "\U000f0000\U0010fffd",
)

CODE = (
    "def f(x: int) -> dict[str, int]:\n    return {'a': x**2 for _ in range(10)}  # !?\n",
    "\tif (a->b[i] != 0x7F && !c) { *p++ = ~q; }\r\n",
    "SELECT * FROM t WHERE a >= 1 AND b LIKE '%x_%' -- note",
    '<div class="a b">&nbsp;&lt;tag/&gt;</div>',
    "https://example.org/a_b-c?d=e&f=%20#g user+tag@example.org",
    "C:\\dir\\file.txt /usr/local/bin ~/.config ../..",
    "camelCase snake_case SCREAMING_CASE kebab-case x1y2z3 _ __ ___",
    '{"key": [1, 2.5, null, true], "nested": {"a": "b\\n"}}',
    "$$\\sum_{i=0}^{n} x_i^2 \\leq \\frac{1}{2}$$ ∀x∈ℝ ∃y: x≠y ⇒ ∞",
    "| a | b |\n|---|:-:|\n| 1 | **2** |\n\n- [x] done\n> quote\n```sh\n$ ls -la\n```",
    "^(?:[a-z0-9]+(?:\\.[a-z]+)*)@x{1,3}$",
    "a+=b-=c*=d/=e%=f<<=g>>=h&=i|=j^=k",
)

LOOK_ALIKES = (
    "<|im_start|>",
    "<|im_end|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "<|end|>",
    "<|unknown|>",
    "<s>",
    "</s>",
    "<bos>",
    "<eos>",
    "<end_of_turn>",
    "<unk>",
    "<pad>",
    "[INST]",
    "[/INST]",
    "<<SYS>>",
    "<think>",
    "<tool_call>",
    "<0x0A>",
    "[PAD7]",
)

PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~¡¿«»“”‘’…–—•·§¶†‡°©®™€"

LONG = (
    "a" * 500,
    " " * 300 + "x",
    "!" * 200,
    "\n" * 100,
    "ab" * 300,
    "é" * 200,
    "字" * 150,
    "🙂" * 60,
    "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft" * 3,
    "x y " * 120,
    "=" * 80 + "\n" + "-" * 80,
    "ACGT" * 100,
)


def _texts() -> Iterator[str]:
    yield from WORDS
    for words in WORDS:
        yield f" {words.upper()} "
        yield f"{words.lower()}\n{words}"
        yield unicodedata.normalize("NFD", words)
    yield from NUMBERS
    for number in NUMBERS:
        yield f"x{number}y: ({number})"
    for ending in CONTRACTIONS:
        yield f"I'{ending} it'{ending}.we’{ending} '{ending} {ending}'"
        yield f"I'{ending.upper()}YOU'{ending}they '{ending}x"
    for space in WHITE_SPACE:
        yield space
        yield f"a{space}b"
        yield f"{space}{space}a {space} b{space}{space}{space}"
        yield f"1{space}2.{space}!"
    for sequence in (*EMOJI, *COMBINED, *CONTROL):
        yield sequence
        yield f"x{sequence} {sequence}y"
    yield from CODE
    for code in CODE:
        yield f"  {code}{code.strip()}"
    for text in LOOK_ALIKES:
        yield f"{text} a{text}b"
        yield f"{text[:-1]} {text[1:]} {text}{text}"
    for mark in PUNCTUATION:
        yield f"a{mark}b {mark} {mark}{mark} {mark}c{mark} "
    yield from LONG


HOSTILE_TEXTS = tuple(dict.fromkeys(_texts()))


def _chats() -> Iterator[list[Message]]:
    contents = (
        "",
        " ",
        "Hello",
        "  spaces  ",
        "\n\nlines\n\n",
        "tab\tand\r\nCRLF",
        *WORDS[:8],
        *NUMBERS[:3],
        *EMOJI[:3],
        *COMBINED[:3],
        *CODE[:3],
        *(f"Say {text} to me" for text in LOOK_ALIKES[:8]),
        *LOOK_ALIKES[8:12],
    )
    for content in contents:
        question = Message(role="user", content=content)
        yield [question]
        yield [
            Message(role="system", content=f"Be brief. {content}"),
            question,
            Message(role="assistant", content=f"{content}!"),
            Message(role="user", content="And then?"),
        ]
    call: dict[str, Any] = {
        "id": stored_call_id(0),
        "type": "function",
        "function": {"name": "pay", "arguments": '{"to": "naïve café", "sum": 1.50}'},
    }
    yield [
        Message(role="user", content="Pay."),
        Message(role="assistant", content="", tool_calls=json.dumps([call])),
        Message(role="tool", content="paid", tool_call_id=call["id"]),
        Message(role="assistant", content="Paid."),
        Message(role="user", content="Thanks"),
    ]


HOSTILE_CHATS = tuple(_chats())


def unicode_form(tokenizer: Any) -> Callable[[str], str]:  # noqa: ANN401  (a transformers tokenizer)
    """Return the normalization with which a tokenizer can be compared with llama.cpp.

    llama.cpp does not normalize Unicode: for tokenizers that do (NFC), texts are normalized first.
    """
    normalizer = tokenizer.backend_tokenizer.normalizer
    return partial(unicodedata.normalize, "NFC") if type(normalizer).__name__ == "NFC" else str
