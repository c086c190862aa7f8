#!/bin/sh
# One training on every GPU of several nodes: sbatch docs/slurm_train.sh pcn_ablation --scale paper …
# Submit from the folder of this repository; `make setup ACCEL=cuda12` (or cuda13) comes first.
#
# Under SLURM jax gives each task one GPU, so a node has as many tasks as GPUs. The coordinator's
# host and port, the number of tasks and each one's place come from SLURM's own variables.
#SBATCH --job-name=ldct
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
# SIGTERM two minutes before the end: the training saves its state and ends with 143.
#SBATCH --signal=TERM@120
#SBATCH --requeue

# The proxies of some clusters keep the processes from finding each other.
unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY

# The run folder, the data and the cache must be on a file system that all nodes share.
export XDG_CACHE_HOME="${XDG_CACHE_HOME:-$HOME/.cache}"

exec srun --kill-on-bad-exit=1 .venv/bin/ldct train --distributed "$@"
