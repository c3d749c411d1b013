"""Peers are held to AVX2 where ours is, each by its own switch, and the report says so."""

from __future__ import annotations

import pytest

from benchmarks.peers import limits
from benchmarks.peers.catalogue import PEERS
from benchmarks.peers.choice import choose


def test_without_a_path_peers_run_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BRIGADE_PATH", raising=False)
    assert all(limits.limited(peer) is peer for peer in PEERS.values()) and limits.words() == ""


def test_on_avx2_each_peer_has_a_switch_or_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIGADE_PATH", "avx2")
    assert set(limits.ON_AVX2) | limits.NO_SWITCH == set(PEERS)
    for name, peer in PEERS.items():
        held = limits.limited(peer)
        assert (held.build, held.run) != (peer.build, peer.run) and peer.run.items() <= held.run.items()
        assert name not in limits.NO_SWITCH or name in limits.words()
    chosen = {peer.name: peer for peer, _ in choose([], [])}
    assert "-DGGML_NATIVE=off" in chosen["llama-cpp-python"].build["CMAKE_ARGS"]
    assert chosen["ctranslate2"].run["CT2_FORCE_CPU_ISA"] == "AVX2" and not chosen["brigade"].run
