"""The files in recipes/accelerate and recipes/launch, as the tools that they are for read them."""

import os
import re
import subprocess
from types import SimpleNamespace

import pytest
import yaml
from accelerate import ParallelismConfig
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from doc_pages import ROOT
from huggingface_hub.cli.hf import app as hf
from launch_tools import interpreter, stubs, with_tools, words_of
from torch.distributed.run import get_args_parser

from smol_hf.support.resources import resource_path
from smol_hf.training.log.processes import refuse_split_sequences
from smol_hf.training.recipe.recipes import load_arguments
from smol_hf.training.recipe.values import RecipeError

FILES = sorted(resource_path("recipes", "accelerate").glob("*.yaml"))
LAUNCH = resource_path("recipes", "launch")
KINDS = {
    "single_gpu": DistributedType.NO, "ddp": DistributedType.MULTI_GPU, "multi_node": DistributedType.MULTI_GPU,
    "fsdp2": DistributedType.FSDP, "fsdp2_hsdp": DistributedType.FSDP, "fsdp2_offload": DistributedType.FSDP,
    "zero2": DistributedType.DEEPSPEED, "zero3": DistributedType.DEEPSPEED,
}  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_accelerate_reads_each_file(path):
    config = load_config_from_file(str(path))
    assert config.distributed_type == KINDS[path.stem]
    arguments = parsed(["launch", "--config_file", path, "-m", "smol_hf.train", "--config", "quickstart/digits"])
    assert arguments.num_processes == config.num_processes and arguments.mixed_precision == "bf16"
    if config.distributed_type == DistributedType.FSDP:
        assert str(arguments.fsdp_version) == "2" and arguments.fsdp_state_dict_type == "SHARDED_STATE_DICT"


def test_each_file_says_when_to_use_it():
    assert {path.stem for path in FILES} == KINDS.keys()
    assert {path.name for path in LAUNCH.iterdir()} == {"slurm.sh", "skypilot.yaml", "kubeflow.yaml", "hf_jobs.sh"}
    for path in (*FILES, *LAUNCH.iterdir()):
        text = path.read_text(encoding="utf-8")
        assert text.removeprefix("#!/bin/bash\n").startswith("# "), path.name


def parsed(words):
    """The words after `accelerate`, as it parses them."""
    parser = launch_command_parser()
    arguments, *_ = _validate_launch_command(parser.parse_args(list(map(str, words[1:]))))
    assert words[0] == "launch" and arguments.module and arguments.training_script == "smol_hf.train"
    return arguments


def assert_resumes(words, folder):
    """The words are those of a run that begins without a checkpoint, and continues with one."""
    recipe, *_, arguments = load_arguments(words)
    assert recipe["max_steps"] == 50000 and recipe["output_dir"] == folder
    assert arguments.resume_from_checkpoint == "true"


def run_of_skypilot(folder, nodes=1):
    """Run its commands on the first machine with accelerate replaced. Returns the words of accelerate."""
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    variables = {"SKYPILOT_NUM_NODES": nodes, "SKYPILOT_NODE_RANK": 0, "SKYPILOT_NUM_GPUS_PER_NODE": 8}
    variables |= {"SKYPILOT_NODE_IPS": "10.0.0.5\n10.0.0.6", **task["envs"]}
    environment = {**os.environ, **{name: str(value) for name, value in variables.items()}}
    path = f"{stubs(folder, 'accelerate')}:{os.environ['PATH']}"
    subprocess.run(["bash", "-c", task["run"]], check=True, env={**environment, "PATH": path}, cwd=ROOT)
    return words_of(folder, "accelerate")


def test_skypilot_starts_accelerate(tmp_path):
    arguments = parsed(run_of_skypilot(tmp_path))
    assert (arguments.num_machines, arguments.machine_rank, arguments.num_processes) == (1, 0, 8)
    assert arguments.main_process_ip == "10.0.0.5" and arguments.multi_gpu
    assert_resumes(arguments.training_script_args, "/runs/smolvlm2_256m/vision_stage")


def torchrun(words):
    """The words after `torchrun`, as it parses them."""
    arguments = get_args_parser().parse_args(words)
    assert arguments.module and arguments.training_script == "smol_hf.train"
    return arguments


def test_kubeflow_starts_torchrun(monkeypatch):
    runtime, job = yaml.safe_load_all((LAUNCH / "kubeflow.yaml").read_text())
    assert job["spec"]["runtimeRef"] == {"kind": runtime["kind"], "name": runtime["metadata"]["name"]}
    for name, value in {"NNODES": "2", "NPROC_PER_NODE": "auto", "NODE_RANK": "1"}.items():
        monkeypatch.setenv(f"PET_{name}", value)  # Kubeflow sets these
    program, *words = job["spec"]["trainer"]["command"]
    arguments = torchrun(words)
    assert program == "torchrun" and (arguments.nnodes, arguments.node_rank) == ("2", 1)
    assert_resumes(arguments.training_script_args, "/runs/vision")


def test_the_models_of_kubeflow_know_every_field():
    models = pytest.importorskip("kubeflow_trainer_api.models", reason="pip install kubeflow-trainer-api")
    for document in yaml.safe_load_all((LAUNCH / "kubeflow.yaml").read_text()):
        model = getattr(models, f"TrainerV1alpha1{document['kind']}")
        assert model.from_dict(document).to_dict() == document, "an unknown field is left out"


def test_hf_jobs_starts_a_job_that_trains(tmp_path, monkeypatch, capsys):
    """The parser of `hf` reads the options. The command of the job is run with its programs replaced."""
    folder = stubs(tmp_path, "hf", "pip", "torchrun", sleep="exit 1")
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    subprocess.run(["bash", LAUNCH / "hf_jobs.sh", "--dry-run"], check=True, env=environment)
    words = words_of(tmp_path, "hf")
    monkeypatch.setenv("HF_TOKEN", "hf_x")
    hf(words, standalone_mode=False)
    printed = capsys.readouterr().out
    assert "(dry run) Job not submitted" in printed and re.search(
        r"flavor +h200x8\n +timeout +24h\n +attempts +5", printed
    )
    variables = dict(word.split("=", 1) for word in words if "=" in word and "\n" not in word)
    subprocess.run(words[-3:], check=True, env={**environment, **variables}, cwd=tmp_path)
    arguments = torchrun(words_of(tmp_path, "torchrun"))
    assert arguments.nproc_per_node == "gpu"
    assert_resumes(arguments.training_script_args, "run")
    copied = words_of(tmp_path, "hf")
    assert copied[:3] == ["buckets", "sync", "--delete"]
    assert copied[-2:] == ["run", "hf://buckets/me/my-runs/smolvlm2_256m/vision_stage"]


@with_tools
def test_skypilot_reads_its_file():
    python = interpreter("skypilot", "skypilot==0.14.1")
    program = "import sys, sky; task = sky.Task.from_yaml(sys.argv[1]); print(task.num_nodes, task.resources)"
    done = subprocess.run([python, "-c", program, LAUNCH / "skypilot.yaml"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "H100" in done.stdout, done.stderr


@pytest.mark.parametrize("name", ["tp", "cp", "sp"])
def test_split_sequences_are_refused(name):
    with pytest.raises(RecipeError, match=f"parallelism_config_{name}_size is not supported"):
        refuse_split_sequences(SimpleNamespace(**{f"{name}_size": 2}))
    refuse_split_sequences(ParallelismConfig(dp_replicate_size=2, dp_shard_size=8))
