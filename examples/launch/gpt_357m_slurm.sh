#!/usr/bin/env bash
# gpt-357m over 4 ranks that Slurm starts: tensor parallel 2 x pipeline parallel 2. `sbatch examples/launch/gpt_357m_slurm.sh`,
# or `bash` inside of an allocation; SLURM options such as --nodes 2 go to sbatch.
#SBATCH --job-name=brigade-gpt-357m
#SBATCH --ntasks=4
command -v srun > /dev/null || { echo "$0: no srun on this machine; run it where Slurm is, or take gpt_357m_alone.sh" >&2; exit 2; }
exec srun --kill-on-bad-exit=1 --cpu-bind=none --ntasks 4 ${BRIGADE:-brigade} generate --model gpt-357m --random-weights 0 --tp 2 --pp 2 \
    --token-ids "464 3280 318" --max-tokens 8 "$@"
