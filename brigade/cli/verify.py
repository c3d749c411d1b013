"""`brigade verify`: keep what a model says, find it again on any layout, and compare many settings with each other."""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from brigade.cli.options import add_rank_options, counts, model_files
from brigade.cli.progress import Progress
from brigade.errors import ConfigError, RequestError
from brigade.output_files import check_outputs, write_json

if TYPE_CHECKING:
    from brigade.verify.models import RankOptions
    from brigade.verify.play import Ask
    from brigade.verify.report import Paint
    from brigade.verify.rows import Load
    from brigade.verify.run import Change

EXIT_CODES = "exit codes: 0 all the same; 1 something differs; 2 nothing differs, but something could not be run or compared"
OVERRIDES = ("tp", "pp", "pp_layers", "dp", "kills", "engine", "threads", "backend", "device")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    said = "write the golden file of a case: what its model says, on the layout that the case names"
    record = kinds.add_parser("record", help=said, description=said)
    record.add_argument("case", metavar="CASE", help="a folder with case.yaml")
    record.add_argument("--force", action="store_true", help="write over a golden file that is there")
    add_rank_options(record.add_argument_group("ranks"))
    said = "run cases and compare with their golden files"
    check = kinds.add_parser("check", help=said, description=said, epilog=EXIT_CODES)
    check.add_argument("cases", nargs="*", metavar="CASE", help="a folder, or the name of a case that comes with the package")
    check.add_argument("--shipped", action="store_true", help="all cases that come with the package")
    said = "of each case only the runs with this in their names; may be given again"
    check.add_argument("--runs", metavar="TEXT", action="append", help=said)
    check.add_argument("--json", type=Path, metavar="FILE")
    group = check.add_argument_group("one run of your own, in place of those that a case lists")
    group.add_argument("--tp", type=int, metavar="N", help="tensor parallel: ranks that share each matrix")
    group.add_argument("--pp", type=int, metavar="N", help="pipeline parallel: stages of layers")
    group.add_argument("--pp-layers", type=counts, metavar="LIST", help="layers of each stage, such as 10,14")
    group.add_argument("--dp", type=int, metavar="N", help="replicas of all that, behind a coordinator")
    group.add_argument("--kills", type=int, metavar="N", help="with --dp: replicas that are killed on the way")
    group.add_argument("--engine", choices=["dynamic", "static"])
    group.add_argument("--threads", type=int)
    group.add_argument("--backend")
    group.add_argument("--device")
    add_rank_options(check.add_argument_group("ranks"))
    said = "play the same requests over layouts and engine settings, and compare all with one rank that runs them one by one"
    matrix = kinds.add_parser("matrix", help=said, description=said, epilog=EXIT_CODES)
    matrix.add_argument("model", nargs="?", metavar="MODEL", help="a folder, an artifact or a recipe (default: the embedded model)")
    matrix.add_argument("--random-weights", type=int, metavar="SEED", help="build a recipe with deterministic weights")
    matrix.add_argument("--dtype", default="auto", help="auto, float32 or bfloat16")
    matrix.add_argument("--quant", help="none, int8, int8-weight, int4 or int4-int8")
    matrix.add_argument("--backend", default="auto", help="auto, cpu (native kernels) or reference")
    matrix.add_argument("--device", default="cpu")
    matrix.add_argument("--numerics", metavar="ID", help="bits to give, such as bf16-fma")
    matrix.add_argument("--prompts-file", metavar="JSONL", help="one JSON object a line: text or token_ids, and parameters")
    matrix.add_argument("--num-prompts", type=int, metavar="N", help="of the built-in prompts (default 8)")
    matrix.add_argument("--max-tokens", type=int, metavar="N", default=12, help="of each answer (default 12)")
    said = "only the reference, and rows with this in their names; may be given again"
    matrix.add_argument("--rows", metavar="TEXT", action="append", help=said)
    matrix.add_argument("--json", type=Path, metavar="FILE")
    said = "write the rows as a page for a browser, with a picture of each layout; it is kept up to date while rows come"
    matrix.add_argument("--html", type=Path, metavar="FILE", help=said)
    add_rank_options(matrix.add_argument_group("ranks"))


