import yaml

from potstill.facts.gguf import GgufFacts
from potstill.task.stage import TASK_NAME
from potstill.task.task import Task
from quantize.delivery.model_yaml import model_yaml
from tests.fixtures.facts import task_facts


def test_the_student_is_described_with_its_place(judged_run):
    run = judged_run()
    file = run.facts(GgufFacts).recommended_file
    found = yaml.safe_load(model_yaml(run, "ann/small-1"))
    source = {"type": "huggingface", "user": "ann", "repo": "small-1"}
    assert found["model"] == "ann/small-1"
    assert found["base"] == [{"key": "ann/small-1", "sources": [source]}]
    about = found["metadataOverrides"]
    assert about["minMemoryUsageBytes"] == file.peak_memory_bytes
    assert about["architectures"] == ["llama"]
    assert about["contextLengths"][0] > 0
    assert "config" not in found


def test_the_instructions_that_the_student_was_trained_under_go_along(judged_run):
    run = judged_run()
    session = run.open_stage("task", {})
    task = Task(instructions="Long.", student_instructions='Say "yes": or\n- no.')
    (session.dir / TASK_NAME).write_text(task.model_dump_json())
    session.finish(facts=task_facts())
    (field,) = yaml.safe_load(model_yaml(run, "ann/a"))["config"]["operation"]["fields"]
    assert field == {"key": "llm.prediction.systemPrompt", "value": task.student_instructions}
