"""Models by name: what is asked of a hub and what is not, through the client library itself, and what is said when it cannot be."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest

from brigade import LLM, SamplingParams
from brigade.artifact.manifest import COPIED
from brigade.checkpoint import hub as hub_file
from brigade.checkpoint.hub import OUTDOING, SETTINGS, pinned
from brigade.checkpoint.load import EMBEDDED, ModelSource, open_model
from brigade.cli.main import main
from brigade.errors import CheckpointError
from tests.checkpoint.local_hub import LocalHub, folder_files, serving
from tests.model.tiny_models import save_tiny

NAME = "some-org/mini-1.0"
READ = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}
GREEDY = SamplingParams(max_tokens=8, temperature=0.0)
# What publishers put beside the files that are read.
BESIDE = {
    "README.md": b"# mini", "pytorch_model.bin": b"\x80pickle", "mini.Q4.gguf": b"GGUF", "consolidated.safetensors": b"again",
    "vocab.json": b"{}", "merges.txt": b"", "training.json": b"{}", ".gitattributes": b"",
}  # fmt: skip


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalHub]:
    """A hub with one model, and an empty cache."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no-token"))
    forget()
    with serving() as served:
        monkeypatch.setenv("HF_ENDPOINT", served.address)
        served.repository(NAME).commit(folder_files(EMBEDDED) | BESIDE, "main", "v1.0")
        yield served


def forget() -> None:
    """As another process would begin."""
    hub_file._commits.clear()
    hub_file._listings.clear()


def whole(name: str) -> ModelSource:
    source = open_model(name)
    source.fetch_weights()
    return source


def tiny(folder: Path, seed: int, shard: str | None = None) -> dict[str, bytes]:
    save_tiny("llama", seed, folder, shard=shard)
    return folder_files(folder)


def cached(tmp_path: Path, name: str = NAME) -> Path:
    return tmp_path / "hf/hub" / f"models--{name.replace('/', '--')}"


def refused(model: str) -> str:
    with pytest.raises(CheckpointError) as found:
        whole(model)
    assert "\n" not in str(found.value)
    return str(found.value)


# What comes, and what is asked for it


def test_a_model_by_name_says_what_its_folder_says(hub: LocalHub, capfd) -> None:
    with LLM(NAME) as named, LLM() as embedded:
        assert named.generate("def f(", GREEDY)[0].token_ids == embedded.generate("def f(", GREEDY)[0].token_ids
        assert named.name == NAME and named.sampling_defaults == embedded.sampling_defaults
    said = capfd.readouterr().err.splitlines()
    commit = hub.repository(NAME).refs["main"][:12]
    assert said[0].startswith(f"brigade: fetching the settings and tokenizer of {NAME} at {commit}: 4 files, ")
    assert said[1].startswith(f"brigade: fetching the weights of {NAME} at {commit}: 1 file, 11.4 MiB, into ")
    assert len(said) == 2, "no bar where nobody looks at a terminal"


def test_only_the_files_that_are_read_are_asked_for(hub: LocalHub) -> None:
    whole(NAME)
    assert sorted(hub.fetched()) == sorted(READ | {"model.safetensors"})
    assert {line.rpartition("/")[2] for line in hub.asked if "/resolve/" in line} == READ | {"model.safetensors"}
    assert hub.listings() == 1


def test_what_is_fetched_is_all_that_is_ever_read() -> None:
    """The list that an artifact copies is the same one."""
    assert {*SETTINGS, *(file for first, others in OUTDOING for file in (first, *others))} == set(COPIED)


def test_a_tokenizer_in_loose_files_comes_with_all_of_them(hub: LocalHub) -> None:
    names = ("vocab.json", "merges.txt", "added_tokens.json", "chat_template.json")
    loose = {name: b'{"%d": 0}' % number for number, name in enumerate(names)}  # the cache keeps equal files once
    loose |= {"config.json": folder_files(EMBEDDED)["config.json"]}
    hub.repository("org/loose").commit(loose, "main")
    open_model("org/loose")
    assert sorted(hub.fetched()) == sorted(loose)


