"""A connection to a coordinator: as a client has it, a replica, and an operator."""

from __future__ import annotations

import zmq

from brigade.coordinator.keys import Keys, Role
from brigade.errors import ConfigError

WORDS = 500  # milliseconds that the last words have
SOON, LATEST = 50, 1000  # milliseconds between two tries to connect
BEAT, SILENCE = 2000, 6000  # milliseconds: a connection that says nothing for so long is dead, and another is made


def check_port(address: str, what: str, remedy: str) -> None:
    """Of a port that is too high the library would take the lower 16 bits. `what` cannot be done with it: connect to, listen on."""
    port = address.rpartition(":")[2]
    if port.isdigit() and int(port) > 65_535:
        raise ConfigError(f"cannot {what} {address}: port {port} is above 65535; {remedy}")


def connect(context: zmq.Context, address: str, role: Role, keys: Keys | None, high_water: int = 1000) -> zmq.Socket:
    """It connects again by itself. The coordinator knows nobody on a new connection, whatever was said on the old one."""
    check_port(address, "connect to", f"give the coordinator's address for {role}")
    made = context.socket(zmq.DEALER)
    for option, value in (
        (zmq.LINGER, WORDS), (zmq.SNDHWM, high_water), (zmq.RCVHWM, high_water), (zmq.RECONNECT_IVL, SOON),
        (zmq.RECONNECT_IVL_MAX, LATEST), (zmq.HEARTBEAT_IVL, BEAT), (zmq.HEARTBEAT_TIMEOUT, SILENCE),
    ):  # fmt: skip
        made.setsockopt(option, value)
    try:
        if keys is not None:
            keys.join(made, role)
        made.connect(address)
    except zmq.ZMQError as error:
        made.close(0)
        raise ConfigError(
            f"cannot connect to {address}: {zmq.strerror(error.errno)}; give the coordinator's address for {role}, such as "
            "tcp://127.0.0.1:6500"
        ) from error
    except BaseException:
        made.close(0)
        raise
    return made
