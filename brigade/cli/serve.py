"""`brigade serve`: an OpenAI-compatible server over a model of this machine, or over a coordinator's replicas."""

from __future__ import annotations

import argparse
import hashlib
import logging
import re
import resource
import sys
import time
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brigade.cli.options import add_model_options, make_llm, refuse_model_options
from brigade.cli.progress import Progress
from brigade.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from brigade.tokenizer import Tokenizer

PORT = 8000
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s]+")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("served_model", nargs="?", metavar="MODEL", help="as --model; the embedded model if neither is given")
    group = parser.add_argument_group("address")
    group.add_argument("--host", default="127.0.0.1", help="(default: 127.0.0.1, this machine alone)")
    group.add_argument("--port", type=int, default=PORT, help=f"0 takes a free one, and is told (default: {PORT})")
    group.add_argument("--tls-cert", type=Path, metavar="FILE", help="a certificate in PEM: the server speaks https")
    group.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key")
    group = parser.add_argument_group("what is served")
    group.add_argument("--served-model-name", action="append", metavar="NAME", help="what requests call it; may be given again")
    group.add_argument("--chat-template", type=Path, metavar="FILE", help="a Jinja file in place of the model's own")
    group.add_argument("--connect", metavar="ADDRESS", help="ask the replicas of a coordinator; MODEL is the name it serves then")
    group.add_argument("--keys", type=Path, metavar="FOLDER", help="with --connect: keys of `brigade keys`")
    group.add_argument("--tokenizer", metavar="MODEL", help="with --connect: whose tokenizer and chat template the server reads")
    group.add_argument("--dp", type=int, default=1, metavar="N", help="replicas of this machine, behind a coordinator (default: 1)")
    group = parser.add_argument_group("who may ask")
    group.add_argument("--api-key", action="append", default=[], metavar="KEY", help="requests must bring it; may be given again")
    group.add_argument("--api-key-file", type=Path, metavar="FILE", help="one key a line")
    group.add_argument("--cors", action="append", default=[], metavar="ORIGIN", help="pages of this origin may ask; * for all")
    group.add_argument("--allowed-host", action="append", default=[], metavar="NAME", help="requests may call the server so too")
    group.add_argument("--quiet", action="store_true", help="no line for each request on standard error")
    _add_limits(parser.add_argument_group("limits"))
    add_model_options(parser)


HELP = {
    "connections": "open at once", "header_bytes": "of a request's headers", "body_bytes": "of its body",
    "header_seconds": "until the headers are there", "body_seconds": "until the body is there",
    "keep_alive_seconds": "that a connection stays open between requests",
    "send_seconds": "that a client may leave its answer unread", "drain_seconds": "that streams go on after SIGTERM",
}  # fmt: skip


def _add_limits(group: Any) -> None:
    from brigade.serve.limits import Limits

    for one in fields(Limits):
        kind = int if one.type == "int" else float
        said = f"{HELP[one.name]} (default: {one.default:g})" if kind is float else f"{HELP[one.name]} (default: {one.default})"
        group.add_argument(f"--{one.name.replace('_', '-')}", type=kind, metavar="N", help=said)


def run(args: argparse.Namespace) -> int:
    from brigade.serve.api_keys import read_keys
    from brigade.serve.certificate import check_certificate
    from brigade.serve.limits import Limits
    from brigade.serve.server import BACKLOG, Server, bind, shown_address
    from brigade.serve.web_pages import hosts_of

    _check(args)
    given = {one.name: getattr(args, one.name) for one in fields(Limits) if getattr(args, one.name) is not None}
    limits, keys = Limits(**given), read_keys(args.api_key, args.api_key_file)
    template = None if args.chat_template is None else _read_template(args.chat_template)
    check_certificate(args.tls_cert, args.tls_key)
    with ExitStack() as stack:
        listener = bind(args.host, args.port)
        stack.callback(listener.close)
        hosts = hosts_of(listener.getsockname()[0], args.allowed_host, args.host)
        if args.host not in ("127.0.0.1", "localhost", "::1") and not len(keys):
            said = "may be reached from elsewhere, and no key is asked for; give --api-key-file FILE to ask for one"
            print(f"brigade: {args.host} {said}", file=sys.stderr)
        keeper: Any = None
        if args.connect is not None or args.dp > 1:
            app, keeper = _fleet(args, stack, template)
        else:
            app = _own(args, stack, template)
        app.keys, app.limits, app.origins, app.hosts = keys, limits, args.cors, hosts
        from brigade.serve.app import json_line

        app.log = None if args.quiet else json_line
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # each connection is an open file
        logging.getLogger("asyncio").setLevel(logging.ERROR)  # it warns of every client that goes away in the middle of a word
        server = Server(app, args.tls_cert, args.tls_key, lambda: keeper is not None and keeper.failure is not None)
        stack.enter_context(server.taking_signals())
        listener.listen(BACKLOG)
        scheme = "http" if args.tls_cert is None else "https"
        where = shown_address(*listener.getsockname()[:2])
        print(f"brigade: serving {', '.join(app.served.names)} at {scheme}://{where}/v1", file=sys.stderr, flush=True)
        server.run([listener])
        if keeper is not None:
            keeper.check()
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.served_model is not None:
        if args.model is not None:
            raise ConfigError(f"the model is given twice, as {args.served_model} and as --model {args.model}; give it once")
        args.model = args.served_model
    if (args.tls_cert is None) != (args.tls_key is None):
        raise ConfigError("--tls-cert and --tls-key belong together; give both, or none")
    for origin in args.cors:
        if origin != "*" and not ORIGIN.fullmatch(origin):
            raise ConfigError(f"--cors {origin} is no origin of pages; give one as browsers say it, such as https://example.org")
    for name in args.served_model_name or []:
        if not name.strip():
            raise ConfigError(f"--served-model-name is {name!r}; give a name that requests can say, or drop it")
    if args.dp < 1:
        raise ConfigError(f"--dp is {args.dp}; give 1 or more")
    if args.connect is None:
        for name in ("keys", "tokenizer"):
            if getattr(args, name) is not None:
                raise ConfigError(f"--{name} has no effect without --connect; give --connect, or drop it")
    elif args.dp > 1:
        raise ConfigError("--dp starts replicas here, and --connect asks those of a coordinator; give one of them")