def test_weights_come_only_for_those_who_read_them(hub: LocalHub, capsys) -> None:
    assert main(["inspect", NAME]) == 0
    assert set(hub.fetched()) == READ
    assert capsys.readouterr().out.startswith(f"{NAME} (llama): 5,9")


def test_a_layout_that_cannot_be_is_refused_before_the_weights_come(hub: LocalHub, capsys) -> None:
    assert main(["generate", "x", "--model", NAME, "--kv-memory", "5"]) == 2
    assert set(hub.fetched()) == READ


def test_a_family_that_is_not_known_is_refused_before_the_weights_come(hub: LocalHub, tmp_path: Path) -> None:
    hub.repository("org/other").commit({"config.json": b'{"model_type": "mamba"}', "model.safetensors": b"x" * 100}, "main")
    assert "'mamba'" in refused("org/other")
    assert hub.fetched() == ["config.json"]


def test_of_several_files_of_weights_those_of_the_index(hub: LocalHub, tmp_path: Path, capfd) -> None:
    files = tiny(tmp_path / "t", 0, shard="20KB")
    shards = sorted(name for name in files if name.startswith("model-"))
    assert len(shards) > 2
    hub.repository("org/shards").commit(files | {"model.safetensors": b"an older copy"}, "main")
    whole("org/shards")
    assert sorted(name for name in hub.fetched() if name.startswith("model")) == [*shards, "model.safetensors.index.json"]
    assert f"brigade: fetching {shards[1]}, 2 of {len(shards)}\n" in capfd.readouterr().err
    with LLM("org/shards") as named, LLM(tmp_path / "t") as local:
        assert named.generate([[1, 2, 3]], GREEDY)[0].token_ids == local.generate([[1, 2, 3]], GREEDY)[0].token_ids


def test_the_same_process_asks_once(hub: LocalHub) -> None:
    whole(NAME)
    asked = list(hub.asked)
    hub.repository(NAME).commit({"config.json": b"{}"}, "main")  # a branch that moves does not give one run two models
    whole(NAME)
    assert hub.asked == asked


def test_the_next_process_asks_for_the_revision_alone(hub: LocalHub) -> None:
    whole(NAME)
    forget()
    hub.asked.clear()
    whole(NAME)
    assert hub.asked == [f"GET /api/models/{NAME}/revision/main"]


def test_a_commit_that_is_in_the_cache_is_opened_without_a_request(hub: LocalHub) -> None:
    name = whole(NAME).snapshot.pinned
    forget()
    hub.asked.clear()
    assert whole(name).path == whole(NAME + "@v1.0").path
    assert hub.asked == [f"GET /api/models/{NAME}/revision/v1.0"]


def test_what_another_client_has_put_there_is_not_fetched_again(hub: LocalHub, tmp_path: Path) -> None:
    huggingface_hub.hf_hub_download(NAME, "model.safetensors", endpoint=hub.address, cache_dir=tmp_path / "hf/hub")
    hub.asked.clear()
    whole(NAME)
    assert set(hub.fetched()) == READ


def test_another_client_finds_what_was_fetched(hub: LocalHub, tmp_path: Path) -> None:
    source = whole(NAME)
    found = huggingface_hub.try_to_load_from_cache(NAME, "model.safetensors", cache_dir=tmp_path / "hf/hub")
    assert Path(str(found)) == source.path / "model.safetensors"
    absent = huggingface_hub.try_to_load_from_cache(NAME, "chat_template.jinja", cache_dir=tmp_path / "hf/hub")
    assert absent is huggingface_hub._CACHED_NO_EXIST


# Which model a name is


