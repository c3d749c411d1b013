"""Who may speak to a coordinator that other machines reach, and that nobody listens there by accident."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import zmq

from brigade.coordinator.keys import Keys, check_exposed, make_keys
from brigade.coordinator.loop import Loop
from brigade.coordinator.messages import Look, decode_to_client, encode
from brigade.coordinator.settings import CoordinatorSettings
from brigade.errors import ConfigError
from tests.client.here import Here

LOCAL = {"--clients": "tcp://127.0.0.1:1", "--replicas": "ipc:///tmp/x"}
FAR = LOCAL | {"--operators": "tcp://0.0.0.0:3"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_keys(tmp_path / "keys")
    return tmp_path / "keys"


def test_secrets_are_their_owners_alone_and_nothing_is_written_over(folder: Path) -> None:
    secrets = sorted(folder.rglob("*.key_secret"))
    assert [str(path.relative_to(folder)) for path in secrets] == [
        "clients/default.key_secret", "coordinator.key_secret", "operators/default.key_secret", "replicas/default.key_secret",
    ]  # fmt: skip
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in secrets)
    before = {path: path.read_bytes() for path in folder.rglob("*.key*")}
    with pytest.raises(ConfigError, match="is there already"):
        make_keys(folder)
    assert [path.name for path in make_keys(folder, "second", ("clients",))] == ["second.key_secret"]
    assert all(path.read_bytes() == text for path, text in before.items())


def test_a_file_is_no_folder_of_keys(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("")
    with pytest.raises(ConfigError, match="keys is a file; name a folder"):
        make_keys(tmp_path / "keys")


def test_a_folder_that_was_handed_out_keeps_its_coordinator(folder: Path) -> None:
    public = (folder / "coordinator.key").read_bytes()
    (folder / "coordinator.key_secret").unlink()
    with pytest.raises(ConfigError, match="has the coordinator's public key alone"):
        make_keys(folder, "more", ("clients",))
    assert (folder / "coordinator.key").read_bytes() == public


@pytest.mark.parametrize("name", ["", "a/b", "..", ".x"])
def test_a_name_that_is_no_file_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="a key's name is"):
        make_keys(tmp_path, name)


def _answers(loop_address: str, keys: Keys | None, role: str, wait: int = 10_000) -> bool:
    context = zmq.Context()
    socket = context.socket(zmq.DEALER)
    try:
        if keys is not None:
            keys.join(socket, role)
        socket.connect(loop_address)
        socket.send(encode(Look()))
        return bool(socket.poll(wait)) and decode_to_client(socket.recv()).state == "running"
    finally:
        context.destroy(linger=0)


def test_only_a_known_key_of_the_role_is_heard(folder: Path, tmp_path: Path) -> None:
    make_keys(tmp_path / "foreign")
    (tmp_path / "foreign" / "coordinator.key").write_bytes((folder / "coordinator.key").read_bytes())
    here = Here(keys=Keys(folder))
    try:
        assert _answers(here.ports[0], Keys(folder), "clients")
        assert _answers(here.ports[2], Keys(folder), "operators")
        assert not _answers(here.ports[0], None, "clients", 1000)
        assert not _answers(here.ports[0], Keys(tmp_path / "foreign"), "clients", 1000)
        assert not _answers(here.ports[2], Keys(folder), "clients", 1000), "a client's key is no operator's"
    finally:
        here.close()


@pytest.mark.parametrize(
    ("addresses", "insecure", "words"),
    [
        (FAR, False, "--operators is tcp://0.0.0.0:3, which other machines reach"),
        (LOCAL, True, "insecure has no effect: nothing listens to other machines"),
        (LOCAL, False, None),
        (FAR, True, None),
    ],
)
def test_other_machines_are_heard_only_if_that_was_asked_for(addresses: dict, insecure: bool, words: str | None) -> None:
    if words is None:
        check_exposed(addresses, None, insecure)
    else:
        with pytest.raises(ConfigError, match=words):
            check_exposed(addresses, None, insecure)


def test_with_keys_any_address_is_fine_and_insecure_is_refused(folder: Path) -> None:
    check_exposed(FAR, Keys(folder), False)
    with pytest.raises(ConfigError, match="insecure has no effect with keys"):
        check_exposed(FAR, Keys(folder), True)


def test_keys_that_are_not_there_are_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no key that can be read"):
        check_exposed(FAR, Keys(tmp_path / "none"), False)
    (folder / "replicas/default.key").unlink()
    with pytest.raises(ConfigError, match="has no public key"):
        check_exposed(FAR, Keys(folder), False)
    (folder / "coordinator.key_secret").write_text("nothing")
    with pytest.raises(ConfigError, match="is no key that can be read"):
        Loop(CoordinatorSettings(), keys=Keys(folder))
    make_keys(folder, "second", ("clients",))
    with pytest.raises(ConfigError, match="must hold one secret key, and has default.key_secret, second.key_secret"):
        Keys(folder).join(zmq.Context().socket(zmq.DEALER), "clients")
