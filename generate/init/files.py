"""The files that `potstill init` writes: a configuration, examples, references, schema, tools.

In: a template's name, or items and what was detected in them. Out: contents by file name, and the
files, of which none is overwritten unasked.
"""

from __future__ import annotations

import re
import sqlite3
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from shlex import quote

import tomli_w

from generate.init.detect import Detected, dump_json
from generate.init.lengths import answer_lengths, counter
from potstill.errors import ConfigError
from potstill.files import disk_errors, write_text_atomically
from potstill.schema import Message
from potstill.task.answers import Item
from potstill.task.items import lines_of

CONFIG_NAME = "potstill.toml"
EXAMPLES_NAME, REFERENCES_NAME = "examples.jsonl", "references.jsonl"
SCHEMA_NAME, TOOLS_NAME = "answer_schema.json", "tools.json"
DATABASE_NAME, SCRIPT_NAME = "database.sqlite", "database.sql"
PLACE, RUN = "DIR/", "runs/NAME"
"""What paths in templates begin with, and what the run is called there."""
SHOTS = 50
"""Most examples in the teacher's prompt."""
SHOT_TOKENS = 1500
"""Most tokens of all of them together."""
INSTRUCTIONS = re.compile(r'(?ms)^instructions = (?:"""\n.*?\n"""|"[^"\n]*")')
TEACHER = re.compile(r'(?m)^\[generate\.teacher\]\nmodel = ".*"$')
FIRST_SOURCE = re.compile(r"(?ms)^\[\[generate\.prompts\.sources\]\].*?\n\n")
OF_WRITTEN_INPUTS = re.compile(
    r"(?ms)^temperature = [\d.]+  # of what the teacher writes\ntop_p = [\d.]+\n"
    r"|^\[generate\.turns\]\n.*?\n\n"
)
OF_LABELED_MESSAGES = """\
"confidence"]  # no label that the teacher doubts
student_noise = { none = 2.0, typos = 1.0, lowercase = 0.5, capitals = 0.5 }  # as people type"""
DECLINE = """\
[[generate.prompts.sources]]  # harmful requests, which the student learns to decline
kind = "decline"
answer = '''{}'''
weight = 0.2

"""
FIRST_STAGE = "\n[generate"
"""Where the settings begin that a configuration made of examples takes from a template."""

Files = dict[str, str]


def template_names() -> list[str]:
    """List the templates."""
    folders = resources.files("generate.init").joinpath("templates").iterdir()
    return sorted(folder.name for folder in folders if folder.is_dir())


def template_files(name: str, directory: Path) -> Files:
    """Return a template's files, with paths into the directory.

    Raises:
        ConfigError: There is no such template.
    """
    if name not in template_names():
        raise ConfigError(
            f"unknown template {name!r}", expected=" | ".join(template_names()), where="--template"
        )
    folder = resources.files("generate.init").joinpath("templates", name)
    files = {file.name: file.read_text(encoding="utf-8") for file in folder.iterdir()}
    files[CONFIG_NAME] = _placed(files[CONFIG_NAME], directory)
    return files


def files_like(
    detected: Detected,
    examples: Sequence[Item],
    references: Sequence[Item],
    directory: Path,
    max_tokens: int,
) -> Files:
    """Return the files of a task that examples show.

    Args:
        max_tokens: Longest answer, in tokens.
    """
    system = _shared_system([*examples, *references])
    examples, references = (_without(system, items) for items in (examples, references))
    files = {EXAMPLES_NAME: lines_of(examples)}
    if references and detected.metrics:
        files[REFERENCES_NAME] = lines_of(references)
    if detected.answer_schema is not None:
        files[SCHEMA_NAME] = dump_json(detected.answer_schema)
    if detected.tools is not None:
        files[TOOLS_NAME] = dump_json(detected.tools)
    settings = template_files(detected.template, directory)[CONFIG_NAME]
    settings = settings[settings.index(FIRST_STAGE) :]
    settings = re.sub(r"(?m)^max_tokens = \d+", f"max_tokens = {max_tokens}", settings)
    if detected.answer_schema is None and detected.template == "classify":
        settings = settings.replace("# valid JSON, whatever", "# one of the labels, whatever")
    elif detected.answer_schema is None:
        settings = re.sub(r"(?m)^structured = .*\n", "", settings)
    if detected.declining is not None:
        source = DECLINE.format(detected.declining)
        settings = FIRST_SOURCE.sub(lambda first: first[0] + source, settings, count=1)
    table = _task_table(detected, system, files, directory, _num_shots(examples))
    files[CONFIG_NAME] = table + settings
    return files


