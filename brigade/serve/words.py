"""Values of a request as an error shows them."""

from __future__ import annotations

import json
from typing import Any


def shown(value: Any) -> str:
    """In one line, as JSON, and cut short. Never raises."""
    try:
        text = " ".join(json.dumps(value, ensure_ascii=False).split())
    except (TypeError, ValueError, RecursionError):
        text = type(value).__name__
    return text if len(text) <= 60 else text[:57] + "..."
