#!/usr/bin/env bash
# bash experiments/throughput/run_h200.sh [SECONDS] [first|second] [FOLDER]
#
# One prepared run on a GPU of at most SECONDS (560): the most important comparisons first, each in a process of its own
# that is ended at its limit. Lines are written as they come to FOLDER/lines.jsonl, the table at the end to
# FOLDER/table.md; what no time is left for is written as skipped. `second` has what a second run is for.
# DRY=1 prints the commands and runs none. TINY=1 takes tiny sizes, to try the script on a CPU.
set -u
budget=${1:-560} part=${2:-first} out=${3:-throughput_out}
python=${PYTHON:-python} size=${TINY:+tiny} size=${size:-paper}
mkdir -p "$out"
lines=$out/lines.jsonl log=$out/log.txt
started=$SECONDS
# Kept between items and between runs: compiled programs, and what was tuned of them.
export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$out/compiled}
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 XLA_PYTHON_CLIENT_MEM_FRACTION=.7
base_flags=${XLA_FLAGS:-}

# item NAME LIMIT COMMAND...: runs a command for at most LIMIT seconds, or says why not.
item() {
  local name=$1 limit=$2 left=$((budget - (SECONDS - started))) rc=0
  shift 2
  if [ "${DRY:-}" = 1 ]; then echo "$name, at most $limit s: $*"; return; fi
  if [ "$left" -lt $((limit / 2)) ]; then
    echo "{\"item\": \"$name\", \"skipped\": \"$left s were left\"}" >>"$lines"
    return
  fi
  if [ "$limit" -gt "$left" ]; then limit=$left; fi
  echo "== $name" >>"$log"
  timeout -k 5 "$limit" "$@" >>"$log" 2>&1 || rc=$?
  if [ "$rc" -ne 0 ]; then
    echo "{\"item\": \"$name\", \"skipped\": \"exit code $rc, at most $limit s (log.txt)\"}" >>"$lines"
  fi
}

# step NAME LIMIT SYSTEM SIDE DTYPE [LAYOUT]: our step or a peer's.
step() {
  local layouts=() rounds=(--rounds 5 --per-round 10)
  if [ -n "${TINY:-}" ]; then rounds=(--rounds 2 --per-round 1); fi
  if [ -n "${6:-}" ]; then layouts=(--layouts "$6"); fi
  item "$1" "$2" "$python" -m experiments.throughput.step --system "$3" --sides "$4" --dtype "$5" --size "$size" \
    "${rounds[@]}" "${layouts[@]}" --out "$lines"
}

# nhwc STEP...: our step with all convolutions channels last.
nhwc() { XLA_FLAGS="$base_flags --xla_gpu_force_conv_nhwc=true" step "$@"; }
if [ -n "${TINY:-}" ]; then nhwc() { step "$@"; }; fi

tried() {
  if [ "${DRY:-}" = 1 ]; then echo "would print nvidia-smi"; return; fi
  { nvidia-smi --query-gpu=name,driver_version,clocks.sm,memory.total --format=csv || echo "no nvidia-smi"; } >>"$log" 2>&1
}

tried
if [ "$part" = first ]; then
  ceiling=()
  if [ -n "${TINY:-}" ]; then ceiling=(--side 256 --megabytes 8 --calls 1); fi
  item ceilings 45 "$python" -m experiments.throughput.ceilings "${ceiling[@]}" --out "$lines"
  nhwc cmft 120 cmft ours bfloat16
  step torch_cmft_contiguous 40 cmft torch bfloat16 contiguous
  step torch_cmft_channels_last 40 cmft torch bfloat16 channels_last
  nhwc hyperdense 75 hyperdense ours bfloat16
  step torch_hyperdense 30 hyperdense torch bfloat16
  nhwc infinet 75 infinet ours bfloat16
  step torch_infinet 30 infinet torch bfloat16
  nhwc hinet 90 hinet ours bfloat16
  step torch_hinet 40 hinet torch bfloat16
  nhwc cmff 90 cmff ours bfloat16
  step torch_cmff 40 cmff torch bfloat16
else
  nhwc fuse4seg_pretraining 120 fuse4seg_pretraining ours bfloat16
  step torch_fuse4seg_pretraining 40 fuse4seg_pretraining torch bfloat16
  nhwc hyperfusion 100 hyperfusion ours bfloat16
  step torch_hyperfusion 40 hyperfusion torch bfloat16
  nhwc fuse4seg 180 fuse4seg ours bfloat16
  step torch_fuse4seg 60 fuse4seg torch bfloat16
  nhwc cmft_float32 120 cmft ours float32
  step torch_cmft_float32 40 cmft torch float32
fi
if [ "${DRY:-}" = 1 ]; then exit 0; fi
"$python" -m experiments.throughput.table "$lines" >"$out/table.md"
cat "$out/table.md"