def run_path(directory: Path) -> str:
    """Return where a run of a configuration in a directory goes, as the files name it."""
    return f"runs/{directory.resolve().name}"


def with_answers(settings: str, about: str | None, teacher: str | None) -> str:
    """Return a configuration with the user's own job and teacher.

    Args:
        about: What the instructions begin with. None leaves them.
    """
    if about:
        found = INSTRUCTIONS.search(settings)
        assert found is not None, "every template has instructions"
        text = f"{about.strip()}\n{tomllib.loads(found[0])['instructions'].strip()}".strip()
        settings = settings.replace(found[0], f"instructions = {_multiline(text)}", 1)
    if teacher:
        model = f"[generate.teacher]\n{tomli_w.dumps({'model': teacher})}".rstrip()
        settings = TEACHER.sub(lambda _: model, settings, count=1)
    return settings


def with_messages(settings: str, path: str, count: int) -> str:
    """Return a configuration whose prompts are messages instead of what the teacher writes.

    Args:
        count: How many messages to take.
    """
    source = f"[[generate.prompts.sources]]\n{tomli_w.dumps({'path': path})}\n"
    settings = FIRST_SOURCE.sub(lambda _: source, OF_WRITTEN_INPUTS.sub("", settings), count=1)
    sources = tomllib.loads(settings)["generate"]["prompts"]["sources"]
    num_prompts = round(count * sum(one.get("weight", 1.0) for one in sources))
    settings = re.sub(r"(?m)^num_prompts = \d+", f"num_prompts = {num_prompts}", settings, count=1)
    return re.sub(r'"known"\].*', OF_LABELED_MESSAGES, settings)


def write_files(directory: Path, files: Mapping[str, str], *, force: bool) -> None:
    """Write files into a directory; an SQL script becomes a database.

    Raises:
        ConfigError: One exists and `force` is not given: then nothing is written.
        ArtifactError: The disk is full.
    """
    written = {DATABASE_NAME if name == SCRIPT_NAME else name: name for name in files}
    existing = [name for name in written if (directory / name).exists()]
    if existing and not force:
        raise ConfigError(
            "there are files of these names already, and nothing was written",
            where=directory,
            found=", ".join(existing),
            hint="--force replaces them; or name another directory",
        )
    with disk_errors("writing the task's files", directory):
        directory.mkdir(parents=True, exist_ok=True)
        for name, source in written.items():
            if source == SCRIPT_NAME:
                _write_database(directory / name, files[source])
            else:
                write_text_atomically(directory / name, files[source])


