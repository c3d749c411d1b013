"""Another model family: settings translated, names mapped, registered under its model type.

This toy family is Llama's shape with ReLU and other names. docs/add_a_model.md walks through it.
"""

from __future__ import annotations

from brigade import ModelConfig, register_family
from brigade.checkpoint.families.family import Family
from brigade.checkpoint.families.settings import Settings
from brigade.checkpoint.operations import NameMap, joined, take
from brigade.config import RopeConfig


def translate(hf: Settings) -> ModelConfig:
    hf.require("causal", True, "attention is causal here")
    width, heads, head_dim = hf.heads("width", "heads")
    return ModelConfig(
        family="toy", vocab_size=hf.count("vocab_size"), num_layers=hf.count("depth"), hidden_size=width, num_heads=heads,
        num_kv_heads=heads, head_dim=head_dim, ffn_size=2 * width, max_positions=hf.count("context"), activation="relu",
        rope=RopeConfig(theta=hf.number("theta", 10000.0), rotary_dim=head_dim), tied_head=True,
    )  # fmt: skip


def names(config: ModelConfig) -> NameMap:
    table = {"embedding.word": take("@words"), "final_norm.weight": take("@end.scale")}
    for i in range(config.num_layers):
        ours, theirs = f"layers.{i}", f"@block.{i}"
        table[f"{ours}.attention_norm.weight"] = take(f"{theirs}.one.scale")
        table[f"{ours}.attention.qkv.weight"] = joined(f"{theirs}.q", f"{theirs}.k", f"{theirs}.v", rows=config.hidden_size)
        table[f"{ours}.attention.out.weight"] = take(f"{theirs}.o")
        table[f"{ours}.mlp_norm.weight"] = take(f"{theirs}.two.scale")
        table[f"{ours}.mlp.up.weight"] = joined(f"{theirs}.gate", f"{theirs}.up", rows=config.ffn_size)
        table[f"{ours}.mlp.down.weight"] = take(f"{theirs}.down")
    return table


TOY = Family("toy", ("toy",), translate, names, prefix="toy.")
register_family(TOY)


def main() -> None:
    from brigade.checkpoint.families.registry import family_names

    print("families:", ", ".join(family_names()))


if __name__ == "__main__":
    main()
