#!/bin/bash
# 1,000 members in the eight tasks of a SLURM array, each a shard of one output: sbatch slurm.sh
# Two minutes before its time limit SLURM sends SIGTERM; fsae-run then finishes what it writes and ends with 75, and the
# task goes back into the queue, to continue where it stopped. The last task to finish publishes the output.
#SBATCH --job-name=fsae
#SBATCH --array=1-8
#SBATCH --cpus-per-task=4
#SBATCH --mem=4G
#SBATCH --time=01:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
set -u
srun fsae-run --device cpu --threads "${SLURM_CPUS_PER_TASK:-1}" generate --members "${MEMBERS:-1000}" \
    --out "${OUT:-many.zarr}" --shard auto --resume
code=$?
if [ "$code" -eq 75 ]; then
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}" && exit 0
fi
exit "$code"
