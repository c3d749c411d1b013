"""How ranks begin and end.

On the leader `start_ranks` starts all others as processes of its own, or `join_world` meets those that `torchrun` or `srun`
started; both give `Ranks`. In a worker `enter` gives what its main needs. Nothing is ever forked: a process that has threads
cannot be.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any

from brigade.backends.cpu.threads import usable
from brigade.errors import ConfigError, RankFailed, UserError, in_one_line
from brigade.mesh import Mesh
from brigade.parallel.board import Board, State
from brigade.parallel.cores import Cores, share_out
from brigade.parallel.links import Links, connect
from brigade.parallel.memory import HostMemory
from brigade.parallel.rendezvous import MEETING, World, all_hosts, check_world, found_world, open_store, own_host
from brigade.parallel.setup import SPINS, Setup
from brigade.parallel.watch import Guard, Watch

if TYPE_CHECKING:
    from torch.distributed import Store

REFUSAL = timedelta(seconds=30)
GIVEN = "BRIGADE_RANK"  # in the environment of a process that the leader started
_met_world = False  # a launcher's ranks meet once
Entered = tuple[Mesh, int, bytes, Links]


class Ranks:
    """All ranks but the leader, as the leader has them. Closing twice does nothing; who forgets it is closed when this object or
    the interpreter goes."""

    def __init__(self, setup: Setup, links: Links, watch: Watch, memory: HostMemory) -> None:
        self.setup, self.links, self._watch, self._process = setup, links, watch, os.getpid()
        self._end = weakref.finalize(self, _close, os.getpid(), watch, links, memory)

    @property
    def failure(self) -> RankFailed | None:
        """Why there are no ranks any more."""
        return self._watch.failure

    @property
    def is_open(self) -> bool:
        """Neither closed nor failed, and this process is the one that began them: a forked child has no part in what they say."""
        return self._end.alive and self.failure is None and self._process == os.getpid()

    def check(self) -> None:
        """Raise what ended them, if they are not there any more."""
        if self._process != os.getpid():
            raise RankFailed("these ranks belong to the process that started them; make another LLM in the forked one")
        if self.failure is not None:
            raise self._watch.verdict()
        if not self._end.alive:
            raise RankFailed("the ranks were closed; make another LLM")

    @contextlib.contextmanager
    def all_or_none(self) -> Iterator[None]:
        """Whatever goes wrong inside ends all ranks. Where that is the loss of a rank, what is raised says which one."""
        try:
            yield
        except BaseException as error:
            cause = self.cause(error)
            self.close()
            if cause is error:
                raise
            raise cause from error

    def cause(self, error: BaseException) -> BaseException:
        """What to say of an error in the leader's own work: where it met the loss of another rank, what happened to that one."""
        return self._watch.verdict(error) if isinstance(error, RankFailed) and error.lost else error

    def step_under_way(self, under_way: bool) -> None:
        """Meanwhile some rank must finish a layer within the rank timeout."""
        self._watch.step_under_way(under_way)

    def layers(self) -> int:
        """Finished by all of them together, as long as they are there."""
        return self._watch.layers() if self.is_open else 0

    def close(self) -> None:
        self._end()


def _close(owner: int, watch: Watch, links: Links, memory: HostMemory) -> None:
    if os.getpid() == owner:  # a forked child has these objects too, and no ranks
        watch.close()
        links.close()
        memory.close()


def start_ranks(
    mesh: Mesh,
    module: str,
    order: bytes,
    *,
    exchange: str = "auto",
    device: str = "cpu",
    rank_timeout: float = 60.0,
    max_rows_bytes: int = 1 << 20,
    cores: Sequence[Cores] | None = None,
) -> Ranks:
    """Start `python -m module` for every rank but this one. `order` is the first that each receives. `max_rows_bytes`: of the rows
    that a step hands from stage to stage. `cores`: of every rank, the leader's own first; else they are shared out evenly."""
    if not sys.executable:
        raise ConfigError("several ranks need a Python program that can be started again; use one rank here")
    _check_watchable()
    cores = cores or share_out(mesh.world)
    setup = Setup(
        mesh, (0,) * mesh.world, exchange, device, rank_timeout, max_rows_bytes,
        spins=SPINS if all(each.own for each in cores) else 0, leader=os.getpid(),
    )  # fmt: skip
    memory = HostMemory.make(setup.places(0, Board.bytes(mesh.world)).size)
    board = Board(memory, mesh.world)
    store = _own_store() if setup.needs_store() else None
    children: dict[int, subprocess.Popen] = {}
    watch = Watch(setup, board, None if store is None else _own_store(store.underlying_store.port), children)
    try:
        for rank in range(1, mesh.world):
            given = {
                "rank": rank,
                "setup": setup.to_json(),
                "memory": memory.descriptor,
                "usable": usable(),  # by all ranks: the leader may have confined itself to its share by now
                "port": None if store is None else store.underlying_store.port,
            }
            environ = os.environ | _environment(rank, mesh.world, cores[rank]) | {GIVEN: json.dumps(given)}
            children[rank] = subprocess.Popen(
                [sys.executable, "-P", "-m", module], env=environ, pass_fds=(memory.descriptor,), stdin=subprocess.DEVNULL,
                stdout=2, process_group=0,
            )  # fmt: skip
        return _lead(setup, board, store, memory, watch, order)
    except BaseException:
        watch.close()
        memory.close()
        raise


