"""`smol-hf export`: complete folders or none, and answers that are compared with the checkpoint's."""

import json
import shutil

from safetensors.torch import load_file, save_file

from smol_hf.commands.main import main


def test_a_text_model_answers_alike_in_transformers(text_checkpoint, tmp_path, capsys):
    (text_checkpoint / "LICENSE").write_text("the licence")
    assert main(["export", str(text_checkpoint), str(tmp_path / "out"), "--to", "native", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["comparison"]["equal"] == facts["comparison"]["prompts"] == 6
    assert facts["comparison"]["answers"] == 6
    assert facts["comparison"]["equal_prompts"] == 6 and facts["comparison"]["difference"] < 1e-4
    assert (tmp_path / "out" / "LICENSE").read_text() == "the licence" and "LICENSE" in facts["files"]


def test_check_finds_another_source(text_checkpoint, tmp_path, capsys):
    assert main(["export", str(text_checkpoint), str(tmp_path / "out"), "--to", "native", "--no-compare"]) == 0
    assert main(["check", str(tmp_path / "out"), "--source", str(text_checkpoint)]) == 0
    shutil.copytree(text_checkpoint, tmp_path / "other")
    weights = load_file(tmp_path / "other/model.safetensors")
    weights["model.layers.0.self_attn.v_proj.weight"] *= -1
    save_file(weights, tmp_path / "other/model.safetensors", metadata={"format": "pt"})
    assert main(["check", str(tmp_path / "out"), "--source", str(tmp_path / "other")]) == 1
    assert "does not answer like" in capsys.readouterr().err
