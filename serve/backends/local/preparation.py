"""Checked requests as engine requests: templates, tokens, grammars.

These functions take milliseconds and block: call them in threads beside the event loop.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from potstill.errors import ContextLengthError, PotstillError
from serve.chat.prompt import ChatPrompt, Dialogue, texts_in
from serve.chat.task import ServedTask
from serve.engine.grammar import GrammarSource, Schema, schema_of
from serve.engine.model import GgufModel
from serve.engine.request import Request
from serve.engine.sampler import SamplerParams
from serve.engine.slots import common_length
from serve.engine.trigger import Trigger
from serve.errors import InvalidRequestError
from serve.wire.chat import ChatMessage, ChatRequest, NamedChoice, Tool
from serve.wire.completions import CompletionRequest
from serve.wire.llama import LlamaCompletionRequest
from serve.wire.shared import SAMPLER_FIELDS, JsonObject, SamplingFields

BYTES_PER_TOKEN = 16
"""A text with more bytes per token of the context cannot fit: texts have about 4 per token."""

ANY_OBJECT: JsonObject = {"type": "object"}
"""The schema of JSON mode, which an empty schema also stands for."""


class Preparation:
    """Makes engine requests for one model.

    Args:
        task: What chats are completed by; None leaves them as they are.
        context_tokens: Bounds the length of texts before they are rendered and tokenized.
        public_prompts: System prompts whose memory all keys share.
    """

    def __init__(
        self,
        model: GgufModel,
        prompt: ChatPrompt,
        task: ServedTask | None = None,
        *,
        context_tokens: int,
        public_prompts: Sequence[str] = (),
    ) -> None:
        self._model = model
        self._prompt = prompt
        self._task = task
        self._context_tokens = context_tokens
        self._public_prompts = public_prompts

    def completed(self, request: ChatRequest) -> ChatRequest:
        """Return a chat with what it leaves out of the task, checked.

        Raises:
            UnsupportedParameterError: A parameter would change the answer and cannot be honored.
            InvalidRequestError: Parameters contradict each other.
        """
        if self._task is not None:
            request = self._task.applied(request)
        request.check()
        return request

    def chat(self, request: ChatRequest) -> tuple[list[int], list[Request]]:
        """Return a chat's prompt, and one engine request per choice."""
        prompt = self.chat_ids(request)
        num_public = max(common_length(public, prompt) for public in self._public_prefixes)
        grammar = self._chat_grammar(request)
        trigger = None if grammar else self._call_trigger(request, prompt)
        top = (request.top_logprobs or 0) if request.logprobs else None
        biases = self._logit_bias(request)
        return prompt, [
            self._request(
                request,
                prompt,
                choice,
                biases,
                max_new_tokens=request.max_new_tokens,
                num_top_logprobs=top,
                grammar=grammar,
                trigger=trigger,
                num_public_tokens=num_public,
                reports_progress=bool(request.stream and request.return_progress and choice == 0),
            )
            for choice in range(request.n or 1)
        ]

    def chat_ids(self, request: ChatRequest) -> list[int]:
        """Return a chat's prompt.

        Raises:
            ContextLengthError: It is far too long.
            InvalidRequestError: The template refuses the messages.
        """
        return self._prompt.token_ids(self._dialogue(request))

    def rendered(self, request: ChatRequest) -> str:
        """Return a chat's prompt as text; raises as `chat_ids` does."""
        return self._prompt.render(self._dialogue(request))

    def _dialogue(self, request: ChatRequest) -> Dialogue:
        dialogue = dialogue_of(request)
        # Templates may write numbers, too, and lists of nothing.
        others = filter(None, (*dialogue.tools, dialogue.variables))
        written = (json.dumps(one, ensure_ascii=False) for one in others)
        self._check_length(*texts_in(dialogue.messages), *written, place="messages")
        return dialogue

    @cached_property
    def _public_prefixes(self) -> list[list[int]]:
        """Beginnings of prompts that every key may know.

        They are those of the template with the task's instructions, and with each public prompt.
        """
        heads = [[], *([ChatMessage(role="system", content=one)] for one in self._public_prompts)]
        return [self._public_prefix(head) for head in heads]

    def _public_prefix(self, head: list[ChatMessage]) -> list[int]:
        prompts = []
        for text in ("a", "b"):
            chat = ChatRequest(messages=[*head, ChatMessage(role="user", content=text)])
            try:
                prompts.append(self.chat_ids(self.completed(chat)))
            except PotstillError:
                return []  # a template may refuse system prompts
        return prompts[0][: common_length(*prompts)]

    def text(self, request: CompletionRequest) -> tuple[list[list[int]], list[Request]]:
        """Return the prompts, and for each of them one engine request per choice."""
        prompts = [self.prompt_ids(prompt) for prompt in request.prompts]
        grammar = _grammar(request.grammar, request.json_schema)
        biases = self._logit_bias(request)
        return prompts, [
            self._request(
                request,
                prompt,
                choice,
                biases,
                max_new_tokens=request.max_new_tokens,
                num_top_logprobs=_text_logprobs(request),
                num_prompt_logprobs=request.logprobs if request.echo else None,
                grammar=grammar,
            )
            for prompt in prompts
            for choice in range(request.num_choices)
        ]

    def llama(self, request: LlamaCompletionRequest) -> list[Request]:
        """Return one engine request per prompt."""
        grammar = _grammar(request.grammar, request.json_schema)
        biases = self._logit_bias(request)
        return [
            self._request(
                request,
                self.prompt_ids(prompt),
                0,
                biases,
                max_new_tokens=request.max_new_tokens,
                num_top_logprobs=request.n_probs or None,
                after_sampling=bool(request.post_sampling_probs),
                grammar=grammar,
            )
            for prompt in request.prompts
        ]

    def prompt_ids(self, prompt: str | Sequence[int | str], place: str = "prompt") -> list[int]:
        """Tokenize a text, or the texts among token ids; control tokens are recognized in them.

        Args:
            place: The request's parameter that has it.

        Raises:
            InvalidRequestError: The model does not have a token.
        """
        if isinstance(prompt, str):
            text_ids = self.tokenized(prompt, place, parse_special=True)
            return [*self._model.start_tokens, *text_ids]
        self.check_ids([part for part in prompt if isinstance(part, int)], place)
        self._check_length(*(part for part in prompt if isinstance(part, str)), place=place)
        token_ids: list[int] = []
        for part in prompt:
            if isinstance(part, int):
                token_ids.append(part)
            else:
                token_ids += self.tokenized(part, place, parse_special=True)
        return token_ids

    def tokenized(self, text: str, place: str, *, parse_special: bool) -> list[int]:
        """Tokenize a text.

        Args:
            place: The request's parameter that has it.

        Raises:
            ContextLengthError: It is far too long.
        """
        self._check_length(text, place=place)
        return self._model.tokenize(text, parse_special=parse_special)

    def _check_length(self, *texts: str, place: str) -> None:
        """Refuse what cannot fit the context before any work on it."""
        most = BYTES_PER_TOKEN * self._context_tokens
        num_bytes = sum(len(text.encode(errors="replace")) for text in texts)
        if num_bytes > most:
            raise ContextLengthError(
                f"the model's context is {self._context_tokens} tokens",
                where=place,
                expected=f"at most {most} bytes of text",
                found=f"{num_bytes} bytes",
                hint="shorten the text",
            )

    def check_ids(self, token_ids: Sequence[int], place: str) -> None:
        """Refuse tokens that the model does not have, and more than a text that fits can have.

        Raises:
            ContextLengthError: They are far too many.
            InvalidRequestError: There is one that the model does not have.
        """
        most = BYTES_PER_TOKEN * self._context_tokens
        if len(token_ids) > most:
            raise ContextLengthError(
                f"the model's context is {self._context_tokens} tokens",
                where=place,
                expected=f"at most {most} token ids",
                found=len(token_ids),
            )
        for token_id in token_ids:
            if not 0 <= token_id < self._model.vocab_size:
                raise InvalidRequestError(
                    "the model does not have this token",
                    where=place,
                    expected=f"0 to {self._model.vocab_size - 1}",
                    found=token_id,
                )

    def _chat_grammar(self, request: ChatRequest) -> GrammarSource | None:
        """Return what binds a whole answer: calls that are required, else the answer's format."""
        if request.required_tools:
            return self._calls(request, request.required_tools)
        if request.answer_format is None:
            return _grammar(request.grammar, request.json_schema)
        assert request.response_format is not None
        schema = schema_of(
            request.answer_format or ANY_OBJECT,
            request.response_format.place,
            is_exact=request.is_format_exact,
        )
        if request.callable_tools:
            return self._calls(request, request.callable_tools, schema)
        return GrammarSource.of_schema(schema)

    def _calls(
        self,
        request: ChatRequest,
        tools: Sequence[Tool],
        answer: Schema | None = None,
        *,
        is_begun: bool = False,
    ) -> GrammarSource:
        """Return the grammar of calls of tools, or of what follows their opening.

        Args:
            answer: What may stand in their place.
        """
        offered = request.tools or []
        schemas = [
            schema_of(
                {"type": "object", **(tool.function.parameters or {})},
                f"tools[{offered.index(tool)}].function.parameters",
                is_exact=bool(tool.function.strict),
            )
            for tool in tools
        ]
        one_call = request.parallel_tool_calls is False or isinstance(
            request.tool_choice, NamedChoice
        )
        rules = self._prompt.tool_format.rules(
            [tool.function.name for tool in tools],
            parallel=not one_call,
            is_begun=is_begun,
            or_answer=answer is not None,
        )
        opening = "" if is_begun else self._prompt.tool_format.opening
        return GrammarSource(rules, (*schemas, *([answer] if answer else [])), opening)

    def _call_trigger(self, request: ChatRequest, prompt: Sequence[int]) -> Trigger | None:
        """Return what binds calls of tools, once one begins, where none is required."""
        if not request.callable_tools:
            return None
        tool_format = self._prompt.tool_format
        token_id = self._model.control_tokens.get(tool_format.opening)
        return Trigger(
            self._calls(request, request.callable_tools, is_begun=True),
            tool_format.marker,
            None if token_id is None else (token_id, tool_format.opening),
            self._prompt.think_format,
            is_opened=self._prompt.opens_thinking(prompt),
        )

    def _request(
        self,
        fields: SamplingFields,
        prompt: Sequence[int],
        choice: int,
        biases: Mapping[int, float],
        **more: Any,  # noqa: ANN401  (fields of a request)
    ) -> Request:
        return Request(
            prompt_token_ids=prompt,
            sampler=sampler_params(fields, choice, biases),
            stop=fields.stop_strings,
            ignore_eos=bool(fields.ignore_eos),
            **more,
        )

    def _logit_bias(self, fields: SamplingFields) -> dict[int, float]:
        texts = (key for key, _ in fields.bias_pairs if isinstance(key, str))
        self._check_length(*texts, place="logit_bias")
        biases: dict[int, float] = {}
        for key, bias in fields.bias_pairs:
            ids = [key] if isinstance(key, int) else self._model.tokenize(key, parse_special=False)
            biases.update(dict.fromkeys(ids, bias))
        return biases


