#!/usr/bin/env bash
# gpt-12b over 8 ranks of this machine, which the command starts itself: tensor parallel 4 x pipeline parallel 2.
# More options go to the end: bash examples/launch/gpt_12b_alone.sh --max-tokens 16
exec ${BRIGADE:-brigade} generate --model gpt-12b --random-weights 0 --tp 4 --pp 2 \
    --token-ids "464 3280 318" --max-tokens 8 "$@"