def _rank_options(args: argparse.Namespace) -> RankOptions:
    from brigade.verify.models import RankOptions

    return RankOptions(args.exchange, args.rank_timeout, tuple(args.import_modules))


def run(args: argparse.Namespace) -> int:
    return {"record": _record, "check": _check, "matrix": _matrix}[args.kind](args)


def _record(args: argparse.Namespace) -> int:
    from brigade.verify.case import find_case, read_case
    from brigade.verify.check import record_case
    from brigade.verify.report import did

    case = read_case(find_case(args.case))
    check_outputs({"golden file": case.golden})
    progress = Progress("requests")
    found = record_case(case, args.force, progress, _rank_options(args))
    progress.close()
    print(f"recorded {case.golden}: {len(found.requests)} requests, {found.numerics_id}; {did(found.measured)}")
    print(f"the model's fingerprint is {found.fingerprint}")
    return 0


def _check(args: argparse.Namespace) -> int:
    from brigade.verify.case import find_case, read_case, shipped_cases
    from brigade.verify.check import check_case, exit_code, runs_of
    from brigade.verify.report import outcome_lines

    folders = [find_case(name) for name in args.cases] + (shipped_cases() if args.shipped else [])
    if not folders:
        raise ConfigError("no case is named; give folders with a case.yaml, or --shipped")
    check_outputs({"--json": args.json}, folders)
    change = _change(args)
    cases = [read_case(folder) for folder in folders]
    work = [(case, runs_of(case, change, args.runs)) for case in cases]
    options = _rank_options(args)
    options.check_effect(run for _, runs in work for run in runs)
    outcomes, paint = [], _paint()
    for case, runs in work:
        progress = Progress(case.name)
        for outcome in check_case(case, runs, progress, options):
            progress.close()
            outcomes.append(outcome)
            print("\n".join(outcome_lines(outcome, paint)), flush=True)
        progress.close()
    same = sum(outcome.is_same for outcome in outcomes)
    print(f"{same} of {len(outcomes)} runs say what was recorded")
    if args.json is not None:
        write_json(args.json, [outcome.as_dict() for outcome in outcomes])
    return exit_code(outcomes)


def _change(args: argparse.Namespace) -> Change | None:
    from brigade.verify.layout import Layout
    from brigade.verify.run import Change

    given = {name: getattr(args, name) for name in OVERRIDES if getattr(args, name) is not None}
    if not given:
        return None
    if args.runs is not None:
        raise ConfigError("--runs chooses among the runs of a case, which the other options replace; drop one of them")
    layout = {name: given.pop(name) for name in ("tp", "pp", "pp_layers", "dp") if name in given}
    if "pp_layers" in layout:
        layout["pp_layers"] = tuple(layout["pp_layers"])
    return Change(**given, **({"layout": Layout(**layout)} if layout else {}))


