"""Pages in a browser, which may come from anywhere and run on the machine of whoever reads them: which of them may ask.

Two ways lead a page to a server that only its own machine can reach. It may send a request across origins: a browser then says the
page's origin, and sends a POST with a plain content type without asking before, as curl does. Or it may come under a name that its
owner lets point to this machine meanwhile (DNS rebinding): then it is of the server's own origin, and the name stands in `Host`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from ipaddress import ip_address

from brigade.errors import ConfigError
from brigade.serve.errors import ApiError

NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")
PRIVATE = ("localhost", "internal")  # whose names nobody can register: host.docker.internal is a container's name of its machine
SHOWN = 100  # characters of what a client sent


def hosts_of(address: str, names: Sequence[str], called: str = "localhost") -> tuple[str, ...] | None:
    """The names by which a server that listens at this address may be asked; None: any. `names`: those that were given; `called`:
    what the address was found by."""
    for name in names:
        if not NAME.fullmatch(name):
            raise ConfigError(f"--allowed-host {name} is no name of a host; give one without a port, such as box.example.org")
    if not names and not _is_loopback(address):
        return None  # which names lead to it cannot be known
    return tuple(name.lower() for name in (called, *names))


def check_page(headers: Mapping[bytes, bytes], origins: Sequence[str], hosts: Sequence[str] | None) -> None:
    """Refuses what a page sent that may not ask. Clients that are no browsers send no origin, and the name that they were given."""
    host = headers.get(b"host", b"").decode("latin-1").lower()
    if hosts is not None and b"host" in headers and not _is_known(host, hosts):
        raise ApiError(
            403, f"the host {host[:SHOWN]!r} is not known here; ask by localhost or an IP address, or start the server with "
            "--allowed-host NAME", code="host_not_allowed",
        )  # fmt: skip
    origin = headers.get(b"origin", b"").decode("latin-1")
    if origin and not allows(origin, origins) and origin.partition("://")[2].lower() != host:
        raise ApiError(
            403, f"pages of the origin {origin[:SHOWN]!r} may not ask here; start the server with --cors ORIGIN to let them",
            code="origin_not_allowed",
        )  # fmt: skip


def allows(origin: str, origins: Sequence[str]) -> bool:
    """Whether `--cors` names it."""
    return "*" in origins or origin in origins


def _is_known(host: str, hosts: Sequence[str]) -> bool:
    """An address is known too: a page whose origin is an address was loaded from there."""
    name = re.sub(r":\d*$", "", host)
    if name.startswith("[") and name.endswith("]"):
        name = name[1:-1]
    name = name.removesuffix(".")
    return name in hosts or name.rpartition(".")[2] in PRIVATE or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(address: str) -> bool:
    found = ip_address(address.partition("%")[0])
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback
