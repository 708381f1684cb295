"""`smol-hf runs`: finished, running, killed and foreign folders, read from their logs alone."""

import json
import re

import pytest
from processes import call

from smol_hf.training.log.run_log import facts_of, read_run


def entries(last=6, ended=True, **more):
    found = []
    for step in range(1, last + 1):
        found.append({"loss": 4.0 - step / 2, "learning_rate_text": 0.1 / step, "tokens_per_second": 100.0 * step,
                      "total_tokens": 64 * step, "epoch": step / 10, "step": step, **more})  # fmt: skip
        if step % 2 == 0:
            values = {"eval_loss": 3.0 + abs(step - 4), "eval_exact_match": step / 10, "eval_loss/pages": 2.5}
            found.append({**values, "eval_seconds": 0.1, "eval_tokens": 9, "epoch": step / 10, "step": step})
    return found + ([{"train_runtime": 1.0, "step": last}] if ended else [])


def write_run(folder, lines=None, tail=b""):
    folder.mkdir(parents=True)
    lines = entries() if lines is None else lines
    (folder / "log.jsonl").write_bytes("".join(json.dumps(line) + "\n" for line in lines).encode() + tail)
    return str(folder)


def facts(result):
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)["runs"]


def test_a_run_is_summarised_from_its_log_alone(tmp_path):
    folder = write_run(tmp_path / "a", entries(**{"loss/pages": 1.5, "loss/talks": 2.0}))
    [found] = facts(call(["runs", "show", folder, "--json"]))
    assert (found["state"], found["steps"], found["first_loss"], found["last_loss"]) == ("ended", 6, 3.5, 1.0)
    assert found["scores"]["eval_loss"] == {"last": 5.0, "best": 3.0, "best_step": 4}
    assert found["scores"]["eval_exact_match"] == {"last": 0.6, "best": 0.6, "best_step": 6}
    assert found["sources"] == {"pages": {"loss": 1.5, "eval_loss": 2.5}, "talks": {"loss": 2.0}}
    assert found["median_tokens_per_second"] == 350 and found["total_tokens"] == 384
    printed = call(["runs", "show", folder]).stdout
    assert re.search(r"validation loss, best +3 \(step 4\)", printed) and re.search(r"talks: loss +2 ", printed)


@pytest.mark.parametrize("tail", [b'{"loss": 0.5, "st', b'{"loss/\xc3', b"{"])
def test_a_line_that_is_being_written_is_not_read_yet(tail, tmp_path):
    folder = write_run(tmp_path / "a", entries(3, ended=False), tail)
    [found] = facts(call(["runs", "show", folder, "--json"]))
    assert (found["state"], found["steps"], found["last_loss"]) == ("no end yet", 3, 2.5)
    assert found["unreadable_lines"] == 0
    assert re.search(r"state +no end yet, last line \d", call(["runs", "show", folder]).stdout)


def test_a_run_without_a_step_yet_and_values_that_are_no_numbers(tmp_path):
    empty = write_run(tmp_path / "a", [])
    odd = write_run(tmp_path / "b", [{"step": 1, "loss": None}, {"step": 2, "loss": "x", "eval_loss": None}])
    page = tmp_path / "page.html"
    result = call(["runs", "compare", empty, odd, "--html", page])
    assert result.returncode == 0 and "nan" not in result.stdout.lower(), result.stderr
    assert "<svg" not in page.read_text()


def test_losses_that_are_no_numbers_are_counted(tmp_path):
    lines = [*entries(3, ended=False), *({"step": step, "loss": float("nan")} for step in (4, 5))]
    folder, finite = write_run(tmp_path / "a", lines), write_run(tmp_path / "b")
    assert [each["unknown_losses"] for each in facts(call(["runs", "compare", folder, finite, "--json"]))] == [2, 0]
    assert re.search(r"steps whose loss is no number +2 +–", call(["runs", "compare", folder, finite]).stdout)
    assert "no number" not in call(["runs", "show", finite]).stdout


