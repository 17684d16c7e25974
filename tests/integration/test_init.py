"""`potstill init` as a user types it, up to the cost of the run."""

import subprocess
import sys


def potstill(*arguments, cwd):
    command = [sys.executable, "-m", "potstill", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_a_directory_is_written_and_its_run_is_planned(tmp_path, teacher_dir):
    made = potstill("init", "home", "--template", "tools", cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    assert "5 examples, 3 references" in made.stdout
    assert "wrote home/potstill.toml" in made.stdout
    command = "potstill run runs/home --config home/potstill.toml"
    assert made.stdout.endswith(f"next: edit home/potstill.toml, then {command}\n")
    assert f"#   {command}\n" in (tmp_path / "home" / "potstill.toml").read_text()
    settings = [
        f"--set={key}={teacher_dir}"
        for key in ("generate.teacher.model", "train.student.checkpoint")
    ]
    plan = ["runs/home", "--config", "home/potstill.toml", *settings, "--dry-run"]
    planned = potstill("run", *plan, cwd=tmp_path)
    assert planned.returncode == 0, planned.stderr
    for stage in ("generate", "train", "quantize", "compare", "total"):
        assert stage in planned.stdout
    again = potstill("init", "home", cwd=tmp_path)
    assert again.returncode != 0
    assert "nothing was written" in again.stderr
