"""Texts on which tokenizers are known to differ, to prove that two of them do not.

Digits of several scripts, contractions, white space, emoji sequences, combining marks, zero-width
and control characters, long runs, and what only looks like a special token.
"""
# ruff: noqa: RUF001  (look-alike characters are the point)

HOSTILE_TEXTS = (
    " ",
    "   leading, trailing   ",
    "tabs\t\there\r\nand\n\n\n  \n lines\u2028\u2029\x0b\x0c\x85",
    "1234567890 12,345.67 3.14e-10 0x1F ½ Ⅷ ٣٤٥ १२३ ²",
    "don't I'LL we've he'd ’tis ʼn o'clock 'S 'Re",
    "def f(x):\n\treturn {'a': [x**2 for _ in range(10)]}  # !?",
    "naïve café Ångström — “quotes” … №",
    "Привет, мир! Γειά σου Κόσμε שלום עולם مرحبا بالعالم",
    "你好，世界。こんにちは世界　안녕하세요 สวัสดี नमस्ते",
    "👩‍👩‍👧‍👦🏳️‍🌈🇺🇳 👍🏽 ☃️ 𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈",
    "e\u0301 a\u0308 Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A",
    "zero\u200bwidth\ufeff bidi\u202eabc\u202c nbsp\u00a0\u3000\u2009thin soft\u00adhyphen",
    "control \x01\x02\x1b[31m\x7f \ufffd \ue000 \U0010fffd",
    "a" * 500 + " " * 300 + "!" * 200 + "\n" * 100,
    "<|im_start|> <|im_end|> <|endoftext|> <s></s> [INST] <|unknown|> <|im_start",
    "https://example.org/a_b-c?d=e&f=%20#g user@example.org C:\\dir\\file.txt",
    "camelCase snake_case SCREAMING_CASE kebab-case x1y2z3 _ __ ___",
)
