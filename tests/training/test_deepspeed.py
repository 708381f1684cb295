"""The files of DeepSpeed with the values of a recipe, as DeepSpeed's own parser reads them.

The tests need DeepSpeed. `make test-all` installs it into an environment in `.cache/`.
"""

import importlib.util
import json
import subprocess
import sys

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env
from launch_tools import WITH_TOOLS, interpreter
from processes import free_port

from smol_hf.support.resources import resource_path

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


@pytest.mark.parametrize(("file", "stage"), [("zero2", 2), ("zero3", 3)])
def test_deepspeed_reads_the_values_of_a_recipe(file, stage, python, tmp_path):
    path = str(resource_path("recipes", "accelerate", f"{file}.yaml"))
    words = ["--config_file", path, "--main_process_port", "0", "-m", "smol_hf.train"]
    arguments, *_ = _validate_launch_command(launch_command_parser().parse_args(words))
    _, environment = prepare_deepspeed_cmd_env(arguments)
    environment |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
    environment |= {"MASTER_PORT": str(free_port()), "ACCELERATE_MIXED_PRECISION": "no"}
    keys = {"config": "quickstart/digits", "output_dir": tmp_path, "max_grad_norm": 0.5}
    keys |= {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    recipe = [str(word) for key, value in keys.items() for word in (f"--{key}", value)]
    done = subprocess.run([python, "-c", PROGRAM, *recipe], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout.splitlines()[-1])
    assert read == {"stage": stage, "clipping": 0.5, "rows": 4, "accumulated": 2, "gathers": stage == 3}
