"""From a source to a model with its weights in place: a folder, a model of the hub, a recipe, or the model inside the package."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from brigade import collector
from brigade.artifact.reader import Artifact, is_artifact
from brigade.backends.base import Backend
from brigade.backends.cpu.packer import plain_tensors
from brigade.checkpoint.families.family import Family
from brigade.checkpoint.families.registry import find_family
from brigade.checkpoint.families.settings import Settings
from brigade.checkpoint.hub import HubName, Snapshot, open_snapshot
from brigade.checkpoint.operations import NameMap, take, with_prefix
from brigade.checkpoint.random_weights import RandomTensors
from brigade.checkpoint.recipes import find_recipe, read_recipe, recipe_names
from brigade.checkpoint.safetensors_folder import FLOATS, SafetensorsFolder, shown
from brigade.checkpoint.tensor_source import TensorSource
from brigade.checkpoint.weights import Held, Progress, SourceWeights
from brigade.config import ModelConfig
from brigade.errors import CheckpointError, ConfigError
from brigade.mesh import Part
from brigade.model.gpt_model import GPTModel, empty_model

EMBEDDED = Path(__file__).resolve().parent.parent / "models" / "mini"
# Tables and masks that older checkpoints store beside the weights; the network makes its own.
BUFFERS = re.compile(r"(rotary_emb\.inv_freq|\.attn\.(bias|masked_bias)|\.attention\.(bias|masked_bias))$")


@dataclass(frozen=True)
class ModelSource:
    """What is known of a model before a weight is read."""

    name: str
    config: ModelConfig
    dtype: str  # the checkpoint's own
    path: Path | None = None  # a folder with weights
    family: Family | None = None
    artifact: Artifact | None = None
    snapshot: Snapshot | None = None  # of the hub: its weights may still have to be fetched into `path`

    @property
    def tokenizer_path(self) -> Path | None:
        if self.path is None:
            return None
        files = ("tokenizer.json", "vocab.json")
        return self.path if any((self.path / file).exists() for file in files) else None

    def fetch_weights(self) -> None:
        """Of a model of the hub, where they are not here yet. Who reads weights calls this; other work needs none."""
        if self.snapshot is not None:
            self.snapshot.fetch_weights()


def open_model(source: str | Path | None = None) -> ModelSource:
    """None or `mini` is the embedded model; else a Hugging Face folder, an artifact, a recipe's name, a recipe's YAML file, or
    `org/name` or `org/name@revision` of the Hugging Face hub. A folder of that name wins."""
    collector.resume()  # every process that works with a model comes by here, and its modules are imported
    if not (source is None or isinstance(source, (str, Path))):
        raise CheckpointError(f"a model is a folder or a recipe's name, not a {type(source).__name__}; give a str or a Path")
    path = EMBEDDED if source is None or (source == EMBEDDED.name and not Path(source).exists()) else Path(source)
    if path.is_dir():
        if is_artifact(path):
            return _open_artifact(path)
        return _open_folder(path, path.resolve().name)
    recipe = find_recipe(str(source))
    if recipe is None:
        name = HubName.read(source)
        if name is not None:
            snapshot = open_snapshot(name)
            return replace(_open_folder(snapshot.folder, name.repo), snapshot=snapshot)
        if path.suffix.lower() == ".gguf":
            raise CheckpointError(
                f"{path} is a GGUF file, which is not read; give the Hugging Face folder of that model, or org/name"
            )
        if path.is_file():
            raise CheckpointError(
                f"{path} is a file; give the model's folder (with config.json), an artifact's, or a recipe (.yaml)"
            )
        named = ", ".join([EMBEDDED.name, *recipe_names()])
        raise CheckpointError(
            f"no model {str(source)!r}: neither a folder nor a recipe; there are {named}, and models of the hub as org/name"
        )
    config, dtype = read_recipe(recipe)
    return ModelSource(recipe.stem, config, dtype)


def _open_artifact(path: Path) -> ModelSource:
    artifact = Artifact.open(path)
    return ModelSource(path.resolve().name, artifact.manifest.config, artifact.manifest.dtype, path, artifact=artifact)


def _open_folder(path: Path, name: str) -> ModelSource:
    file = path / "config.json"
    if not file.exists():
        raise CheckpointError(f"{path} has no config.json; give a model folder as save_pretrained writes it")
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error.strerror}); check the file and its permissions") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not valid JSON ({error}); fetch the file again") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{file} holds no settings; fetch the file again")
    family = find_family(values.get("model_type"))
    if values.get("quantization_config"):
        raise CheckpointError(f"{file} says the weights are quantised, which is not supported; use the unquantised model")
    dtype = str(values.get("dtype") or values.get("torch_dtype") or "float32").removeprefix("torch.")
    return ModelSource(name, family.translate(Settings(values)), dtype, path, family)


def own_dtype(source: ModelSource) -> str:
    """What weights are held in where nobody says: the checkpoint's own type. float16 becomes float32, which has all its numbers in
    twice the memory (`say_widened`); bfloat16, which rounds them, is taken only where it is asked for."""
    return "float32" if source.dtype == "float16" else source.dtype


def say_widened(source: ModelSource, dtype: torch.dtype) -> None:
    """Once for each model whose weights are read."""
    if source.dtype == "float16" and dtype == torch.float32:
        print(
            f"brigade: {source.name} is stored in float16, which becomes float32 and takes twice the memory of its files; "
            "--dtype bfloat16 takes as much as they do, and rounds the weights",
            file=sys.stderr,
        )


def check_random_weights(source: ModelSource, seed: int | None) -> None:
    """Weights come from one place."""
    if (source.path is None) != (seed is not None):
        raise ConfigError(
            f"{source.name} is a recipe without weights; give --random-weights SEED (in Python random_weights=SEED)"
            if source.path is None
            else f"{source.name} has weights of its own; drop --random-weights, or give a recipe"
        )


def load_model(
    source: ModelSource,
    backend: Backend,
    dtype: torch.dtype = torch.float32,
    random_weights: int | None = None,
    max_length: int | None = None,
    progress: Progress | None = None,
) -> GPTModel:
    """The network with its weights, rounded to `dtype` and held as the backend wants them, ready to run."""
    return fill(empty_model(source.config, backend, max_length), source, dtype, random_weights, progress)


def fill(
    model: GPTModel,
    source: ModelSource,
    dtype: torch.dtype = torch.float32,
    random_weights: int | None = None,
    progress: Progress | None = None,
) -> GPTModel:
    """Give an empty network its weights; one that is a rank's part, what it holds of them. The files are proven whole either
    way."""
    backend = model.backend
    assert all(parameter.is_meta for parameter in model.parameters()), "this network has its weights already"
    if source.artifact is not None:
        check_random_weights(source, random_weights)
        backend.probe(source.config, model.held.tp)
        return _load_packed(model, source.artifact, backend, progress)
    weights = weights_for(model, source, dtype, random_weights, progress)
    backend.probe(source.config, model.held.tp)
    backend.prepare(model, weights)
    left = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    assert not left, f"the {backend.name} backend left {left[:3]} without values"
    return model.eval().requires_grad_(False)


def weights_for(
    model: GPTModel, source: ModelSource, dtype: torch.dtype, random_weights: int | None, progress: Progress | None = None
) -> SourceWeights:
    """Where an empty network's weights are read from, proven to fit it. Of a source that is no artifact."""
    backend = model.backend
    check_random_weights(source, random_weights)
    say_widened(source, dtype)
    whole = model if model.held == Part.whole(source.config) else empty_model(source.config, backend)
    shapes = {name: tuple(parameter.shape) for name, parameter in whole.named_parameters()}
    tensors: TensorSource
    if random_weights is not None:
        tensors = RandomTensors(random_weights, source.config.norm_weight_offset, shapes)
        table: NameMap = {name: take(name) for name in shapes}
    else:
        tensors, table = open_weights(source)
        assert set(table) == set(shapes), f"the name map of {source.config.family} disagrees: {set(table) ^ set(shapes)}"
    names = [name for name, _ in model.named_parameters()]
    return SourceWeights(tensors, table, shapes, Held(backend, dtype), progress, names)


