"""Templates render as transformers renders them, and can do no harm."""

import jinja2
import pytest

from potstill.templates import compile_template, render_template

MESSAGES = [
    {"role": "system", "content": "Be <brief> & kind."},
    {"role": "user", "content": "Grüße 'n' \"more\"\n"},
    {"role": "assistant", "content": "Yes."},
    {"role": "user", "content": ""},
]
TEMPLATES = [
    "{% for message in messages %}\n  {{ message.role }}: {{ message.content }}\n{% endfor %}",
    "{{ bos_token }}{{ messages | tojson }}{{ messages[0] | tojson(indent=2) }}{{ eos_token }}",
    "{% for message in messages %}{% if loop.first %}{% continue %}{% endif %}"
    "{% if message.role == 'assistant' %}{% generation %}{{ message.content }}{% endgeneration %}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}go{% endif %}",
    "{% if tools is not none %}tools{% endif %}{{ pad_token }}{{ documents }}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}"
    "{{ ns.n }}{{ strftime_now('%Y')[:2] }}",
]


@pytest.mark.parametrize("source", TEMPLATES)
def test_a_template_renders_as_transformers_renders_it(source):
    from transformers.utils.chat_template_utils import render_jinja_template

    named = {"bos_token": "<s>", "eos_token": "</s>"}
    (expected,), _ = render_jinja_template(
        [MESSAGES], chat_template=source, add_generation_prompt=True, **named
    )
    assert render_template(compile_template(source), MESSAGES, named) == expected


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages.__class__.__mro__ }}", "unsafe"),
    ],
)
def test_a_template_that_refuses_or_reaches_out_is_an_error(source, text):
    with pytest.raises(jinja2.TemplateError, match=text):
        render_template(compile_template(source), MESSAGES, {})


def test_what_is_no_template_is_an_error():
    with pytest.raises(jinja2.TemplateError):
        compile_template("{% for %}")