def _environment(rank: int, world: int, cores: Cores) -> dict[str, str]:
    """Modules are found where the leader finds them, and processors are shared out."""
    path = [os.getcwd() if entry == "" else entry for entry in sys.path if isinstance(entry, str)]
    counts = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    counts |= {"OMP_NUM_THREADS": cores.threads, "MKL_NUM_THREADS": cores.threads}
    return {"PYTHONPATH": os.pathsep.join(path)} | {name: str(value) for name, value in counts.items()}


def _check_watchable() -> None:
    """The end of a rank is seen at its process; where that cannot be, everybody would wait for a dead one for ever."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (AttributeError, OSError) as error:
        raise ConfigError(
            f"several ranks need Linux 5.3 or newer, and pidfd_open allowed ({in_one_line(error)}); use one rank here"
        ) from error


def join_world(
    world: World,
    mesh: Mesh,
    order: bytes,
    *,
    exchange: str = "auto",
    device: str = "cpu",
    rank_timeout: float = 60.0,
    max_rows_bytes: int = 1 << 20,
) -> Ranks:
    """The same, for ranks that a launcher has started: this is rank 0 of them, the others call `enter`."""
    global _met_world
    if _met_world:
        raise ConfigError(
            f"the ranks that {world.launcher} started serve one model, and this process has loaded one already; load one a launch, "
            f"or start the script without {world.launcher}: then each LLM starts ranks of its own"
        )
    _met_world = True
    store = open_store(world)
    try:
        _check_watchable()
        check_world(world, mesh)
        hosts = all_hosts(store, world.size)
        spins = SPINS if hosts.count(0) <= len(usable()) else 0
        setup = Setup(mesh, hosts, exchange, device, rank_timeout, max_rows_bytes, spins, os.getpid())
    except BaseException as error:
        _refuse(world, store, error)
        raise
    store.set("setup", setup.to_json())
    memory = _memory_of_host(setup, 0, store)
    board = Board(memory, world.size)
    watch = Watch(setup, board, open_store(world, again=True), {})
    try:
        return _lead(setup, board, store, memory, watch, order)
    except BaseException:
        watch.close()
        memory.close()
        raise


def refuse_world(world: World, error: BaseException) -> None:
    """Where the leader finds that it cannot begin: the others of its world end too. Does nothing once it has met them."""
    global _met_world
    if not _met_world:
        _met_world = True
        with contextlib.suppress(ConfigError, RuntimeError):  # no meeting, or its store is gone: what went wrong first is said
            _refuse(world, open_store(world), error)


def _refuse(world: World, store: Store, error: BaseException) -> None:
    """The store may be this process's own, so it stays until all others have come and heard; or for a while."""
    store.set("setup", json.dumps({"refused": in_one_line(error)}))
    if not world.has_store:
        with contextlib.suppress(RuntimeError):
            store.wait([f"heard/{rank}" for rank in range(1, world.size)], REFUSAL)


def _lead(setup: Setup, board: Board, store: Store | None, memory: HostMemory, watch: Watch, order: bytes) -> Ranks:
    board.enter(0)
    board.set_state(0, State.COMPUTING)
    watch.start()
    places = setup.places(0, Board.bytes(setup.mesh.world))
    links = _or_failure(watch, lambda: connect(setup, 0, board, places, store, watch.verdict))
    watch.all_are_here()
    watch.served = store  # perhaps by this process, for as long as anybody watches
    ranks = Ranks(setup, links, watch, memory)
    try:
        links.send_order(order)
    except BaseException:
        ranks.close()
        raise
    return ranks


