#!/usr/bin/env bash
# gpt-12b over 8 ranks that Slurm starts: tensor parallel 4 x pipeline parallel 2. `sbatch examples/launch/gpt_12b_slurm.sh`,
# or `bash` inside of an allocation; SLURM options such as --nodes 2 go to sbatch.
#SBATCH --job-name=brigade-gpt-12b
#SBATCH --ntasks=8
command -v srun > /dev/null || { echo "$0: no srun on this machine; run it where Slurm is, or take gpt_12b_alone.sh" >&2; exit 2; }
exec srun --kill-on-bad-exit=1 --cpu-bind=none --ntasks 8 ${BRIGADE:-brigade} generate --model gpt-12b --random-weights 0 --tp 4 --pp 2 \
    --token-ids "464 3280 318" --max-tokens 8 "$@"