def _matrix(args: argparse.Namespace) -> int:
    from brigade.verify.layout import possible_layouts
    from brigade.verify.matrix import exit_code, run_matrix
    from brigade.verify.models import ModelChoice, Models
    from brigade.verify.page import PageFile, Plan
    from brigade.verify.report import Grid, difference_lines, summary
    from brigade.verify.rows import Load, matrix_rows

    begun = datetime.now().astimezone()
    check_outputs({"--json": args.json, "--html": args.html}, [args.prompts_file, *model_files(args.model)])
    asks, source = _asks(args)
    lengths = [len(ask.prompt) for ask in asks]
    load = Load(lengths, [ask.params["max_tokens"] for ask in asks])
    rows = matrix_rows(possible_layouts(source.config), load, _thread_counts())
    reference, *others = rows
    chosen = [row for row in others if args.rows is None or any(text in row.name for text in args.rows)]
    if not chosen:
        wanted = " or ".join(map(repr, args.rows))
        raise ConfigError(f"no row has {wanted} in its name; without --rows all {len(others)} run, such as {others[0].name!r}")
    options = _rank_options(args)
    options.check_effect(chosen)
    grid, paint = None, _paint()
    given = ("model", "random_weights", "dtype", "quant", "backend", "device", "numerics")
    choice = ModelChoice(**{name: getattr(args, name) for name in given})
    runs = [reference, *chosen]
    plan = Plan(runs, source.config, source.name, _facts(args, load), begun, len(others) - len(chosen))
    with PageFile(args.html, plan) as page:  # around all that prints: a closed pipe must not cost the page
        with Models(choice, options) as models:
            for row in run_matrix(models, runs, asks):
                if grid is None:
                    print(_title(models.get(reference).llm, len(asks)))
                    grid = Grid([one.name for one in runs], paint)
                    print(grid.head())
                page.add(row)
                print(grid.line(row), flush=True)
        found = page.rows
        for row in found:
            if row.differences is not None and not row.differences.is_same:
                print("\n".join([row.run.name, *difference_lines(row.differences)]))
        print(summary(found, len(others) - len(chosen)), flush=True)
    if args.json is not None:
        write_json(args.json, [row.as_dict() for row in found])
    return exit_code(found)


def _title(llm: Any, count: int) -> str:
    return f"{llm.name} {llm.fingerprint} | {llm.number_formats} | {llm.numerics_id} | {count} requests"


def _facts(args: argparse.Namespace, load: Load) -> dict[str, str]:
    """What the page says of the run, besides what its rows say."""
    import psutil

    from brigade.cli.env import processor
    from brigade.engine.memory_plan import readable

    machine = f"{processor()}, {os.cpu_count()} cores, {readable(psutil.virtual_memory().total)}, {platform.platform()}"
    requests = f"{len(load.prompts)}, with {load.whole} ids of prompts and up to {sum(load.outputs)} of answers"
    python = f"Python {platform.python_version()}"
    return {"requests": requests, "machine": f"{machine}, {python}", "command": shlex.join(["brigade", *args.argv])}


def _asks(args: argparse.Namespace) -> tuple[list[Ask], Any]:
    """The requests as ids, and the model they are for."""
    from brigade.checkpoint.load import open_model
    from brigade.cli.prompts import read_prompts_file
    from brigade.engine.prompt import encode_prompt
    from brigade.tokenizer import Tokenizer
    from brigade.verify.case import checked_params
    from brigade.verify.play import Ask
    from brigade.verify.prompts import built_in
    from brigade.verify.record import METRICS

    source = open_model(args.model)
    tokenizer = Tokenizer.of_model(source.tokenizer_path)
    for name in ("max_tokens", "num_prompts"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')} is {getattr(args, name)}; it must be 1 or more")
    if args.prompts_file is None:
        size, limit = source.config.vocab_size, source.config.max_positions
        return built_in(args.num_prompts or 8, args.max_tokens, tokenizer, size, limit), source
    if args.num_prompts is not None:
        raise ConfigError("--num-prompts counts the built-in prompts, which --prompts-file replaces; drop one of them")
    prompts, settings = read_prompts_file(args.prompts_file, {"temperature": 0, "max_tokens": args.max_tokens})
    asks = []
    for number, (prompt, params) in enumerate(zip(prompts, settings, strict=True)):
        try:
            if params["max_tokens"] is None:
                raise RequestError("max_tokens is null, but the rows need a number; give one")
            asks.append(Ask(str(number), encode_prompt(prompt, tokenizer).token_ids, checked_params(params, METRICS)))
        except (ConfigError, RequestError) as error:
            raise RequestError(f"{args.prompts_file}, prompt {number}: {error}") from error
    return asks, source


def _thread_counts() -> list[int]:
    from brigade.backends.cpu.threads import usable

    return sorted({1, len(usable())})


def _paint() -> Paint:
    from brigade.verify.report import Paint

    return Paint(sys.stdout.isatty() and not os.environ.get("NO_COLOR"))
