#!/usr/bin/env bash
# gpt-357m over 4 ranks that torchrun starts: tensor parallel 2 x pipeline parallel 2.
# On several machines run it on each, with NNODES, NODE_RANK and MASTER_ADDR set; 4 must be a multiple of NNODES.
NNODES=${NNODES:-1}
exec ${TORCHRUN:-torchrun} --nnodes "$NNODES" --node-rank "${NODE_RANK:-0}" --nproc-per-node $((4 / NNODES)) \
    --master-addr "${MASTER_ADDR:-127.0.0.1}" --master-port "${MASTER_PORT:-29500}" \
    -m brigade.cli.main generate --model gpt-357m --random-weights 0 --tp 2 --pp 2 \
    --token-ids "464 3280 318" --max-tokens 8 "$@"
