#!/bin/bash
# One job for each method and seed: sweep.sh "METHOD …" "SEED …" [settings of harness.run]
# RUNS is the folder of the run folders, SBATCH_ARGS more arguments for sbatch (--nodes=2).
set -euo pipefail
METHODS=$1 SEEDS=$2
shift 2
HERE=$(cd "$(dirname "$0")" && pwd)
for method in $METHODS; do
  for seed in $SEEDS; do
    # shellcheck disable=SC2086 - SBATCH_ARGS is a list
    sbatch ${SBATCH_ARGS:-} --job-name="$method-$seed" "$HERE/run.sbatch" "$@" \
      method="$method" seed="$seed" run_dir="${RUNS:-runs}/$method-seed$seed"
  done
done
