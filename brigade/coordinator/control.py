"""What an operator may ask of a coordinator, and what it is after that. `docs/coordinator.md` has the same table."""

from __future__ import annotations

from enum import Enum


class ControlState(Enum):
    RUNNING = "running"
    PAUSED = "paused"  # requests are accepted and wait; what runs goes on
    DRAINING = "draining"  # what was accepted goes on to its end; nothing new is accepted
    STOPPED = "stopped"


STEPS: dict[tuple[ControlState, str], ControlState] = {
    (ControlState.RUNNING, "pause"): ControlState.PAUSED,
    (ControlState.RUNNING, "drain"): ControlState.DRAINING,
    (ControlState.RUNNING, "stop"): ControlState.STOPPED,
    (ControlState.PAUSED, "resume"): ControlState.RUNNING,
    (ControlState.PAUSED, "drain"): ControlState.DRAINING,
    (ControlState.PAUSED, "stop"): ControlState.STOPPED,
    (ControlState.DRAINING, "resume"): ControlState.RUNNING,
    (ControlState.DRAINING, "stop"): ControlState.STOPPED,
}


def after(state: ControlState, action: str) -> ControlState | None:
    """None: it cannot be asked now."""
    return STEPS.get((state, action))
