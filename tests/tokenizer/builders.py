"""Small real tokenizers, trained on the spot: one of each way of decoding."""

from __future__ import annotations

import json

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors, trainers

TEXT = ["def fibonacci(n): return n", "Grüße aus Köln – 你好, 世界! 🙂🙃", "naïve café", "a b  c\n\td"] * 4
ADDED = ["<tool>", "<two words>", "é工"]  # plain added tokens; the second and third are outside the byte alphabet


def byte_level() -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(vocab_size=330, special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False),
    )
    inner.add_tokens([AddedToken(text, normalized=False) for text in ADDED])
    return inner


def sentencepiece(strip: int = 1) -> tokenizers.Tokenizer:
    """As Llama 2 has it; `strip=0` as Gemma has it."""
    inner = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    inner.decoder = decoders.Sequence(steps + ([decoders.Strip(" ", strip, 0)] if strip else []))
    special = ["<unk>", "<s>", "</s>"]
    inner.train_from_iterator(
        ["def fibonacci return  x"] * 4, trainers.BpeTrainer(vocab_size=60, special_tokens=special, show_progress=False)
    )
    state = json.loads(inner.to_str())
    vocab = state["model"]["vocab"]
    for byte in range(256):
        vocab.setdefault(f"<0x{byte:02X}>", len(vocab))
    return tokenizers.Tokenizer.from_str(json.dumps(state))


def word_piece() -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    special = ["[UNK]", "[SEP]"]
    inner.train_from_iterator(TEXT, trainers.WordPieceTrainer(vocab_size=120, special_tokens=special, show_progress=False))
    return inner


def metaspace() -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    special = ["<unk>", "</s>"]
    inner.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=100, special_tokens=special, show_progress=False))
    return inner


def unusual_bytes() -> tokenizers.Tokenizer:
    """Byte fallback in an order that is nobody's habit: only its own decoder knows it."""
    inner = sentencepiece()
    inner.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Fuse(), decoders.Replace("▁", " "), decoders.Strip(" ", 1, 0)]
    )
    return inner


def without_decoder() -> tokenizers.Tokenizer:
    inner = word_piece()
    state = json.loads(inner.to_str())
    state["decoder"] = None
    return tokenizers.Tokenizer.from_str(json.dumps(state))


BUILDERS = {
    "byte level": byte_level,
    "sentencepiece": sentencepiece,
    "sentencepiece, nothing stripped": lambda: sentencepiece(0),
    "sentencepiece, two stripped": lambda: sentencepiece(2),
    "word piece": word_piece,
    "metaspace": metaspace,
    "unusual bytes": unusual_bytes,
    "no decoder": without_decoder,
}


def llama3_chat() -> tuple[tokenizers.Tokenizer, str, str]:
    """A tokenizer that puts a beginning before every text, a template that writes one, and that token."""
    inner = byte_level()
    special = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    inner.add_special_tokens(special)
    inner.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=False), _begin_with(special[0], inner.token_to_id(special[0]))]
    )
    template = (
        "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}<|eot_id|>"
        "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    )
    return inner, template, special[0]


def gemma_chat() -> tuple[tokenizers.Tokenizer, str, str]:
    inner = sentencepiece(0)
    special = ["<bos>", "<start_of_turn>", "<end_of_turn>"]
    inner.add_special_tokens(special)
    inner.post_processor = _begin_with("<bos>", inner.token_to_id("<bos>"))
    template = (
        "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m.role }}\n{{ m.content }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    )
    return inner, template, "<bos>"


def _begin_with(token: str, token_id: int) -> processors.TemplateProcessing:
    return processors.TemplateProcessing(single=f"{token} $A", special_tokens=[(token, token_id)])


CHATS = {"Llama 3": llama3_chat, "Gemma": gemma_chat}
