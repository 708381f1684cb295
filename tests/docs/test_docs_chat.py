"""What docs/text.md shows of chat and preferences runs as written, on a tiny model."""

import io
import re
import shlex
from pathlib import Path

from chat_models import save_base

from smol_hf import dpo
from smol_hf.commands.main import main as smol_hf

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "text.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("\n## Chat and preferences\n")[2].partition("\n## ")[0]
SHORT = ["--max_steps", "2", "--use_cpu", "true", "--save_strategy", "no"]
TINY = {"train": SHORT, "dpo": SHORT, "chat": ["--max-new-tokens", "4"]}


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", SECTION, flags=re.DOTALL)


def test_its_commands_run_one_after_the_other(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_base("my-base", "native")
    for name, block in zip(("chats.jsonl", "pairs.jsonl"), blocks("json")):
        Path(name).write_text(block, encoding="utf-8")
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    assert len(lines) == 5
    for line in lines:
        monkeypatch.setattr("sys.stdin", io.StringIO("Hello?\n"))
        program, *words = shlex.split(line)
        if program == "accelerate":  # one process of its own
            assert words[:3] == ["launch", "-m", "smol_hf.dpo"]
            assert dpo.main([*words[3:], *SHORT]) == 0
        else:
            assert smol_hf([*words, *TINY.get(words[0], [])]) == 0, line
    for name in ("chat", "dpo", "dpo-lora"):
        assert (tmp_path / "runs" / name / "checkpoint" / "model.safetensors").is_file()


def test_its_recipes_are_there():
    links = re.findall(r"\]\((\.\./recipes/[^)]+)\)", SECTION)
    assert len(links) == 5 and all((ROOT / "docs" / link).is_file() for link in links)