def _load_packed(model: GPTModel, artifact: Artifact, backend: Backend, progress: Progress | None) -> GPTModel:
    """Weights that lie packed in a mapped file: given to the backend as they are, or a rank's part of them."""
    ready = artifact.read(progress)
    whole = model if model.held == Part.whole(model.config) else empty_model(model.config, backend)
    shapes = {name: tuple(tensor.shape) for name, tensor in plain_tensors(whole).items()}
    if shapes != {name: tuple(tensor.shape) for name, tensor in ready.tensors.items()}:
        raise CheckpointError(f"{artifact.folder} holds other tensors than its architecture needs; export the model again")
    own = {name: ready.tensors[name] for name in plain_tensors(model)}
    own |= {name: cut.of(own[name]) for name, cut in model.cuts.items() if name in own}
    model.load_state_dict(own, strict=False, assign=True)
    model.eval().requires_grad_(False)
    backend.adopt(model, ready)
    return model


def open_weights(source: ModelSource) -> tuple[SafetensorsFolder, NameMap]:
    """The folder's tensors and how our parameters are made of them, proven to fit each other before one is read."""
    assert source.path is not None
    source.fetch_weights()
    files = SafetensorsFolder(source.path)
    table = name_map(source, files)
    _check_names(source, files, table)
    return files, table


def name_map(source: ModelSource, files: SafetensorsFolder) -> NameMap:
    """How our parameters are made of this folder's tensors, with the wrapper prefix where the checkpoint was saved with it."""
    family = source.family
    assert family is not None
    has_prefix = any(name.startswith(family.prefix) for name in files.entries)
    return with_prefix(family.names(source.config), family.prefix if has_prefix else "")


def _check_names(source: ModelSource, files: SafetensorsFolder, table: NameMap) -> None:
    read = {name for operation in table.values() for name in operation.names}
    missing = sorted(read - set(files.entries))
    if missing:
        raise CheckpointError(
            f"{len(missing)} tensors are missing from {source.path}, first {missing[0]}; fetch the missing files again"
        )
    heads = {"lm_head.weight", "embed_out.weight"} if source.config.tied_head else set()
    foreign = sorted(name for name in set(files.entries) - read - heads if not BUFFERS.search(name))
    if foreign:
        raise CheckpointError(
            f"{source.path} holds {len(foreign)} tensors that {source.config.family} does not have, first {shown(foreign[0])}; "
            "its model_type does not fit its weights"
        )
    for name in read:
        if files.entries[name].dtype not in FLOATS:
            raise CheckpointError(
                f"tensor {name} is {files.entries[name].dtype}; only {', '.join(sorted(FLOATS))} are read: "
                "use an unquantised checkpoint"
            )