def _read_template(path: Path) -> str:
    from brigade.tokenizer.chat_template import ChatTemplate

    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--chat-template {path} cannot be read ({error}); give a Jinja file in UTF-8") from error
    try:
        ChatTemplate({"default": text}, {}).check()
    except CheckpointError as error:
        raise ConfigError(f"--chat-template {path} cannot be used: {error}") from error
    return text


def _with_template(tokenizer: Tokenizer | None, template: str | None, remedy: str) -> Tokenizer | None:
    """A broken template of the model's own refuses chats alone, since completions do not need it."""
    if template is None:
        if tokenizer is not None and tokenizer.has_chat_template:
            try:
                tokenizer.chat.check()
            except CheckpointError as error:
                print(f"brigade: chats are refused: {error}", file=sys.stderr)
        return tokenizer
    if tokenizer is None:
        raise ConfigError(f"--chat-template has no effect without a tokenizer: {remedy}, or drop it")
    return tokenizer.with_template(template)


def _own(args: argparse.Namespace, stack: ExitStack, template: str | None) -> Any:
    """One engine in this process, or leading ranks of it."""
    from brigade.api.async_llm import AsyncLLM
    from brigade.serve.app import App
    from brigade.serve.desk import Desk
    from brigade.serve.health import EngineHealth
    from brigade.serve.served import Served

    loading = Progress("loading")
    llm = stack.enter_context(make_llm(args, progress=loading))
    loading.close()
    print(llm.plan, file=sys.stderr)
    face = AsyncLLM(llm)
    stack.callback(face.close)
    names = args.served_model_name or [llm.name]
    served = Served(
        names, _fingerprint(llm.numerics_id, llm.fingerprint, template), llm.engine.limits.longest, llm.config.vocab_size,
        _with_template(llm.tokenizer, template, "this model has none"), llm.sampling_defaults, int(time.time()),
        model=llm.name,
    )  # fmt: skip
    return App(served, Desk(face), EngineHealth(llm))


def _fingerprint(numerics_id: str, model: str, template: str | None) -> str:
    """What decides the bits of an answer, beside its request."""
    own = [] if template is None else [hashlib.sha256(template.encode()).hexdigest()[:16]]
    return "-".join([numerics_id, model, *own])


def _fleet(args: argparse.Namespace, stack: ExitStack, template: str | None) -> tuple[Any, Any]:
    """Replicas behind a coordinator: those of `--connect`, or those that are started here, with their keeper."""
    from brigade.checkpoint.load import open_model
    from brigade.cli.coordinator import replica_settings
    from brigade.client import AsyncClient
    from brigade.coordinator.messages import Identity
    from brigade.serve.app import App
    from brigade.serve.fleet import FIRST_PATIENCE, NAME, FleetDesk, connected, following, local_coordinator, wait_for_replica
    from brigade.serve.health import FleetHealth
    from brigade.serve.served import Served
    from brigade.tokenizer import Tokenizer

    keeper: Any = None
    if args.connect is None:
        address, keeper = stack.enter_context(local_coordinator(replica_settings(args)))
        name, whose = NAME, args.model
    else:
        refuse_model_options(args)
        address, name, whose = args.connect, args.model, args.tokenizer
    tokenizer = source = None
    if whose is not None or args.connect is None:
        source = open_model(whose)
        tokenizer = Tokenizer.of_model(source.tokenizer_path)
    tokenizer = _with_template(tokenizer, template, "give --tokenizer" if args.connect is not None else "this model has none")
    client = connected(lambda: AsyncClient(address, name or "", keys=args.keys, first_patience=FIRST_PATIENCE), address)
    stack.callback(client.close)

    def made_of(identity: Identity) -> Served:
        own = client.model if source is None or args.connect is not None else source.name  # known once a replica is there
        return Served(
            args.served_model_name or [own], _fingerprint(identity.numerics_id, identity.fingerprint, template), identity.positions,
            identity.vocab_size, tokenizer, identity.defaults, int(time.time()), identity.digest, identity.has_tokenizer,
            own,
        )  # fmt: skip

    served = made_of(wait_for_replica(client, keeper))
    health = FleetHealth(client, client.model, None if keeper is None else args.dp)
    app = App(served, FleetDesk(client), health)
    health.follow = following(app, made_of)
    return app, keeper
