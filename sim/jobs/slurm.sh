#!/bin/bash
# A sweep as a Slurm job array: one task for each shard, all into one directory.
#
#   sbatch sim/jobs/slurm.sh                        start it
#   sbatch --array=3,7 sim/jobs/slurm.sh            do again what failed or ran out of time
#   clusterd-sim merge points --out sweep.csv       once all tasks are done
#
# A task that is cut off loses only the points it was at: started again, it does what is
# missing. `merge` names the points that are missing, if any.
#
#SBATCH --job-name=clusterd-sim
# From 0 to SHARDS - 1.
#SBATCH --array=0-15
#SBATCH --cpus-per-task=4
# A run takes some tens of megabytes, more with many connections; --cpus-per-task at a time.
#SBATCH --mem=2G
#SBATCH --time=04:00:00
#SBATCH --output=sweep-%A_%a.log
# Killed to make room for others, a task is queued again.
#SBATCH --requeue

set -euo pipefail

# How many parts there are. Not SLURM_ARRAY_TASK_COUNT: that is less when only some tasks are
# started again, and then the parts would be others.
SHARDS=16

# `exec`, so that signals reach the simulator. The directory must be on a file system that all
# nodes share. All options but --jobs and --shard must be the same in all tasks.
exec clusterd-sim sweep base.toml \
    --over 'cluster.hosts=2..16*2' \
    --over 'cluster.settle=0s..1ms:250us' \
    --seed 1 --runs 20 \
    --jobs "${SLURM_CPUS_PER_TASK:-1}" \
    --shard "${SLURM_ARRAY_TASK_ID:?is set by sbatch --array}/$SHARDS" \
    --out points
