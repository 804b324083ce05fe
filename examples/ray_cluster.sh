#!/bin/bash
# A whole table on a Ray cluster, from a machine that all others reach. Each needs promptvision[ray], and images and
# weights at the same paths. Called as: bash examples/ray_cluster.sh examples/benchmark.yaml out/table worker1 worker2
set -euo pipefail
benchmark=$1 output=$2
shift 2

ray start --head --port 6379 --disable-usage-stats
trap 'ray stop' EXIT # of all Ray on this machine
for host in "$@"; do
  ssh "$host" ray start --address "$(hostname -i | cut -d" " -f1):6379" --disable-usage-stats
done

# GPUS=1: a GPU for each run, 0.25: four runs share one. The same command again keeps what is finished.
promptvision sweep --config "$benchmark" --output "$output" --ray auto --gpus "${GPUS:-0}"
