from train.trainer import WHOLE_NAME, newest_whole_state


def state(directory, step, whole):
    path = directory / f"checkpoint-{step}"
    path.mkdir()
    (path / "model.safetensors").write_bytes(b"weights")
    if whole:
        (path / WHOLE_NAME).touch()
    return path


def test_only_whole_states_count(tmp_path):
    state(tmp_path, 90, whole=True)
    newest = state(tmp_path, 100, whole=True)
    state(tmp_path, 110, whole=False)
    assert newest_whole_state(tmp_path) == newest
    assert list(tmp_path.iterdir()) == [newest]


def test_without_a_whole_state_training_begins_anew(tmp_path):
    state(tmp_path, 10, whole=False)
    assert newest_whole_state(tmp_path) is None
    assert newest_whole_state(tmp_path / "absent") is None
    assert list(tmp_path.iterdir()) == []