def sampler_params(
    fields: SamplingFields, choice: int, logit_bias: Mapping[int, float]
) -> SamplerParams:
    """Return the engine's parameters for one of several choices.

    Args:
        choice: Its number, from 0.
        logit_bias: The request's biases by token id.
    """
    given: dict[str, Any] = {
        name: value for name in SAMPLER_FIELDS if (value := getattr(fields, name)) is not None
    }
    if given.get("top_k") == -1:
        given["top_k"] = 0
    if fields.dry_sequence_breakers is not None:
        given["dry_sequence_breakers"] = tuple(fields.dry_sequence_breakers)
    seed = None if fields.seed is None else fields.seed + choice
    return SamplerParams(seed=seed, logit_bias=logit_bias, **given)


def dialogue_of(request: ChatRequest) -> Dialogue:
    """Return the input of a chat template."""
    return Dialogue(
        messages_of(request.messages),
        () if request.tools_in_prompt is False else tools_of(request.callable_tools),
        continue_final=bool(request.continue_final_message),
        variables=request.template_variables,
    )


def messages_of(messages: Sequence[ChatMessage]) -> list[JsonObject]:
    """Return messages as templates expect them; developer messages become system messages."""
    given = []
    for message in messages:
        role = "system" if message.role == "developer" else message.role
        shown: JsonObject = {"role": role, "content": message.text}
        if message.tool_calls:
            shown["tool_calls"] = [call.model_dump() for call in message.tool_calls]
        if message.tool_call_id is not None:
            shown["tool_call_id"] = message.tool_call_id
        if message.name is not None:
            shown["name"] = message.name
        thinking = message.reasoning_content or message.reasoning
        if thinking is not None and role == "assistant":
            shown["reasoning_content"] = thinking
        given.append(shown)
    return given


def tools_of(tools: Sequence[Tool]) -> list[JsonObject]:
    """Return tools as templates expect them."""
    return [tool.model_dump(exclude_none=True) for tool in tools]


def _grammar(gbnf: str | None, schema: JsonObject | None) -> GrammarSource | None:
    """Return the requested grammar, if any; the schema {} allows any object."""
    if schema is not None:
        return GrammarSource.of_schema(schema_of(schema or ANY_OBJECT, "json_schema"))
    return None if gbnf is None else GrammarSource(gbnf)


def _text_logprobs(request: CompletionRequest) -> int | None:
    if request.logprobs is None and request.num_choices > (request.n or 1):
        return 0  # needed to choose the best
    return request.logprobs
