"""The files of DeepSpeed: its own parser reads them with the values of a recipe, and two processes train with them.

The tests need DeepSpeed. `make test-all` installs it into an environment in `.cache/`.
"""

import importlib.util
import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DistributedType
from accelerate.utils.launch import prepare_deepspeed_cmd_env
from doc_pages import ROOT
from launch_tools import WITH_TOOLS, interpreter, with_tools
from processes import call, free_port
from safetensors.torch import load_file
from training.test_sharded import losses, train_words

from smol_hf.support.resources import resource_path
from smol_hf.training.log.processes import refuse_other_strategy
from smol_hf.training.recipe.values import RecipeError

# What the Trainer does with the configuration before it gives it to DeepSpeed.
PROGRAM = """
import json, sys
from types import SimpleNamespace
from deepspeed.runtime.config import DeepSpeedConfig
from transformers.integrations.deepspeed import HfTrainerDeepSpeedConfig
from smol_hf.training.recipe.recipes import load_arguments
recipe, *_, arguments = load_arguments(sys.argv[1:])
config = HfTrainerDeepSpeedConfig(arguments.deepspeed_plugin.hf_ds_config.config)
config.trainer_config_process(arguments)
config.trainer_config_finalize(arguments, SimpleNamespace(config=SimpleNamespace(hidden_size=64)), 100)
parsed = DeepSpeedConfig(config.config)
zero = parsed.zero_config
print(json.dumps({
    "stage": int(zero.stage), "clipping": parsed.gradient_clipping, "rows": parsed.train_micro_batch_size_per_gpu,
    "accumulated": parsed.gradient_accumulation_steps, "gathers": zero.gather_16bit_weights_on_model_save,
}))
"""


@pytest.fixture(scope="module")
def python():
    if importlib.util.find_spec("deepspeed") is not None:
        return sys.executable
    if not WITH_TOOLS:
        pytest.skip("pip install deepspeed, or set SMOL_HF_LAUNCH=yes")
    return interpreter("deepspeed", "deepspeed==0.19.8", with_own=True)


def environment_of(file, count=1, rank=0, port=None):
    """The variables that `accelerate launch` sets for a file, without bf16, and those of one of its processes."""
    path = str(resource_path("recipes", "accelerate", f"{file}.yaml"))
    words = ["--config_file", path, "--main_process_port", "0", "-m", "smol_hf.train"]
    arguments, *_ = _validate_launch_command(launch_command_parser().parse_args(words))
    arguments.deepspeed_fields_from_accelerate_config = ",".join(load_config_from_file(path).deepspeed_config)
    _, environment = prepare_deepspeed_cmd_env(arguments)
    environment |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1"}
    folders = f"{ROOT / 'tests'}:{ROOT / 'src'}"
    return {
        **environment,
        "MASTER_PORT": str(port or free_port()),
        "ACCELERATE_MIXED_PRECISION": "no",
        "PYTHONPATH": folders,
    }


FILES = [("zero2", 2), ("zero3", 3)]


@pytest.mark.parametrize(("file", "stage"), FILES)
def test_deepspeed_reads_the_values_of_a_recipe(file, stage, python, tmp_path):
    keys = {"config": "quickstart/digits", "output_dir": tmp_path, "max_grad_norm": 0.5, "use_cpu": "true"}
    keys |= {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    recipe = [str(word) for key, value in keys.items() for word in (f"--{key}", value)]
    done = subprocess.run([python, "-c", PROGRAM, *recipe], env=environment_of(file), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout.splitlines()[-1])
    assert read == {"stage": stage, "clipping": 0.5, "rows": 4, "accumulated": 2, "gathers": stage == 3}


KEYS = {"max_steps": 4, "unfreeze_vision_at_step": 0, "lr_scheduler_type": "constant"}


@with_tools  # DeepSpeed first compiles a library, which takes minutes
@pytest.mark.parametrize(("file", "stage"), FILES)
def test_two_processes_train_like_one_and_continue(file, stage, python, tmp_path):
    one, output = tmp_path / "one", tmp_path / "run"
    assert call([*train_words(one, **KEYS), "--use_cpu", "true"]).returncode == 0

    def train(*more):
        program = "import sys; from sharded_processes import sharded_main; sys.exit(sharded_main(sys.argv[1:]))"
        words, port = [python, "-c", program, *train_words(output, 2, **KEYS), *more], free_port()
        ranks = [subprocess.Popen(words, env=environment_of(file, 2, rank, port)) for rank in (0, 1)]
        assert ranks[0].wait(1000) == 0
        ranks[1].wait(100)  # DeepSpeed may abort it at its exit

    train()
    for name in ("checkpoint", "checkpoint-4"):
        shutil.rmtree(output / name)
    train("--resume_from_checkpoint", "true")
    assert losses(output) == pytest.approx(losses(one), abs=1e-6)
    words = [python, "-m", "smol_hf.commands.main", "merge", output / "checkpoint-4", tmp_path / "merged"]
    assert subprocess.run(words, env=environment_of(file)).returncode == 0
    merged, published, alone = (
        load_file(path / "model.safetensors")
        for path in (tmp_path / "merged", output / "checkpoint", one / "checkpoint")
    )
    assert merged.keys() == published.keys() == alone.keys()
    assert all(torch.equal(merged[name], published[name]) for name in merged)
    assert all(torch.allclose(published[name], alone[name], atol=1e-4) for name in merged)


def test_a_part_that_is_frozen_at_the_start_is_refused():
    state = SimpleNamespace(distributed_type=DistributedType.DEEPSPEED, parallelism_config=None)
    arguments = SimpleNamespace(fsdp=False, deepspeed={}, optim="adamw_torch", unfreeze_vision_at_step=3)
    trainer = SimpleNamespace(accelerator=state, args=arguments)
    with pytest.raises(RecipeError, match="unfreeze_vision_at_step is not supported with DeepSpeed"):
        refuse_other_strategy(trainer)
    arguments.unfreeze_vision_at_step = 0
    refuse_other_strategy(trainer)
