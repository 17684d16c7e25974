"""A template in a process of its own: bombs end the process, never the server."""

import time

import pytest

from potstill.errors import PotstillError
from serve.chat.rendering import TemplateProcess

MESSAGES = [{"role": "user", "content": "Hi"}]
BOMBS = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% set ns = namespace(x='x' * 99) %}{% for a in range(99) %}{% set ns.x = ns.x * 99 %}"
    "{% endfor %}",
    "{{ messages[0]['content'].rjust(9999999999) }}",
    "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
]


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_fails_alone_and_the_next_rendering_works(bomb):
    template = "{% if messages[0]['content'] == 'bang' %}" + bomb + "{% endif %}fine"
    process = TemplateProcess(template, seconds=0.3)
    started = time.perf_counter()
    with pytest.raises(PotstillError):
        process.render([{"role": "user", "content": "bang"}], {}, {})
    assert time.perf_counter() - started < 20
    assert process.render(MESSAGES, {}, {}) == "fine"
    process.close()


def test_a_template_that_explodes_before_it_is_rendered_is_refused():
    with pytest.raises(PotstillError):
        TemplateProcess("{{ 'x' * 99999999999 ~ 'y' }}", seconds=0.5).render(MESSAGES, {}, {})
    with pytest.raises(PotstillError, match="TemplateSyntaxError"):
        TemplateProcess("{% if %}")


def test_variables_and_tools_reach_the_template():
    process = TemplateProcess("{{ tools[0].name }} {{ enable_thinking }} {{ bos_token }}")
    variables = {"tools": [{"name": "f"}], "enable_thinking": False}
    assert process.render(MESSAGES, {"bos_token": "<s>"}, variables) == "f False <s>"
    process.close()
