import json

import pytest
from huggingface_hub import constants
from typer.testing import CliRunner

from potstill.cli import app
from potstill.errors import ArtifactError, ConfigError
from potstill.facts.memorization import Completions, Memorization, Share
from potstill.lineage import lineage_of_run, read_lineage
from potstill.rundir import RunDirectory
from quantize.delivery.push import UNMEASURED, prepare, push
from tests.fixtures.hub import hub

PUBLISHED = {"README.md", "Modelfile", "lineage.json", "student.imatrix.gguf"} | {
    "student-F16.gguf", "student-Q8_0.gguf"
}  # fmt: skip


@pytest.fixture(params=["xet", "lfs"])
def own_hub(request, monkeypatch, tmp_path):
    """A hub on loopback that the real client is sent to, with hf_xet and without."""
    with hub() as running:
        monkeypatch.setenv("HF_XET_CACHE", str(tmp_path / "xet"))
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", request.param == "lfs")
        yield running


def published(shipment, **options):
    return push(shipment, **{"private": True} | options)


def test_a_student_goes_to_the_hub_with_its_verdict_and_no_teacher(judged_run, own_hub, tmp_path):
    run = judged_run()
    url = published(prepare(run, "ann/small-1"))
    assert url.startswith(f"{own_hub.url}/ann/small-1/commit/")
    (created,) = own_hub.created
    assert (created["organization"], created["name"]) == ("ann", "small-1")
    assert created["visibility"] == "private"
    assert {path.removeprefix("ann/small-1/") for path in own_hub.files} == {
        *PUBLISHED,
        "model.yaml",
    }
    (tmp_path / "got.gguf").write_bytes(own_hub.files["ann/small-1/student-Q8_0.gguf"])
    assert read_lineage(tmp_path / "got.gguf") == lineage_of_run(run)
    assert json.loads(own_hub.files["ann/small-1/lineage.json"])["verdict"]["outcome"] == "PASS"
    assert not list(run.root.glob(".push-*"))


def test_files_go_by_xet_where_the_client_has_it(judged_run, own_hub, request):
    published(prepare(judged_run(), "ann/small-1"))
    by_xet = request.node.callspec.params["own_hub"] == "xet"
    assert len(own_hub.xet.files) == (2 if by_xet else 0)
    assert len(own_hub.blobs) == (0 if by_xet else 2)


def test_a_hub_that_refuses_is_one_clear_error(judged_run, own_hub):
    run = judged_run()
    own_hub.refuses = 403
    with pytest.raises(ArtifactError, match="the hub did not take the student") as caught:
        published(prepare(run, "ann/small-1"))
    assert "403" in caught.value.found
    assert not list(run.root.glob(".push-*"))


@pytest.mark.parametrize("own_hub", ["xet"], indirect=True)
def test_a_hub_without_storage_for_xet_has_a_hint(judged_run, own_hub, monkeypatch):
    monkeypatch.setattr("tests.fixtures.hub.TOKEN", "no such page")
    with pytest.raises(ArtifactError) as caught:
        published(prepare(judged_run(), "ann/small-1"))
    assert "404" in caught.value.found
    assert "HF_HUB_DISABLE_XET=1" in caught.value.hint
    assert not own_hub.files


def test_a_directory_gets_the_same_files(judged_run, tmp_path):
    published(prepare(judged_run(), str(tmp_path / "there")))
    assert {path.name for path in (tmp_path / "there").iterdir()} == PUBLISHED


@pytest.mark.parametrize("to", ["small", "a/b/c", "ann/", "https://hub/ann/small"])
def test_another_place_is_refused_before_the_run_is_read(tmp_path, to):
    with pytest.raises(ConfigError, match="not a place to push to"):
        prepare(RunDirectory(tmp_path), to)


def test_a_dry_run_lists_what_would_go_and_what_forbids_it(judged_run):
    run = judged_run(license="cc-by-nc-nd-4.0")
    found = CliRunner().invoke(app, ["push", str(run.root), "--to", "ann/a", "--dry-run"])
    assert isinstance(found.exception, ConfigError)
    names = {line.split("  ")[0] for line in found.stdout.splitlines() if "bytes" in line}
    assert names == {*PUBLISHED, "model.yaml"}
    assert "refused: teacher acme/teacher: license: cc-by-nc-nd-4.0" in found.stdout


def test_a_dry_run_ends_as_the_upload_would(judged_run):
    run = judged_run(license=None)
    command = ["push", str(run.root), "--to", "ann/a", "--dry-run"]
    refused = CliRunner().invoke(app, command)
    assert isinstance(refused.exception, ConfigError)
    assert "refused: teacher acme/teacher: license: not stated" in refused.stdout
    assert "--license-checked" in refused.exception.hint
    checked = CliRunner().invoke(app, [*command, "--license-checked"])
    assert checked.exit_code == 0
    assert "checked: teacher acme/teacher: license: not stated" in checked.stdout
    assert "refused" not in checked.stdout


@pytest.mark.parametrize("checked", [(), ("license", "memorization")])
def test_a_license_that_forbids_it_is_never_overruled(judged_run, tmp_path, checked):
    shipment = prepare(judged_run(license="cc-by-nd-4.0"), str(tmp_path / "there"))
    with pytest.raises(ConfigError, match="may not be published"):
        published(shipment, checked=checked)
    assert not (tmp_path / "there").exists()


def test_a_license_that_is_not_stated_is_the_users_to_check(judged_run, tmp_path):
    shipment = prepare(judged_run(license=None), str(tmp_path / "there"))
    with pytest.raises(ConfigError, match="not stated") as caught:
        published(shipment)
    assert "--license-checked" in caught.value.hint
    published(shipment, checked=["license"])
    assert (tmp_path / "there" / "README.md").is_file()


def memorized(surplus):
    share = Share(value=surplus, lower=0.0, upper=0.5)
    return Memorization(
        min_tokens=20,
        num_distinct=90,
        trained=Completions(num_answers=50, share=share),
        surplus=share,
    )


def test_the_card_says_what_was_memorized(judged_run, tmp_path):
    found = memorized(0.02)
    published(prepare(judged_run(memorization=found), str(tmp_path / "there")))
    card = (tmp_path / "there" / "README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0\n---\n")
    assert "\n## Memorization\n\n" + "\n".join(found.sentences) in card


def test_what_was_not_measured_is_said_and_not_refused(judged_run, tmp_path, caplog):
    shipment = prepare(judged_run(), str(tmp_path / "there"))
    assert UNMEASURED in shipment.lines()
    published(shipment)
    assert UNMEASURED in caplog.text
    assert "Not measured." in (tmp_path / "there" / "README.md").read_text()


def test_too_much_that_was_memorized_is_the_users_to_check(judged_run, tmp_path):
    run, there = judged_run(memorization=memorized(0.06)), tmp_path / "there"
    with pytest.raises(ConfigError, match="surplus of 6%; at most 5%") as caught:
        published(prepare(run, str(there)))
    assert caught.value.hint == "check it and give --memorization-checked"
    assert not there.exists()
    command = ["push", str(run.root), "--to", str(there), "--memorization-checked"]
    assert CliRunner().invoke(app, command).exit_code == 0
    assert (there / "README.md").is_file()


def test_two_refusals_name_both_options(judged_run, tmp_path):
    shipment = prepare(
        judged_run(license=None, memorization=memorized(1.0)), str(tmp_path / "there")
    )
    with pytest.raises(ConfigError) as caught:
        published(shipment)
    assert caught.value.hint == "check it and give --license-checked --memorization-checked"