def _task_table(
    detected: Detected, system: str, files: Files, directory: Path, num_shots: int
) -> str:
    """Return the head of the configuration, with comments."""
    lines = [
        f"# {detected.found[:1].upper()}{detected.found[1:]}.",
        f"#   potstill run {RUN} --config {PLACE}{CONFIG_NAME}",
        "",
        "[task]",
    ]
    if not system:
        lines.append("# A draft. Describe the job: what each label or field means, and the rules.")
    lines += [
        f"instructions = {_multiline(system or _draft(detected))}",
        'student_instructions = ""  # the student learns them instead of reading them each time',
        f'examples = "{PLACE}{EXAMPLES_NAME}"',
    ]
    if REFERENCES_NAME in files:
        lines.append(f'references = "{PLACE}{REFERENCES_NAME}"  # the test: not trained on')
    if SCHEMA_NAME in files:
        lines.append(f'answer_schema = "{PLACE}{SCHEMA_NAME}"  # drawn from the answers: check it')
    if TOOLS_NAME in files:
        lines.append(f'tools = "{PLACE}{TOOLS_NAME}"  # drawn from the calls: describe each tool')
        lines.append("student_sees_tools = false  # the student learns its tools")
    lines.append(f"num_shots = {num_shots}  # examples in the teacher's prompt")
    metrics = [
        metric | ({"database": f"{PLACE}{DATABASE_NAME}"} if metric["kind"] == "sql" else {})
        for metric in detected.metrics
    ]
    if metrics:
        lines += ["", "# The first metric decides."]
        lines += [f"[[task.metrics]]\n{tomli_w.dumps(metric)}" for metric in metrics]
    return _placed("\n".join(lines).rstrip() + "\n", directory)


def _num_shots(examples: Sequence[Item]) -> int:
    """Return how many examples of mean length the teacher's prompt has room for."""
    shots = [(one.messages, one.known) for one in examples if one.known is not None]
    if not shots:
        return 0
    count = counter("")
    asked = sum(count(message.content) for messages, _ in shots for message in messages)
    tokens = asked / len(shots) + answer_lengths([known for _, known in shots], count).mean
    return max(1, min(SHOTS, len(shots), int(SHOT_TOKENS / tokens)))


def _draft(detected: Detected) -> str:
    """Return instructions that say what can be seen in the answers."""
    labels = next((one["labels"] for one in detected.metrics if "labels" in one), None)
    if detected.answer_schema is not None:
        fields = ", ".join(detected.answer_schema["properties"])
        text = f"Answer with one JSON object with the fields {fields}."
        return f"{text} Labels: {', '.join(labels)}." if labels else text
    if labels:
        return f"Answer with one of these labels and nothing else: {', '.join(labels)}."
    if any(one["kind"] == "numeric" for one in detected.metrics):
        return "Answer with one number and nothing else."
    if detected.tools is not None:
        return "Call a tool when the request asks for one; else answer in text."
    return "Answer with one SQL query and nothing else." if detected.template == "sql" else ""


def _multiline(text: str) -> str:
    """Return a TOML text of several lines."""
    escaped = text.replace("\\", "\\\\").replace('"""', '""\\"')
    return f'"""\n{escaped}\n"""'


def _placed(text: str, directory: Path) -> str:
    command = f"{quote(run_path(directory))} --config {quote(str(directory / CONFIG_NAME))}"
    text = text.replace(f"{RUN} --config {PLACE}{CONFIG_NAME}", command)
    path = directory.as_posix().replace("\\", "\\\\").replace('"', '\\"')
    return text.replace(PLACE, f"{path}/").replace(RUN, quote(run_path(directory)))


def _shared_system(items: Sequence[Item]) -> str:
    """Return the system message that all prompts begin with; empty when they differ."""
    texts = {item.messages[0].content if _has_system(item) else "" for item in items}
    return texts.pop() if len(texts) == 1 else ""


def _without(system: str, items: Sequence[Item]) -> list[Item]:
    if not system:
        return list(items)
    return [item.model_copy(update={"messages": item.messages[1:]}) for item in items]


def _has_system(item: Item) -> bool:
    first: Message = item.messages[0]
    return first.role == "system" and len(item.messages) > 1


def _write_database(path: Path, script: str) -> None:
    """Write an SQLite file, complete or not at all."""
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        temporary = Path(scratch) / path.name
        connection = sqlite3.connect(temporary)
        try:
            connection.executescript(script)
        finally:
            connection.close()
        temporary.replace(path)
