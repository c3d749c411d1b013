"""Which engines a run has: names are checked before anything is installed."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.peers.catalogue import BRIGADE, PEERS, Peer, Variant
from benchmarks.peers.limits import limited
from brigade.errors import ConfigError
from brigade.text_table import columns


def choose(names: Sequence[str], variants: Sequence[str]) -> list[tuple[Peer, Variant]]:
    """Ours first, then the peers, all of them where none is named. `variants` are labels, or names that several engines share;
    without one of ours among them, all of ours run."""
    unknown = [name for name in names if name not in PEERS]
    if unknown:
        raise ConfigError(f"no peer {unknown[0]!r}; peers are {', '.join(PEERS)}")
    peers = [BRIGADE, *(limited(PEERS[name]) for name in dict.fromkeys(names or PEERS))]
    pairs = [(peer, variant) for peer in peers for variant in peer.variants]
    known = {name for peer, variant in pairs for name in (variant.name, peer.label(variant))}
    strange = [name for name in variants if name not in known]
    if strange:
        raise ConfigError(f"no variant {strange[0]!r} of the chosen engines; `brigade bench peers --list` shows them")
    picked = [(peer, variant) for peer, variant in pairs if not variants or {variant.name, peer.label(variant)} & set(variants)]
    theirs = [(peer, variant) for peer, variant in picked if peer is not BRIGADE]
    if not theirs:
        raise ConfigError("--variants leaves no peer to compare with; name a variant of one, see `brigade bench peers --list`")
    return picked if len(picked) > len(theirs) else [(BRIGADE, variant) for variant in BRIGADE.variants] + theirs


def listing() -> list[str]:
    pairs = [(peer, variant) for peer in (BRIGADE, *PEERS.values()) for variant in peer.variants]
    return columns([(peer.label(variant), f"{variant.bits} bits") for peer, variant in pairs])
