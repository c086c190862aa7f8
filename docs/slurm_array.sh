#!/bin/sh
# A whole archive as a job array: sbatch docs/slurm_array.sh denoise /archive/ct /archive/denoised
# Every task takes its share of the series below one IN and writes to one OUT on a shared disk.
# Submit from the folder of this repository. A task that was killed is continued by the same
# command, alone: sbatch --array=3 docs/slurm_array.sh … (with SHARDS=8, the whole array's size).
#SBATCH --job-name=ldct-array
#SBATCH --array=1-8
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --requeue

exec .venv/bin/ldct "$@" --shard "$SLURM_ARRAY_TASK_ID/${SHARDS:-$SLURM_ARRAY_TASK_COUNT}"
