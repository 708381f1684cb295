#!/bin/bash
# A job on machines of Hugging Face. It copies its output folder from a bucket and to it, so that an attempt continues where
# the earlier one ended.
# Edit the variables. Run `hf auth login` and `hf buckets create my-runs`. Then start the job, or print it with --dry-run:
#   bash recipes/launch/hf_jobs.sh [options of hf jobs run]
BUCKET=${BUCKET:-hf://buckets/me/my-runs}
RECIPE=${RECIPE:-smolvlm2_256m/vision_stage}
FLAVOR=${FLAVOR:-h200x8}
IMAGE=${IMAGE:-pytorch/pytorch:2.13.0-cuda13.0-cudnn9-runtime}

# In the job, all GPUs of one machine train. Every ten minutes and at the end, the folder is copied to the bucket.
COMMAND='
set -e
pip install --quiet smol_hf
mkdir -p run
hf buckets sync "$BUCKET" run
save() { hf buckets sync --delete --exclude ".incomplete/*" run "$BUCKET"; }
(while sleep 600; do save || true; done) &
trap "kill $! || true; save" EXIT
torchrun --nproc_per_node gpu -m smol_hf.train \
    --config "$RECIPE" --output_dir run --resume_from_checkpoint true &
run=$!
trap "kill -TERM $run" TERM
wait "$run" || wait "$run" # a signal ends the first wait, not the run
'
hf jobs run --flavor "$FLAVOR" --timeout 24h --attempts 5 --secrets HF_TOKEN --env RECIPE="$RECIPE" \
    --env BUCKET="$BUCKET/$RECIPE" --env TORCH_ELASTIC_SHUTDOWN_TIMEOUT=540 "$@" "$IMAGE" bash -c "$COMMAND"
