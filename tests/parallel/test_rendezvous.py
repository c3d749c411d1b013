"""Ranks that a launcher has started are found by its environment; what cannot be is refused in one line."""

from __future__ import annotations

import pytest

from brigade.errors import ConfigError
from brigade.mesh import Mesh
from brigade.parallel.rendezvous import World, check_world, first_host, found_world, own_host, tasks_of_nodes

TORCHRUN = {
    "RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "first", "MASTER_PORT": "29400",
    "TORCHELASTIC_USE_AGENT_STORE": "True", "TORCHELASTIC_RESTART_COUNT": "2",
}  # fmt: skip
SRUN = {
    "SLURM_PROCID": "6", "SLURM_STEP_NUM_TASKS": "7", "SLURM_LOCALID": "0", "SLURM_STEP_TASKS_PER_NODE": "2(x3),1",
    "SLURM_STEP_NODELIST": "node[03-05,9]", "SLURM_NODEID": "3", "SLURM_JOB_ID": "1234567", "SLURM_STEP_ID": "2",
}  # fmt: skip


def test_torchrun() -> None:
    assert found_world(TORCHRUN) == World(5, 8, 1, 4, "torchrun", "first", 29400, has_store=True, attempt=2)
    assert found_world(TORCHRUN | SRUN).launcher == "torchrun"  # started by srun, one on a node


def test_srun() -> None:
    assert found_world(SRUN) == World(6, 7, 0, 1, "srun", "node03", 20000 + 1234569 % 20000)
    given = found_world(SRUN | {"MASTER_ADDR": "other", "MASTER_PORT": "7000"})
    assert (given.address, given.port) == ("other", 7000)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        TORCHRUN | {"WORLD_SIZE": "1", "RANK": "0"},
        SRUN | {"SLURM_STEP_NUM_TASKS": "1"},
        {"SLURM_PROCID": "0", "SLURM_JOB_ID": "1"},
        {"RANK": "3"},
        {"WORLD_SIZE": "2"},
    ],
)
def test_a_process_alone(environ) -> None:
    assert found_world(environ) is None


@pytest.mark.parametrize(
    ("base", "changes", "words"),
    [
        (TORCHRUN, {"RANK": "8"}, "rank 8 of 8; ranks are 0 to 7"),
        (TORCHRUN, {"LOCAL_RANK": "4"}, "local rank 4 of 4"),
        (TORCHRUN, {"RANK": "-1"}, "RANK is '-1'"),
        (TORCHRUN, {"WORLD_SIZE": "0"}, "WORLD_SIZE is '0'"),
        (TORCHRUN, {"WORLD_SIZE": "many"}, "WORLD_SIZE is 'many'"),
        (TORCHRUN, {"MASTER_ADDR": None}, "MASTER_ADDR is missing"),
        (TORCHRUN, {"MASTER_PORT": None}, "MASTER_PORT is missing"),
        (TORCHRUN, {"MASTER_PORT": "70000"}, "MASTER_PORT is 70000; ports are 1 to 65535"),
        (TORCHRUN, {"LOCAL_RANK": None}, "LOCAL_RANK is missing"),
        (SRUN, {"SLURM_LOCALID": "1"}, "local rank 1 of 1"),
        (SRUN, {"SLURM_PROCID": "7"}, "rank 7 of 7"),
        (SRUN, {"SLURM_NODEID": "6"}, "SLURM_NODEID is 6, but SLURM_STEP_TASKS_PER_NODE counts 4 nodes"),
        (SRUN, {"SLURM_STEP_TASKS_PER_NODE": "2(x3"}, "SLURM_STEP_TASKS_PER_NODE is '2[(]x3'"),
        (SRUN, {"SLURM_STEP_TASKS_PER_NODE": None}, "SLURM_STEP_TASKS_PER_NODE is ''"),
        (SRUN, {"SLURM_STEP_NODELIST": "[03"}, "set MASTER_ADDR"),
        (SRUN, {"SLURM_STEP_NODELIST": None}, "set MASTER_ADDR"),
    ],
)
def test_broken_values_are_named(base, changes, words) -> None:
    environ = {name: value for name, value in (base | changes).items() if value is not None}
    with pytest.raises(ConfigError, match=words):
        found_world(environ)


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("one", "one"),
        ("a1,b2", "a1"),
        ("node[03-07,9]", "node03"),
        ("node[9,03-07],other", "node9"),
        ("rack[1-2]n[01-04].cluster,x", "rack1n01.cluster"),
    ],
)
def test_the_first_host(text, host) -> None:
    assert first_host(text) == host


def test_tasks_of_nodes() -> None:
    assert tasks_of_nodes("4") == [4] and tasks_of_nodes("2(x3),1") == [2, 2, 2, 1]


def test_a_world_of_another_size_is_refused_by_both_numbers() -> None:
    world = found_world(TORCHRUN)
    check_world(world, Mesh(tp=4, pp=2))
    with pytest.raises(ConfigError, match="torchrun started 8 ranks, but tp 2 x pp 2 needs 4; start 4"):
        check_world(world, Mesh(tp=2, pp=2))


def test_one_machine_can_stand_for_two_hosts() -> None:
    assert own_host({}) == own_host({}) != own_host({"BRIGADE_HOST": "b"}) != own_host({"BRIGADE_HOST": "a"})
