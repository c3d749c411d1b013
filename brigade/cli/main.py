"""`brigade COMMAND ...`: finds the command, and turns what goes wrong into one line and an exit code."""

from __future__ import annotations

import argparse
import errno
import os
import re
import signal
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from importlib import import_module
from typing import Any, NoReturn

from brigade.cli.process import Ended, as_process
from brigade.errors import ConfigError, EngineStopped, RankFailed, UserError

COMMANDS = {
    "generate": "text from prompts",
    "serve": "answer HTTP requests as OpenAI's API does",
    "chat": "talk to a model in the terminal",
    "inspect": "what a model is: spec tree, parameters, memory, tokenizer",
    "export": "pack a model once: an artifact that is mapped into memory at load",
    "env": "what a bug report needs",
    "eval": "perplexity and bits per byte of a text, and the distance from a reference",
    "verify": "keep what a model says, and find the same bits again on any layout and engine setting",
    "coordinator": "clients on one side, replicas on the other: no failure of either changes a token",
    "replica": "a model that works for a coordinator",
    "control": "look at a coordinator; pause, resume, drain or stop it",
    "keys": "make keys for a coordinator that other machines reach",
    "bench": "measure: latency beside the machine's floor, throughput, the engine's own work, other engines beside this one",
}

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class OneLineParser(argparse.ArgumentParser):
    """Refuses in one line instead of printing the whole usage."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see `{self.prog} --help`")


class CommandParser(OneLineParser):
    """Of one command: what it does not know is refused with what to give instead, where that is known, and with its own help, not
    with that of all commands."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            from brigade.cli.foreign_options import hints

            found = hints(unknown, self._option_string_actions, self.prog == "brigade serve")
            self.error("; ".join([f"unrecognized arguments: {' '.join(unknown)}", *found]))
        return found, unknown


def make_parser(command: str | None = None) -> argparse.ArgumentParser:
    """Only the chosen command's module is imported, so that `--help` answers at once."""
    from brigade import __version__

    parser = OneLineParser(prog="brigade", description="An inference system for GPTs: same model, same prompt, same bits.")
    parser.add_argument("--version", action="version", version=f"brigade {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=CommandParser)
    for name, summary in COMMANDS.items():
        sub = commands.add_parser(name, help=summary, description=summary)
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        if name == command:
            module = import_module(f"brigade.cli.{name}")
            module.add_arguments(sub)
            sub.set_defaults(run=module.run, options=_options(sub))
    return parser


def main(argv: list[str] | None = None) -> int:
    with ExitStack() as after:  # what is done once the command has said its last word
        return _main(sys.argv[1:] if argv is None else argv, after)


def _main(argv: list[str], after: ExitStack) -> int:
    debug = "--debug" in argv
    args = None
    try:
        given = argparse.Namespace(argv=argv)  # for a page that says how it was made
        args = make_parser(next((word for word in argv if word in COMMANDS), None)).parse_args(argv, given)
        code = _run(args, after)
        sys.stdout.flush()  # what cannot be written is said here, and not by Python at its end
        return code
    except (UserError, EngineStopped, RankFailed, OSError) as error:
        if isinstance(error, BrokenPipeError):
            # Whoever read our output has left: nothing to say, and nobody to say it to.
            _leave_stdout()
            return 1
        if debug:
            raise
        said = with_options(" ".join(_words(error).split()), getattr(args, "options", {}))
        print(f"brigade: error: {said}\n", end="", file=sys.stderr)  # in one piece: other ranks may write to the same place
        return 2
    except KeyboardInterrupt:
        print("brigade: interrupted", file=sys.stderr)
        return 130
    except Ended as error:
        print(f"brigade: {error}", file=sys.stderr)
        return error.code


def _run(args: argparse.Namespace, after: ExitStack) -> int:
    """Under torchrun or srun every rank is given the same command. Rank 0 alone does it: reads prompts, writes files, answers. The
    others serve it; whatever becomes of rank 0's command, none of them is left waiting."""
    if not hasattr(args, "import_modules"):  # a command that has no use for ranks
        return args.run(args) or 0
    from brigade.parallel.rendezvous import found_world

    world = found_world()
    if world is None or args.command in ("inspect", "coordinator"):  # which starts no rank
        return 0 if world is not None and world.rank > 0 else _do(args)
    if world.rank > 0:
        from brigade.assembly import rank

        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # it may wait in C++ code, where no handler of Python's runs
        rank.main()
        return 0
    from brigade.parallel.launch import refuse_world

    try:
        code = _do(args)
    except BaseException as error:
        # Not yet: once another rank has left, torchrun ends this one, which has to say why.
        after.callback(refuse_world, world, error)
        raise
    refuse_world(world, ConfigError("its command ended without them"))
    return code


def _do(args: argparse.Namespace) -> int:
    """What is imported comes first: what it registers may stand in what the command reads. A coordinator imports nothing itself."""
    if args.import_modules and args.command != "coordinator":
        from brigade.assembly.choices import import_all

        import_all(args.import_modules)
    return args.run(args) or 0


def _words(error: Exception) -> str:
    """A system's error with its file. What a command writes elsewhere names its file itself, so a full disk without one is that of
    standard output."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, OSError) and error.errno in FULL:
        _leave_stdout()
        return f"cannot write to standard output: {error.strerror}; make room, or send it elsewhere"
    return str(error)


def with_options(text: str, options: Mapping[str, str]) -> str:
    """A refusal as the command line says it: settings by their options, such as --kv-memory for kv_memory. A setting of one word is
    a usual word too, so it is an option only as what is refused or is to be given. What stands in quotes or in a path stays."""
    for name, option in options.items():
        if "_" in name:
            text = re.sub(rf"(?<![\w.\"'`/=-]){name}(?![\w\"'`/=])", option, text)
        else:
            text = re.sub(rf"^{name}(?= (?:is|has|needs|names) )|(?<=[;:] give ){name}(?=,? or drop|$)", option, text)
    return text


def _options(parser: argparse.ArgumentParser) -> dict[str, str]:
    """Of settings alone: a parameter of sampling may stand in a line of a file too, and is called there as everywhere. Nor of those
    that `eval` has twice, since a refusal does not say of which model it is."""
    from brigade.cli.options import SAMPLING

    known = {one.dest: one.option_strings[-1] for one in parser._actions if one.option_strings}
    for one in parser._actions:  # of two options of one setting, the one that is called as it is
        option = f"--{one.dest.replace('_', '-')}"
        if option in one.option_strings:
            known[one.dest] = option
    sampling = (*SAMPLING, "logit_bias", "token_ids")
    return {name: option for name, option in known.items() if name not in sampling and f"against_{name}" not in known}


def _leave_stdout() -> None:
    """What could not be written goes nowhere, so that Python does not try again at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(as_process())
