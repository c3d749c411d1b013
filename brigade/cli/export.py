"""`brigade export`: a model packed once, so that every later start maps it into memory."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from brigade.cli.options import add_quant_options, model_files
from brigade.cli.progress import Progress
from brigade.errors import ConfigError
from brigade.output_files import check_apart


def add_arguments(parser: argparse.ArgumentParser) -> None:
    said = "a Hugging Face folder, org/name of the hub, a recipe, or `mini`, the embedded model"
    parser.add_argument("model", metavar="MODEL", help=said)
    parser.add_argument("out", metavar="OUT", type=Path, help="a folder that is not there yet, or is empty")
    parser.add_argument("--dtype", default="auto", help="auto, float32 or bfloat16: of what is not quantised, and of the KV cache")
    parser.add_argument("--random-weights", type=int, metavar="SEED", help="build a recipe with deterministic weights")
    said = "brigade: an artifact for this system; compressed-tensors: a Hugging Face folder for other engines"
    parser.add_argument("--format", choices=["brigade", "compressed-tensors"], default="brigade", help=said)
    add_quant_options(parser)


def run(args: argparse.Namespace) -> int:
    from brigade.artifact.writer import Facts, check_free, write_artifact
    from brigade.assembly.choices import Choices, settle
    from brigade.checkpoint.load import load_model, open_model
    from brigade.engine.memory_plan import readable

    check_free(args.out)
    check_apart({"OUT": args.out}, model_files(args.model))
    source = open_model(args.model)
    if source.artifact is not None:
        raise ConfigError(f"{source.name} is an artifact already; export the model that it was made from")
    choices = Choices(args.model, args.dtype, "cpu", quant=args.quant, skip_layers=args.skip_layers)
    if args.format == "compressed-tensors":
        return _for_others(args, source, choices)
    backend, dtype = settle(source, choices)
    begun, loading = time.perf_counter(), Progress("packing")
    model: Any = load_model(source, backend, dtype, args.random_weights, progress=loading)
    loading.close()
    facts = Facts(
        source.name, source.config, str(dtype).removeprefix("torch."), backend.quant.scheme, backend.quant.skip,
        backend.numerics_id, tuple(backend.tensor_sums(model, dtype)),
    )  # fmt: skip
    writing = Progress("writing")
    manifest = write_artifact(args.out, model.packed, facts, source.path, writing)
    writing.close()
    print(
        f"{args.out}: {source.name} for {manifest.numerics_id}, {len(manifest.matrices)} matrices and {len(manifest.tensors)} "
        f"tensors, {readable(manifest.weight_bytes)} in {time.perf_counter() - begun:.1f} s"
    )
    return 0


def _for_others(args: argparse.Namespace, source: Any, choices: Any) -> int:
    """Only what quantises needs the kernels: tensors that stay whole are copied."""
    from brigade.assembly.choices import quantisation, resolve_dtype
    from brigade.backends.cpu.library import kernels
    from brigade.checkpoint.compressed_tensors import write_compressed_tensors

    if args.random_weights is not None:
        raise ConfigError("--random-weights has no effect on --format compressed-tensors, which takes a model folder; drop it")
    dtype, quant = resolve_dtype(choices.dtype, source), quantisation(choices, source.config.num_layers)
    if quant.scheme != "none":
        kernels()  # refused now where they were not built
    writing = Progress("writing")
    written = write_compressed_tensors(source, args.out, dtype, quant, writing)
    writing.close()
    print(f"{args.out}: {source.name} for other engines, {written.quantised} of {written.tensors} tensors in {quant.label}")
    if written.whole:
        print(f"{len(written.whole)} matrices stay whole, since no group size divides their inputs: {written.whole[0]}, ...")
    return 0
