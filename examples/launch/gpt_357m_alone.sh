#!/usr/bin/env bash
# gpt-357m over 4 ranks of this machine, which the command starts itself: tensor parallel 2 x pipeline parallel 2.
# More options go to the end: bash examples/launch/gpt_357m_alone.sh --max-tokens 16
exec ${BRIGADE:-brigade} generate --model gpt-357m --random-weights 0 --tp 2 --pp 2 \
    --token-ids "464 3280 318" --max-tokens 8 "$@"