@pytest.mark.parametrize("revision", ["", "@main", "@v1.0", "@old", "@refs/pr/1", "@COMMIT"])
def test_a_branch_a_tag_and_a_commit(revision: str, hub: LocalHub, tmp_path: Path) -> None:
    repository = hub.repository("org/model")
    commits = {seed: repository.commit(tiny(tmp_path / str(seed), seed), *refs) for seed, refs in enumerate(
        [("old", "v1.0"), ("refs/pr/1",), ("main",)])}  # fmt: skip
    wanted = {"@v1.0": 0, "@old": 0, "@refs/pr/1": 1, "@COMMIT": 1}.get(revision, 2)
    source = whole("org/model" + revision.replace("COMMIT", commits[1]))
    assert source.name == "org/model"
    assert folder_files(source.path) == folder_files(tmp_path / str(wanted))


def test_a_folder_of_that_name_wins(hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny(tmp_path / NAME, 0)
    monkeypatch.chdir(tmp_path)
    assert open_model(NAME).snapshot is None and hub.asked == []
    assert pinned(NAME) == f"./{NAME}", "where the folder is not, it is no model of the hub either"
    assert open_model(f"{NAME}@main").snapshot is not None, "a folder has no revisions"


@pytest.mark.parametrize(
    "text", ["no-such-model", "./org/name", "/org/name", "../org/name", "a/b/c", "org/", "org name/x", "x@main"]
)
def test_what_is_written_otherwise_is_no_name_of_the_hub(text: str, hub: LocalHub) -> None:
    assert "models of the hub as org/name" in refused(text)
    assert hub.asked == []


def test_a_path_object_is_a_path(hub: LocalHub) -> None:
    with pytest.raises(CheckpointError, match="neither a folder nor a recipe"):
        open_model(Path(NAME))
    assert hub.asked == []


@pytest.mark.parametrize("revision", ["", "../../x", "a b", "-x", "x\n"])
def test_a_revision_that_cannot_be_one(revision: str, hub: LocalHub) -> None:
    assert "names no revision behind @" in refused(f"{NAME}@{revision}")
    assert hub.asked == []


def test_a_branch_that_moved_is_fetched_anew_by_the_next_process(hub: LocalHub, tmp_path: Path) -> None:
    first = whole(NAME)
    hub.repository(NAME).commit(tiny(tmp_path / "t", 0), "main")
    forget()
    second = whole(NAME)
    assert second.path != first.path and folder_files(second.path) == folder_files(tmp_path / "t")


@pytest.mark.parametrize("first_done", ["older", "newer"])
def test_who_asked_earlier_does_not_set_a_branch_back(hub: LocalHub, tmp_path: Path, first_done: str) -> None:
    """Of two processes, one of which looked the branch up before it moved: whichever is done first."""
    older = open_model(NAME)
    commit = hub.repository(NAME).commit(tiny(tmp_path / "t", 0), "main")
    forget()
    newer = open_model(NAME)
    for source in (older, newer) if first_done == "older" else (newer, older):
        source.fetch_weights()
    assert (cached(tmp_path) / "refs/main").read_text() == commit


def test_who_did_not_ask_leaves_a_branch_where_it_is(hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole(NAME)
    forget()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    offline = open_model(NAME)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    commit = hub.repository(NAME).commit(tiny(tmp_path / "t", 0), "main")
    forget()
    whole(NAME)
    offline.fetch_weights()
    assert (cached(tmp_path) / "refs/main").read_text() == commit


def test_all_ranks_have_the_commit_of_the_leader(hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The branch moves when the leader has looked it up and the other rank has not begun."""
    from brigade.assembly import assemble

    start = assemble.start_ranks

    def move_and_start(*given, **how):
        hub.repository(NAME).commit(tiny(tmp_path / "t", 0), "main")
        return start(*given, **how)

    monkeypatch.setattr(assemble, "start_ranks", move_and_start)
    with LLM(NAME, tp=2, kv_blocks=8, backend="reference") as named:
        answer = named.generate("def f(", GREEDY)[0].token_ids
    with LLM(kv_blocks=8, backend="reference") as embedded:
        assert answer == embedded.generate("def f(", GREEDY)[0].token_ids
    assert sorted(hub.fetched()) == sorted(READ | {"model.safetensors"}), "one of the ranks downloads"
    assert hub.listings() == 1, "the other one knows from the cache what there is"


def test_replicas_are_started_with_a_commit(hub: LocalHub) -> None:
    from brigade.cli.coordinator import replica_settings
    from brigade.cli.main import make_parser

    args = make_parser("coordinator").parse_args(["coordinator", "--dp", "2", "--model", NAME])
    commit = hub.repository(NAME).refs["main"]
    assert [one["model"] for one in replica_settings(args)] == [f"{NAME}@{commit}"] * 2


# Without the hub


@pytest.mark.parametrize("way", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "no network", "status 503"])
def test_offline_the_cache_is_enough(way: str, hub: LocalHub, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    online = whole(NAME)
    forget()
    hub.asked.clear()
    capsys.readouterr()
    away(way, hub, monkeypatch)
    assert whole(NAME).path == online.path == whole(f"{NAME}@{online.snapshot.commit}").path
    said = capsys.readouterr().err
    if "OFFLINE" in way:
        assert hub.asked == [] and said == ""
    else:
        assert said.count("\n") == 1 and f"{NAME} is {online.snapshot.commit[:12]}, as the cache has it" in said


def away(way: str, hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "no network":  # the cache does not ask whose it was
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    elif way == "status 503":
        hub.failing = 503
    else:
        monkeypatch.setenv(way, "1")


def test_offline_a_branch_is_where_its_weights_are(hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It moved, and somebody has looked at the new commit without its weights."""
    online = whole(NAME)
    hub.repository(NAME).commit(tiny(tmp_path / "t", 0), "main")
    forget()
    assert open_model(NAME).path != online.path
    forget()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert whole(NAME).path == online.path


def test_offline_what_another_client_has_fetched_is_enough(hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in (*READ, "model.safetensors"):
        huggingface_hub.hf_hub_download(NAME, file, endpoint=hub.address, cache_dir=tmp_path / "hf/hub")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub.asked.clear()
    assert open_model(NAME).tokenizer_path is not None and whole(NAME).snapshot is not None
    assert hub.asked == []


def test_offline_and_not_in_the_cache(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in (NAME, f"{NAME}@v1.0", f"{NAME}@{'0' * 40}"):
        assert f"HF_HUB_OFFLINE forbids to ask {hub.address}; unset it once, or give a folder" in refused(name)
    assert hub.asked == []


def test_no_network_and_not_in_the_cache(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    away("no network", hub, monkeypatch)
    for name in (NAME, f"{NAME}@{'0' * 40}"):
        assert "http://127.0.0.1:9 cannot be asked; check the network and HF_ENDPOINT" in refused(name)


def test_offline_with_the_settings_alone(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    open_model(NAME)
    forget()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert open_model(NAME).config.num_layers == 7
    assert "has no model.safetensors of some-org/mini-1.0 at " in refused(NAME)


# What goes wrong


def without(*endings: str) -> dict[str, bytes]:
    return {name: data for name, data in (folder_files(EMBEDDED) | BESIDE).items() if not name.endswith(endings)}


WRONG = {
    "unknown name": ("nobody/nothing", "no model 'nobody/nothing': there is no such folder, and http://"),
    "a name that cannot be": ("org/a--b", "no model 'org/a--b'"),
    "unknown revision": (f"{NAME}@v9", f"{NAME} has no revision 'v9'; write a branch, a tag or a commit behind @, or drop it"),
    "unknown commit": (f"{NAME}@{'0' * 40}", f"{NAME} has no revision '{'0' * 40}'"),
    "gated": ("org/gated", "org/gated is gated: accept its terms at http://"),
    "private": ("org/private", "set HF_TOKEN to a token that may read it"),
    "pickles alone": ("org/pickles", "nor model.safetensors, only GGUF files, pickles; name a model in the format of transformers"),
    "safetensors of other names": ("org/consolidated", "nor model.safetensors, only safetensors of other names; name"),
    "no config.json": ("org/gguf", "has no config.json, only GGUF files; name a model in the format of transformers"),
    "nothing": ("org/empty", "has no config.json, and no weights that are known here"),
    "an index without its files": ("org/torn", "lacks model-2.safetensors, which its model.safetensors.index.json names"),
    "an index that is none": ("org/index", "model.safetensors.index.json is corrupt"),
    "an index that leads elsewhere": ("org/escape", "which is no file's name"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_refused_in_one_line_with_the_remedy(case: str, hub: LocalHub) -> None:
    config, index = {"config.json": folder_files(EMBEDDED)["config.json"]}, "model.safetensors.index.json"
    for name, files in {
        "gated": without(), "private": without(), "pickles": without(".safetensors"), "gguf": {"m.gguf": b"GGUF"},
        "consolidated": config | {"consolidated.safetensors": b""}, "empty": {"README.md": b""},
        "torn": config | {index: b'{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}',
                          "model-1.safetensors": b""},
        "index": config | {index: b"{"}, "escape": config | {index: b'{"weight_map": {"a": "../../x.safetensors"}}'},
    }.items():  # fmt: skip
        hub.repository(f"org/{name}").commit(files, "main")
        hub.repository(f"org/{name}").gate = name
    model, words = WRONG[case]
    assert words in refused(model)


@pytest.mark.parametrize("gate", ["gated", "private"])
def test_a_token_opens_what_is_not_for_everybody(gate: str, hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repository(NAME).gate = gate
    monkeypatch.setenv("HF_TOKEN", "wrong")
    assert "(status 401); set HF_TOKEN to a token that is valid" in refused(NAME)
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert whole(NAME).snapshot is not None


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_download_that_breaks_off_goes_on(name: str, hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the library waits a second between two tries
    hub.breaks[name], files = 2, folder_files(EMBEDDED)
    assert folder_files(whole(NAME).path) == {file: files[file] for file in (*READ, "model.safetensors")}
    assert hub.fetched().count(name) == 3
    if len(files[name]) > 10 << 20:  # of which the library writes each as it comes
        assert hub.ranges == [f"{name} bytes={10 << 20}-"] * 2, "what came is not asked for again"


def test_one_that_never_ends_is_refused_and_the_next_attempt_keeps_what_is_whole(
    hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, real, calls = tiny(tmp_path / "t", 0, shard="20KB"), huggingface_hub.hf_hub_download, []
    hub.repository("org/shards").commit(files, "main")
    first, broken, *_ = sorted(name for name in files if name.startswith("model-"))

    def download(repo: str, file: str, **given):
        if file == broken and len(calls) < hub_file.TRIES:
            calls.append(file)
            raise ConnectionResetError("broken off")
        return real(repo, file, **given)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert "(ConnectionResetError: broken off); check the network and try again: files that are whole" in refused("org/shards")
    forget()
    assert folder_files(whole("org/shards").path) == files
    assert hub.fetched().count(first) == 1


FULL = "make room, or set HF_HOME to a folder on another disk"
DISK = {
    "full": (OSError(errno.ENOSPC, "No space left on device"), "is full: some-org/mini-1.0 could not be written; " + FULL),
    "over a quota": (OSError(errno.EDQUOT, "Disk quota exceeded"), FULL),
    "read-only": (OSError(errno.EROFS, "Read-only file system"), "cannot be written (OSError: [Errno 30] Read-only file system"),
    "another's": (PermissionError(errno.EACCES, "Permission denied"), "set HF_HOME to a folder that can"),
}


@pytest.mark.parametrize("case", DISK)
def test_a_disk_that_takes_nothing_is_said_at_once(case: str, hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    error, words = DISK[case]
    calls = []

    def download(*given, **named):
        calls.append(given)
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert words in refused(NAME)
    assert len(calls) == 1, "it will take nothing at the next try either"


def test_a_disk_that_is_too_small_is_refused_before_the_download(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    open_model(NAME)
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=5 << 20))
    said = refused(NAME)
    assert "needs 11.4 MiB more on the disk of" in said and "which has 5.0 MiB left; " + FULL in said
    assert "model.safetensors" not in hub.fetched()


@pytest.mark.filterwarnings("ignore:Not enough free disk space")  # by the library, which counts the whole file
def test_room_is_needed_for_what_is_still_to_come_alone(hub: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rest of a file that another process is fetching; not the rest of one that nobody goes on with."""
    open_model(NAME)
    weights, usage = folder_files(EMBEDDED)["model.safetensors"], shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=5 << 20))
    blob = cached(tmp_path) / "blobs" / hashlib.sha256(weights).hexdigest()
    part = blob.with_name(f"{blob.name}.0123abcd.incomplete")
    part.write_bytes(weights[: 9 << 20])
    os.utime(part, (1e9, 1e9))
    assert "needs 11.4 MiB more" in refused(NAME)
    part.touch()
    whole(NAME)


def test_no_room_is_needed_for_what_the_cache_has_of_another_commit(hub: LocalHub, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    whole(NAME)
    hub.repository(NAME).commit(folder_files(EMBEDDED) | {"README.md": b"another"}, "main")
    forget()
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=0))
    capfd.readouterr()
    assert folder_files(whole(NAME).path)["model.safetensors"] == folder_files(EMBEDDED)["model.safetensors"]
    assert hub.fetched().count("model.safetensors") == 1 and "fetching" not in capfd.readouterr().err


# Several processes, and the command line

OPEN = "import sys; from brigade.checkpoint.load import open_model; open_model(sys.argv[1]).fetch_weights()"


def test_of_two_processes_at_once_one_downloads(hub: LocalHub, tmp_path: Path) -> None:
    hub.pause = 0.3
    command = [sys.executable, "-c", OPEN, NAME]
    both = [subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    for one in both:
        assert one.communicate(timeout=120)[1].count("fetching the weights") == 1 and one.returncode == 0
    assert sorted(hub.fetched()) == sorted(READ | {"model.safetensors"})
    assert (whole(NAME).path / "model.safetensors").read_bytes() == (EMBEDDED / "model.safetensors").read_bytes()


def test_the_client_library_is_imported_for_a_name_alone() -> None:
    code = "import sys; from brigade.checkpoint.load import open_model; open_model(); open_model('gpt-345m')\n"
    code += "import brigade.api.llm, brigade.cli.coordinator; sys.exit('huggingface_hub' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0


def test_the_command_line_takes_a_name_and_says_one_line_of_what_is_wrong(hub: LocalHub, capsys) -> None:
    ask = ["generate", "def f(", "--temperature", "0", "--max-tokens", "4", "--kv-blocks", "8"]
    assert main([*ask, "--model", NAME]) == 0
    named = capsys.readouterr().out
    assert main(ask) == 0 and capsys.readouterr().out == named
    assert main([*ask, "--model", f"{NAME}@v9"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and said[0].startswith(f"brigade: error: {NAME} has no revision 'v9'")


def test_an_export_of_a_name(hub: LocalHub, tmp_path: Path, capsys) -> None:
    assert main(["export", NAME, str(tmp_path / "out")]) == 0
    assert open_model(tmp_path / "out").artifact.manifest.name == NAME
    assert (tmp_path / "out/tokenizer.json").read_bytes() == (EMBEDDED / "tokenizer.json").read_bytes()


def test_no_output_goes_into_the_cache(hub: LocalHub, capsys) -> None:
    folder = whole(NAME).path
    assert main(["generate", "x", "--model", NAME, "--json", str(folder / "config.json")]) == 2
    assert "which is read; choose another place" in capsys.readouterr().err