def _or_failure(watch: Watch, call: Callable[[], Links]) -> Links:
    """What meets other ranks in the process group waits for them without end; so it waits on a thread of its own."""
    outcome: list[Any] = []

    def attempt() -> None:
        try:
            outcome.append(call())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=attempt, name="brigade-connect", daemon=True)
    thread.start()
    while thread.is_alive() and watch.failure is None:
        thread.join(0.05)
    if not outcome:
        raise watch.verdict()
    if isinstance(outcome[0], BaseException):
        raise outcome[0]
    return outcome[0]


def _own_store(port: int | None = None) -> Store:
    """The leader's (no port), or that of a leader on this host."""
    from torch.distributed import PrefixStore, TCPStore

    store = TCPStore("127.0.0.1", port or 0, None, port is None, timeout=MEETING, wait_for_workers=False)
    return PrefixStore("brigade", store)


def _memory_of_host(setup: Setup, rank: int, store: Store) -> HostMemory:
    """The host's first rank makes it; the others find it there."""
    first = setup.hosts[rank]
    if rank == first:
        memory = HostMemory.make(setup.places(rank, Board.bytes(setup.mesh.world)).size)
        store.set(f"memory/{rank}", json.dumps([os.getpid(), memory.descriptor]))
        return memory
    return HostMemory.of(*json.loads(store.get(f"memory/{first}")))


def enter() -> Entered:
    """In a worker: its mesh, its rank, the leader's first order, and its links. From here on Ctrl-C and the end of
    the terminal are the leader's affair, and an error that nobody catches goes to the board, where the leader finds it."""
    for one in (signal.SIGINT, signal.SIGHUP):
        signal.signal(one, signal.SIG_IGN)
    given = os.environ.pop(GIVEN, None)
    rank, setup, memory, store, guarded = _enter_world() if given is None else _enter_started(json.loads(given))
    board = Board(memory, setup.mesh.world)
    board.enter(rank)
    guard = Guard(setup, rank, board, guarded)
    guard.start()
    sys.excepthook = lambda kind, error, trace: _report(board, rank, error, trace, guard)
    links = connect(setup, rank, board, setup.places(rank, Board.bytes(setup.mesh.world)), store, guard.lost)
    board.set_state(rank, State.READY)
    order = links.receive_order()
    board.set_state(rank, State.COMPUTING)
    return setup.mesh, rank, order, links


# Rank, setup, memory, and two clients of the store: the second for the guard.
Given = tuple[int, Setup, HostMemory, "Store | None", "Store | None"]


def _enter_started(given: dict[str, Any]) -> Given:
    setup, memory = Setup.from_json(given["setup"]), given["memory"]
    if os.getppid() != setup.leader:
        os._exit(1)  # the leader is gone already
    os.set_inheritable(memory, False)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, given["usable"])
    store, guarded = (None if given["port"] is None else _own_store(given["port"]) for _ in range(2))
    return given["rank"], setup, HostMemory(memory, os.fstat(memory).st_size), store, guarded


def _enter_world() -> Given:
    world = found_world()
    if world is None:
        raise ConfigError("this process is a rank, but neither a leader nor a launcher started it; start it by torchrun or srun")
    store = open_store(world)
    store.set(f"host/{world.rank}", own_host())
    text = store.get("setup")
    if b"refused" in text[:12]:
        store.set(f"heard/{world.rank}", "")
        said = f"brigade: rank {world.rank} leaves, since rank 0 refused: {json.loads(text)['refused']}\n"
        print(said, end="", file=sys.stderr)  # in one piece: other ranks may write to the same place
        sys.exit(2)
    setup = Setup.from_json(text)
    return world.rank, setup, _memory_of_host(setup, world.rank, store), store, open_store(world, again=True)


def _report(board: Board, rank: int, error: BaseException, trace: TracebackType | None, guard: Guard) -> None:
    """One line, then the end of the traceback: an error of the user's needs none."""
    text = in_one_line(error)
    if not isinstance(error, UserError | RankFailed):
        with contextlib.suppress(Exception):
            text += "\n" + "".join(traceback.format_exception(type(error), error, trace))[-1500:]
    board.fail(rank, text, isinstance(error, RankFailed) and error.lost)
    guard.tell_how_it_is()
