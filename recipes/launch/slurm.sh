#!/bin/bash
# A Slurm job on several machines. It continues after its time limit, a preemption or a lost machine.
# Edit the lines with #SBATCH, the environment and the variables. Then run this in a checkout of smol_hf:
#   sbatch recipes/launch/slurm.sh [--key value …]
# Ten minutes before the time limit, the run saves a checkpoint, and the job returns to the queue. Exit codes: 0 if the run
# is finished or the job is queued again, 143 after a preemption or scancel, otherwise the code of srun.
#SBATCH --job-name=smol-hf
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@600

# source .venv/bin/activate
export RECIPE=${RECIPE:-smolvlm2_256m/vision_stage}
export OUTPUT=${OUTPUT:-runs/vision} # on a file system that all machines share
export STRATEGY=${STRATEGY:-recipes/accelerate/multi_node.yaml} # or fsdp2_hsdp.yaml, with the sizes in it changed
export PORT=${PORT:-29500}
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=540 # seconds to save a checkpoint in; without it, 30
MACHINE_0=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MACHINE_0

signal=
on_time_limit() { # the signal reaches only this script, so it tells the run
    signal=USR1
    scancel --signal=TERM "$SLURM_JOB_ID"
}
trap on_time_limit USR1
trap 'signal=${signal:-TERM}' TERM # Slurm tells the run too

# One task on each machine. accelerate starts a process for each of its GPUs.
srun --kill-on-bad-exit=1 bash -c 'exec accelerate launch --config_file "$STRATEGY" \
    --num_machines "$SLURM_NNODES" --machine_rank "$SLURM_NODEID" \
    --num_processes $((SLURM_NNODES * SLURM_GPUS_ON_NODE)) \
    --main_process_ip "$MACHINE_0" --main_process_port "$PORT" \
    -m smol_hf.train --config "$RECIPE" --output_dir "$OUTPUT" --resume_from_checkpoint true "$@"' smol-hf "$@" &
run=$!
wait "$run"
code=$?
while kill -0 "$run" 2> /dev/null; do # a signal ends the wait, not the run
    wait "$run"
    code=$?
done

if [ "$code" != 0 ] && [ "$signal" = USR1 ]; then
    scontrol requeue "$SLURM_JOB_ID"
elif [ "$code" != 0 ] && [ "$signal" = TERM ]; then
    exit 143
else
    exit "$code"
fi
