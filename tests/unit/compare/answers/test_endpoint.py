import tomllib

from compare.answers.endpoint import serve_command


def test_serve_command_overrides_are_toml(tmp_path):
    command = serve_command(tmp_path, dict.fromkeys(["student-Q8_0", "teacher-F16"]), 8123, 512)
    assert command[1:5] == ["-m", "potstill", "serve", str(tmp_path)]
    assert '--set=serve.models=["student-Q8_0", "teacher-F16"]' in command
    assert "--set=serve.port=8123" in command
    assert "--set=serve.paths={}" in command


def test_a_file_of_elsewhere_is_served_by_its_path(tmp_path):
    path = tmp_path / 'a "name".gguf'
    command = serve_command(tmp_path, {"student-Q8_0": None, "untrained": path}, 8123, 512)
    assert '--set=serve.models=["student-Q8_0"]' in command
    (paths,) = (one.split("=", 2)[2] for one in command if one.startswith("--set=serve.paths="))
    assert tomllib.loads(f"paths = {paths}") == {"paths": {"untrained": str(path)}}
