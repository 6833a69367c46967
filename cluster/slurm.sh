#!/usr/bin/env bash
#SBATCH --job-name=raycomp
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=08:00:00
#SBATCH --exclusive
#SBATCH --no-kill
#SBATCH --signal=B:TERM@120
#SBATCH --open-mode=append
#SBATCH --output=raycomp-%j.log
#
# Starts Ray on the job's nodes, runs raycomp, and ends with its exit code. Instructions: cluster/slurm.md
#   sbatch cluster/slurm.sh JOB.toml STORAGE [--set KEY=VALUE ...]
# GPUs: sbatch --gpus-per-node=1 cluster/slurm.sh JOB.toml STORAGE --set train.gpus=1

set -euo pipefail

if (($# < 2)); then
  echo "usage: sbatch cluster/slurm.sh JOB.toml STORAGE [--set KEY=VALUE ...]" >&2
  exit 2
fi
job=$1 storage=$(realpath --canonicalize-missing "$2")
shift 2

# raycomp's settings (raycomp/runtime/cluster/connect.py) for all processes of a node; Ray reads the first at start.
export RAY_worker_niceness=0 RAY_USAGE_STATS_ENABLED=0 RAY_TRAIN_HEALTH_CHECK_INTERVAL_S=0.5
export RAY_TRAIN_METRICS_ENABLED=0 RAY_CHDIR_TO_TRIAL_DIR=0 RAY_TRAIN_ENABLE_PRINT_PATCH=0
export RAY_AIR_NEW_OUTPUT=0 TOKENIZERS_PARALLELISM=false RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0 RAY_ENABLE_UV_RUN_RUNTIME_ENV=0
export ONEDNN_PRIMITIVE_CACHE_CAPACITY=64

# A token for this job only. It is in the storage because every node must read it; other users may not.
private="$storage/.slurm-$SLURM_JOB_ID"
mkdir -p "$storage"
(
  umask 077
  mkdir -p "$private"
  python -c 'import secrets; print(secrets.token_hex(32), end="")' > "$private/token"
)
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$private/token"

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]} # the node that runs this script
address=${RAYCOMP_HEAD_IP:-$(hostname -I | awk '{print $1}')}:$((20000 + SLURM_JOB_ID % 10000))
temporary="/tmp/raycomp-$SLURM_JOB_ID" # not /tmp/ray, which may belong to another user
steps=()
driver=""

# End only the processes of this script: `ray stop` would end every Ray process on the machine.
cleanup() {
  local code=$?
  trap - EXIT
  trap '' INT TERM
  if [[ -n $driver ]]; then
    kill -TERM "$driver" 2> /dev/null || true
  fi
  if ((${#steps[@]})); then
    kill -TERM "${steps[@]}" 2> /dev/null || true
  fi
  wait || true
  srun --overlap --ntasks="${#nodes[@]}" --ntasks-per-node=1 rm -rf -- "$temporary" || true
  rm -rf -- "$private"
  exit "$code"
}
trap cleanup EXIT
trap 'exit 143' INT TERM

# start NODE OPTION...: `ray start` on one node, as a job step in the background.
start() {
  srun --overlap --nodes=1 --ntasks=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" --nodelist="$1" \
    ray start --block --num-cpus="$SLURM_CPUS_PER_TASK" --disable-usage-stats "${@:2}" &
  steps+=("$!")
}

start "$head" --head --node-ip-address="${address%:*}" --port="${address#*:}" \
  --dashboard-host=127.0.0.1 --temp-dir="$temporary"
until ray health-check --address "$address" > /dev/null 2>&1; do
  if ((SECONDS > 180)) || ! kill -0 "${steps[0]}" 2> /dev/null; then
    echo "Ray's head did not start on $head at $address. Set RAYCOMP_HEAD_IP to use another address." >&2
    exit 1
  fi
  sleep 2
done
for node in "${nodes[@]:1}"; do
  start "$node" --address="$address" --temp-dir="$temporary"
done

# raycomp divides its work over the nodes that are up when it starts, so wait for all of them.
python - "$address" "${#nodes[@]}" << 'PY'
import sys
import time

import ray

address, wanted = sys.argv[1], int(sys.argv[2])
ray.init(address, log_to_driver=False, logging_level="ERROR")
deadline = time.monotonic() + 300
while (alive := sum(node["Alive"] for node in ray.nodes())) < wanted:
    if time.monotonic() > deadline:
        sys.exit(f"Only {alive} of {wanted} nodes joined {address} within 300 s. Check the log of the missing nodes.")
    time.sleep(1)
PY

RAY_ADDRESS="$address" raycomp run "$job" --storage "$storage" "$@" &
driver=$!
code=0
wait "$driver" || code=$?
driver=""
exit "$code"
