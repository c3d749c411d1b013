"""Text and ids."""

from brigade.tokenizer.detokenizer import Detokenizer
from brigade.tokenizer.stop_strings import StopStrings
from brigade.tokenizer.tokenizer import Tokenizer

__all__ = ["Detokenizer", "StopStrings", "Tokenizer"]
