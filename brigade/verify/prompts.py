"""The requests of the matrix where nobody brings his own: texts for models with a tokenizer, ids for others."""

from __future__ import annotations

from typing import Any

from brigade.engine.sampling.rng import mix
from brigade.errors import RequestError
from brigade.tokenizer import Tokenizer
from brigade.verify.play import Ask

# How many ids each has: around the borders of cache blocks and chunks, so that answers grow into the next block.
LENGTHS = (29, 5, 61, 93, 30, 2, 62, 33)
COMMON = 33  # ids that the longer ones begin with together, so that the prefix cache has something to find
TEXT = """
def read_lines(path, limit=None):
    '''The lines of a file, without their ends; at most `limit` of them.'''
    found = []
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file):
            if limit is not None and number >= limit:
                break
            found.append(line.rstrip("\\n"))
    return found

The lighthouse keeper wrote down the weather every evening: wind from the west, a calm sea, two fishing boats on their way home. On
Sundays his sister came with bread and with news from the village, and they sat on the steps until the lamp had to be lit.

class Basket:
    def __init__(self, fruits=()):
        self.fruits = list(fruits)

    def heaviest(self):
        return max(self.fruits, key=lambda fruit: fruit.weight, default=None)
"""


def built_in(count: int, max_tokens: int, tokenizer: Tokenizer | None, vocab_size: int, limit: int) -> list[Ask]:
    """Every other one is drawn with a seed of its own, the others are greedy. Each is answered with all its tokens."""
    most = limit - max_tokens
    if most < 1:
        raise RequestError(f"{max_tokens} tokens leave no room for a prompt in {limit} positions; lower --max-tokens")
    ids = _ids(tokenizer, vocab_size)
    asks = []
    for number in range(count):
        length = min(LENGTHS[number % len(LENGTHS)], most)
        start = mix(number) % len(ids)
        own = [ids[(start + place) % len(ids)] for place in range(length)]
        prompt = own if length <= COMMON else (ids[:COMMON] + own)[:length]
        drawn = {"temperature": 0.8, "top_p": 0.95, "seed": number} if number % 2 else {"temperature": 0}
        asks.append(Ask(str(number), prompt, {**drawn, "max_tokens": max_tokens, "ignore_eos": True, "logprobs": 0}))
    return asks


def _ids(tokenizer: Any, vocab_size: int) -> list[int]:
    """Enough of them that no two prompts are alike."""
    if tokenizer is not None:
        return [one for one in tokenizer.encode(TEXT, add_special_tokens=False) if one < vocab_size]
    return [mix(place) % vocab_size for place in range(300)]
