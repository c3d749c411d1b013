"""CTranslate2's own converter, quantising on the way."""

from __future__ import annotations

import sys

from ctranslate2.converters import TransformersConverter


def main(source: str, out: str, kind: str) -> None:
    TransformersConverter(source).convert(out, quantization=kind)


if __name__ == "__main__":
    main(*sys.argv[1:])
