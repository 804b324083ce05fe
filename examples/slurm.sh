#!/bin/bash
#SBATCH --job-name=coop
#SBATCH --array=1-3                # one job per seed
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --time=02:00:00
#SBATCH --signal=TERM@120          # 120 s before the limit: the run saves and stops
#SBATCH --requeue
#SBATCH --output=slurm-%A_%a.log   # without a terminal, progress is plain lines

# sbatch examples/slurm.sh DATASET.NAME dtd DATASET.ROOT /data    (CONFIG=vpt/vit_b16_deep.yaml before it: another config)
set -euo pipefail
status=0
# --resume auto continues where an earlier job of this seed was stopped, bit for bit
srun promptvision train --config "${CONFIG:-coop/vit_b16.yaml}" --resume auto SEED "$SLURM_ARRAY_TASK_ID" \
  TRAIN.WORKERS "$SLURM_CPUS_PER_TASK" OUTPUT_DIR "out/slurm/seed$SLURM_ARRAY_TASK_ID" "$@" || status=$?

# 143 is the status after SIGTERM: the same job again
if [ "$status" = 143 ]; then scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"; fi
exit "$status"
