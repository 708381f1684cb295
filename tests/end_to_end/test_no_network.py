"""A run on local files contacts no host: not for data or models, and not to report that it runs."""

import json
import os
import subprocess
import sys

from PIL import Image

# Python imports it at the start of every process, those that a command starts included.
GUARD = """
import os, socket
def refuse(host, *rest, **options):
    if host not in (None, "localhost", "127.0.0.1", "::1"):
        with open(os.environ["HOSTS_ASKED_FOR"], "a") as file:
            file.write(f"{host}\\n")
        raise OSError("there is no network")
    return resolve(host, *rest, **options)
resolve, socket.getaddrinfo = socket.getaddrinfo, refuse
"""
COMMANDS = """
from smol_hf.commands.main import main
assert main(["demo", "--output", "demo", "--max-steps", "2", "--questions", "12", "--num_pages", "50"]) == 0
words = ["--model", "demo/checkpoint", "--data", "rows.jsonl", "--use_cpu", "--save_strategy", "no"]
assert main(["train", *words, "--max_steps", "1", "--output_dir", "run"]) == 0
assert main(["chat", "run/checkpoint", "--image", "page.png", "--prompt", "What?", "--max-new-tokens", "2"]) == 0
print("done")
"""


def test_demo_train_and_chat_ask_for_no_host(tmp_path):
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD)
    Image.new("RGB", (32, 32), "white").save(tmp_path / "page.png")
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A page."}]
    (tmp_path / "rows.jsonl").write_text(json.dumps({"image": "page.png", "conversations": turns}) + "\n")
    told_otherwise = ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "TRANSFORMERS_OFFLINE", "DO_NOT_TRACK", "CI")
    environment = {name: value for name, value in os.environ.items() if name not in told_otherwise}
    environment |= {
        "PYTHONPATH": str(tmp_path / "guard"), "HOSTS_ASKED_FOR": str(tmp_path / "hosts"),
        "HF_HOME": str(tmp_path / "cache"),
    }  # fmt: skip
    run = subprocess.run(
        [sys.executable, "-c", COMMANDS], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert run.returncode == 0 and run.stdout.endswith("done\n"), run.stdout + run.stderr
    hosts = tmp_path / "hosts"
    assert not hosts.exists(), hosts.read_text()
