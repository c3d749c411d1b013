"""GPT-2 as GGUF: written in float32 with the `gguf` package, narrowed by llama.cpp's own quantiser with its defaults."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import gguf
import llama_cpp
from safetensors.numpy import load_file

FILE = "model.gguf"
KINDS = ("bf16", "q8_0", "q4_0")
WHOLE = {"wte.weight": "token_embd.weight", "wpe.weight": "position_embd.weight", "ln_f": "output_norm"}
LAYER = {
    "ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
}  # fmt: skip


def gguf_name(name: str) -> str:
    """`transformer.h.3.mlp.c_fc.weight` is `blk.3.ffn_up.weight`."""
    name = name.removeprefix("transformer.")
    if name in WHOLE:
        return WHOLE[name]
    part, _, kind = name.rpartition(".")
    if part in WHOLE:
        return f"{WHOLE[part]}.{kind}"
    _, layer, inner = part.split(".", 2)
    return f"blk.{layer}.{LAYER[inner]}.{kind}"


def write(source: Path, out: Path) -> None:
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    writer = gguf.GGUFWriter(str(out), "gpt2")
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_feed_forward_length(config["n_inner"])
    writer.add_block_count(config["n_layer"])
    writer.add_head_count(config["n_head"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    writer.add_file_type(llama_cpp.LLAMA_FTYPE_ALL_F32)
    writer.add_vocab_size(config["vocab_size"])
    add_words(writer, source, config["eos_token_id"])
    for name, tensor in load_file(source / "model.safetensors").items():
        turned = tensor.T.copy() if ".c_" in name and tensor.ndim == 2 else tensor
        writer.add_tensor(gguf_name(name), turned)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_words(writer: gguf.GGUFWriter, source: Path, end: int) -> None:
    """The text of every id, which a server needs for its answers. Prompts are ids, so the one merge is there only because the
    format wants some: it makes a word that the vocabulary lacks, which has no effect."""
    vocab = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    words = sorted(vocab, key=vocab.__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(words)
    kinds = gguf.TokenType
    writer.add_token_types([kinds.CONTROL if number == end else kinds.NORMAL for number in range(len(words))])
    writer.add_token_merges([f"{words[0]} {words[1]}"])
    writer.add_bos_token_id(end)
    writer.add_eos_token_id(end)
    writer.add_add_bos_token(False)


def main(source: str, out: str, kind: str) -> None:
    folder = Path(out)
    folder.mkdir(parents=True)
    whole = folder / "float32.gguf"
    write(Path(source), whole)
    params = llama_cpp.llama_model_quantize_default_params()
    assert kind in KINDS, kind
    params.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind.upper()}")
    if llama_cpp.llama_model_quantize(str(whole).encode(), str(folder / FILE).encode(), params):
        raise SystemExit(f"llama_model_quantize failed for {kind}")
    whole.unlink()


if __name__ == "__main__":
    main(*sys.argv[1:])