def test_a_page_never_replaces_a_file_of_a_run(tmp_path):
    folder = write_run(tmp_path / "a")
    before = (tmp_path / "a" / "log.jsonl").read_bytes()
    for target in (tmp_path / "a" / "log.jsonl", tmp_path):
        result = call(["runs", "show", folder, "--html", target])
        assert result.returncode == 1 and "name a file that ends with .html" in result.stderr
    assert (tmp_path / "a" / "log.jsonl").read_bytes() == before


def test_damaged_lines_are_counted(tmp_path):
    folder = write_run(tmp_path / "a")
    log = tmp_path / "a" / "log.jsonl"
    log.write_text("{\n[1]\n" + log.read_text())
    result = call(["runs", "show", folder])
    assert result.returncode == 0 and "2 lines of the log cannot be read: left out" in result.stdout


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "is not the folder of a run: it has no log.jsonl"), ('{"a": 1}\n', "is not the log of a run: no line has"),
     ("hello\n", "is not the log of a run: no line has a step")],
)  # fmt: skip
def test_a_foreign_folder_is_named(content, message, tmp_path):
    (tmp_path / "a").mkdir()
    if content is not None:
        (tmp_path / "a" / "log.jsonl").write_text(content)
    for command in ("show", "compare"):
        result = call(["runs", command, tmp_path / "a"])
        assert result.returncode == 1 and message in result.stderr and "Traceback" not in result.stderr
    listed = call(["runs", "list", tmp_path])
    assert listed.returncode == 1 and f"no run is in {tmp_path}" in listed.stderr
    assert "there is no folder" in call(["runs", "show", tmp_path / "nowhere"]).stderr


def test_runs_are_listed_with_those_of_a_chain(tmp_path):
    write_run(tmp_path / "chain" / "stage-1")
    write_run(tmp_path / "chain" / "stage-2", entries(2, ended=False))
    write_run(tmp_path / "chain" / "stage-2" / "checkpoint-5")  # not a run
    (tmp_path / "other").mkdir()
    assert [each["steps"] for each in facts(call(["runs", "list", tmp_path, "--json"]))] == [6, 2]
    shown = call(["runs", "show", tmp_path / "chain"]).stdout
    assert "chain/stage-1" in shown and "chain/stage-2" in shown and "stage-2/checkpoint" not in shown


def test_the_page_has_the_curves_and_escapes_names(tmp_path):
    name = "<b>$x^2$ & _y"
    one = write_run(tmp_path / name, entries(**{f"loss/{name}": 1.0}))
    two = write_run(tmp_path / "two", entries(4))
    page = tmp_path / "pages" / "both.html"
    result = call(["runs", "compare", one, two, "--html", page])
    assert result.returncode == 0 and f"the page is {page}" in result.stdout, result.stderr
    html = page.read_text()
    assert "<b>" not in html and html.count("&lt;b&gt;$x^2$ &amp; _y") >= 4
    titles = re.findall(r"<h2>(.*?)</h2>", html)
    assert titles[:4] == ["Loss", "Validation loss", "Validation exact match", "Tokens per second"]
    assert html.count("<svg") == len(titles) and "Learning rates of two" in titles
    assert not re.search(r"<script|https?://(?!www\.w3\.org)|src=", html)


def test_many_sources_are_drawn_in_part_and_listed_completely(tmp_path):
    folder = write_run(tmp_path / "a", entries(**{f"loss/source{n}": float(n) for n in range(12)}))
    page = tmp_path / "page.html"
    assert call(["runs", "show", folder, "--html", page]).returncode == 0
    html = page.read_text()
    assert "3 more are in the table only." in html and "source11: loss" in html


def test_a_step_that_is_logged_twice_counts_once(tmp_path):
    folder = write_run(tmp_path / "a", [*entries(3, ended=False), {"loss": 9.0, "step": 3}])
    run = read_run(tmp_path / "a")
    assert str(run.folder) == folder and run.values("loss") == {1: 3.5, 2: 3.0, 3: 9.0}
    assert facts_of(run)["last_loss"] == 9.0
