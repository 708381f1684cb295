"""The job of Slurm, with programs in the place of those of Slurm: signals, exit codes, and two machines that train."""

import os
import signal
import subprocess
import sys
import time

import pytest
from launch_tools import read_words, stubs, with_tools
from processes import call, free_port
from tiny_runs import RECIPE, words
from training.test_launch_files import assert_resumes, parsed

from smol_hf.support.resources import resource_path
from smol_hf.training.checkpoint.checkpoints import list_checkpoints, verify
from smol_hf.training.log.console import read_log

SCRIPT = resource_path("recipes", "launch", "slurm.sh")
STRATEGIES = resource_path("recipes", "accelerate")
# srun starts a task on each machine; scancel signals the tasks, not the script.
SLURM = {
    "scontrol": 'if [ "$1" = show ]; then echo 127.0.0.1; echo 127.0.0.2; else echo "$@" >> "$PLACE/scontrol"; fi',
    "scancel": '[ "$*" = "--signal=TERM 17" ] && kill -TERM $(cat "$PLACE"/task*)',
    "srun": """
[ "$1" = --kill-on-bad-exit=1 ] && shift
for node in 0 1; do
    SLURM_NODEID=$node "$@" &
    tasks[node]=$!
    echo $! > "$PLACE/task$node"
done
for task in "${tasks[@]}"; do wait "$task" || code=$?; done
exit "${code:-0}"
""",
}
# In the place of accelerate: it ends with CODE, or waits for SIGTERM and ends with 1 as accelerate does.
WAITS = """
printf "%s\\0" "$@" > "$PLACE/words$SLURM_NODEID"
[ -n "$CODE" ] && exit "$CODE"
trap 'exit 1' TERM
sleep 60 & wait
"""
ACCELERATE = f'exec {sys.executable} -m accelerate.commands.accelerate_cli "$@"'


def start(folder, accelerate, *more, **variables):
    """Start the script as Slurm starts it on the first of two machines with a GPU each."""
    path = f"{stubs(folder, **SLURM, accelerate=accelerate)}:{os.environ['PATH']}"
    job = {"SLURM_JOB_ID": "17", "SLURM_JOB_NODELIST": "node[1-2]", "SLURM_NNODES": "2", "SLURM_GPUS_ON_NODE": "1"}
    job |= {"PLACE": str(folder), "STRATEGY": str(STRATEGIES / "multi_node.yaml")}
    environment = {**os.environ, **job, "PATH": path, **variables}
    return subprocess.Popen(["bash", SCRIPT, *more], env=environment, cwd=folder, start_new_session=True)


def wait_for(path, text="", timeout=120):
    deadline = time.monotonic() + timeout
    while not (path.exists() and text in path.read_text()):
        assert time.monotonic() < deadline, f"{path} was not written"
        time.sleep(0.01)


def requeued(folder):
    return (folder / "scontrol").exists() and (folder / "scontrol").read_text() == "requeue 17\n"


def signal_tasks(folder):
    for node in (0, 1):
        os.kill(int((folder / f"task{node}").read_text()), signal.SIGTERM)


@pytest.mark.parametrize("code", [0, 3])
def test_the_end_of_a_run_is_the_end_of_the_job(code, tmp_path):
    assert start(tmp_path, WAITS, CODE=str(code)).wait(30) == code
    assert not requeued(tmp_path)
    for node in (0, 1):
        arguments = parsed(read_words(tmp_path / f"words{node}"))
        assert (arguments.num_machines, arguments.machine_rank, arguments.num_processes) == (2, node, 2)
        assert arguments.main_process_ip == "127.0.0.1" and arguments.multi_gpu
        assert_resumes(arguments.training_script_args, "runs/vision")


def test_before_the_time_limit_the_run_is_stopped_and_queued_again(tmp_path):
    job = start(tmp_path, WAITS)
    wait_for(tmp_path / "words1")
    job.send_signal(signal.SIGUSR1)
    assert job.wait(30) == 0 and requeued(tmp_path)


def test_a_preempted_run_is_not_queued_by_the_script(tmp_path):
    """Slurm signals the tasks and the script, and queues the job itself."""
    job = start(tmp_path, WAITS)
    wait_for(tmp_path / "words1")
    job.send_signal(signal.SIGTERM)
    signal_tasks(tmp_path)
    assert job.wait(30) == 143 and not requeued(tmp_path)


@with_tools
@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_two_machines_save_after_a_signal_and_continue(number, tmp_path):
    """With the real accelerate, which starts the processes."""
    output = tmp_path / "run"
    recipe = {key: value for key, value in RECIPE.items() if key not in ("save_steps", "max_steps")}
    recipe |= {"save_strategy": "no", "lr_scheduler_type": "constant", "unfreeze_vision_at_step": 0}
    more = words({**recipe, "per_device_train_batch_size": 2})
    strategy = tmp_path / "float32.yaml"
    strategy.write_text(
        (STRATEGIES / "multi_node.yaml").read_text().replace("mixed_precision: bf16", "mixed_precision: 'no'")
    )
    variables = {"RECIPE": "quickstart/digits", "OUTPUT": str(output), "STRATEGY": str(strategy)}
    job = start(tmp_path, ACCELERATE, *more, "--max_steps", "300", **variables, PORT=str(free_port()))
    wait_for(output / "log.jsonl", '"step": 3')
    job.send_signal(number)
    if number == signal.SIGTERM:
        signal_tasks(tmp_path)
    assert job.wait(100) == (143 if number == signal.SIGTERM else 0)
    assert requeued(tmp_path) == (number == signal.SIGUSR1)
    (saved,) = list_checkpoints(output)
    verify(saved)
    step = int(saved.name.split("-")[1])
    assert 3 <= step < 300 and not (output / "checkpoint").exists()
    last = ["--max_steps", str(step + 3)]
    assert start(tmp_path, ACCELERATE, *more, *last, **variables, PORT=str(free_port())).wait(200) == 0
    assert (output / "checkpoint" / "model.safetensors").is_file()
    one = ["--output_dir", str(tmp_path / "one"), "--config", "quickstart/digits"]
    assert call(["train", *one, *words({**recipe, "per_device_train_batch_size": 4}), *last]).returncode == 0
    logged = [[entry["loss"] for entry in read_log(run) if "loss" in entry] for run in (output, tmp_path / "one")]
    assert logged[0] == pytest.approx(logged[1], abs=1e-6)
