"""Who may speak to a coordinator: CURVE keys, in a folder that is handed out in parts.

    coordinator.key          everybody needs it: it says that this is the coordinator
    coordinator.key_secret   the coordinator's alone
    clients/NAME.key         who may ask; the coordinator reads all of them when it starts
    clients/NAME.key_secret  that client's alone
    replicas/, operators/    the same for those who compute, and for those who may pause, drain and stop

What goes over the wire is encrypted, and who has no key that the coordinator knows is not heard. Without keys a coordinator listens
to this machine alone.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import zmq
import zmq.auth

from brigade.errors import ConfigError

Role = Literal["clients", "replicas", "operators"]
ROLES: tuple[Role, ...] = ("clients", "replicas", "operators")
SERVER = "coordinator"
LOCAL = ("tcp://127.", "tcp://localhost:", "tcp://[::1]:", "ipc://", "inproc://")


def make_keys(folder: Path, name: str = "default", roles: tuple[Role, ...] = ROLES) -> list[Path]:
    """The coordinator's pair, unless it is there, and a pair of this name for each role. Returns the secret files; nothing that is
    there is written over."""
    if not name or name != Path(name).name or name.startswith("."):
        raise ConfigError(f"a key's name is {name!r}; give a plain file name, such as default")
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file; name a folder for the keys, which is made if it is not there")
    for role in roles:
        found = folder / role / f"{name}.key"
        if found.exists():
            raise ConfigError(f"{found} is there already; choose another name, or remove it with its secret")
    has_public, has_secret = ((folder / f"{SERVER}.{kind}").exists() for kind in ("key", "key_secret"))
    if has_public and not has_secret:
        raise ConfigError(
            f"{folder} has the coordinator's public key alone: it is for connecting; make keys in the coordinator's folder"
        )
    made = [] if has_secret else [_pair(folder, SERVER)]
    return made + [_pair(folder / role, name) for role in roles]


def _pair(folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    before = os.umask(0o077)  # others can never read a secret, not even briefly
    try:
        _, secret = zmq.auth.create_certificates(folder, name)
    finally:
        os.umask(before)
    return Path(secret)


@dataclass(frozen=True)
class Keys:
    """A folder of keys, as one of them uses it."""

    folder: Path

    def serve(self, socket: zmq.Socket, role: Role) -> None:
        """The coordinator's socket for those of a role. Who is heard there is for the authenticator of `Loop` to say: it finds
        their public keys by the domain, which is the role."""
        public, secret = _load(self.folder / f"{SERVER}.key_secret")
        socket.curve_publickey, socket.curve_secretkey, socket.curve_server = public, secret, True
        socket.zap_domain = role.encode()

    def join(self, socket: zmq.Socket, role: Role) -> None:
        """A socket that connects to the coordinator as one of a role."""
        found = sorted((self.folder / role).glob("*.key_secret"))
        if len(found) != 1:
            names = ", ".join(path.name for path in found) or "none"
            raise ConfigError(
                f"{self.folder / role} must hold one secret key, and has {names}; leave one there, or make one with `brigade keys`"
            )
        socket.curve_publickey, socket.curve_secretkey = _load(found[0])
        socket.curve_serverkey, _ = _load(self.folder / f"{SERVER}.key", needs_secret=False)

    def check(self) -> None:
        _load(self.folder / f"{SERVER}.key_secret")
        for role in ROLES:
            if not any((self.folder / role).glob("*.key")):
                raise ConfigError(f"{self.folder / role} has no public key, so no one of them could speak; run `brigade keys`")


def _load(path: Path, needs_secret: bool = True) -> tuple[bytes, bytes]:
    try:
        public, secret = zmq.auth.load_certificate(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is no key that can be read ({error}); make keys with `brigade keys FOLDER`") from error
    if needs_secret and secret is None:
        raise ConfigError(f"{path} holds no secret key; make keys with `brigade keys FOLDER`")
    return public, secret or b""


def check_exposed(addresses: dict[str, str], keys: Keys | None, insecure: bool) -> None:
    """Refuse to listen to other machines without keys, unless that was asked for in words."""
    if keys is not None:
        if insecure:
            raise ConfigError("insecure has no effect with keys; drop one of them")
        return keys.check()
    far = {name: address for name, address in addresses.items() if not address.startswith(LOCAL)}
    if far and not insecure:
        name, address = next(iter(far.items()))
        raise ConfigError(
            f"{name} is {address}, which other machines reach, and anybody there could ask, compute or stop; give --keys FOLDER, "
            "listen on 127.0.0.1, or say --insecure"
        )
    if insecure and not far:
        raise ConfigError("insecure has no effect: nothing listens to other machines; drop it")
