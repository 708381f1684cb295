"""An executable that behaves like a Python interpreter with lmms-eval and lm-eval, and writes prepared results."""

import json
import os
import sys
import textwrap

PROGRAM = '''\
#!{python}
"""Read the command line of a harness, write its files, and print as it does."""
import json, os, sys
from pathlib import Path

words = sys.argv[1:]
behaviour = json.loads({behaviour!r})
if words[0] == "-c":
    if behaviour.get("missing"):
        sys.exit("importlib.metadata.PackageNotFoundError: No package metadata was found")
    print("0.7.3")
    sys.exit()
options = dict(zip(words, words[1:]))
with open({calls!r}, "a") as file:
    file.write(json.dumps([words, os.environ["PYTHONPATH"].split(os.pathsep)[0]]) + "\\n")
print(behaviour.get("prints", ""))
if "results" not in behaviour:
    sys.exit(behaviour.get("exit", 0))
lmms = "lmms_eval" in words
folder = Path(options["--output_path"]) / "the__checkpoint"
folder.mkdir(parents=True)
sizes = behaviour["sizes"]
limit = int(options.get("--limit", 10**9))
results = {{
    "results": behaviour["results"],
    "group_subtasks": behaviour.get("groups", {{}}),
    "n-samples": {{name: {{"original": size, "effective": min(size, limit)}} for name, size in sizes.items()}},
}}
(folder / ("20990101_results.json" if lmms else "results_2099.json")).write_text(json.dumps(results))
for name, size in sizes.items():
    number = behaviour.get("answered", {{}}).get(name, min(size, limit))
    file = folder / (f"20990101_samples_{{name}}.jsonl" if lmms else f"samples_{{name}}_2099.jsonl")
    filters = behaviour.get("filters", 1)
    file.write_text("".join(json.dumps({{"doc_id": index}}) + "\\n" for index in range(number)) * filters)
if "counts" in behaviour:
    Path(os.environ["SMOL_HF_BENCHMARK_COUNTS"]).write_text(json.dumps(behaviour["counts"]))
sys.exit(behaviour.get("exit", 0))
'''


class FakeHarness:
    """The path of a fake interpreter, and its calls.

    Args:
        behaviour: `results`, `sizes` and `groups` of the results file; `answered` of the files of samples, if fewer;
            `filters`: lines per sample; `counts` of the plug-in; `prints`, `exit` and `missing`.
    """

    def __init__(self, folder, **behaviour):
        self.path, self.calls_file = folder / "python", folder / "calls.jsonl"
        program = PROGRAM.format(python=sys.executable, behaviour=json.dumps(behaviour), calls=str(self.calls_file))
        self.path.write_text(textwrap.dedent(program))
        os.chmod(self.path, 0o755)

    def __str__(self):
        return str(self.path)

    @property
    def calls(self):
        """The words of each call, and the first folder of its PYTHONPATH."""
        return [json.loads(line) for line in self.calls_file.read_text().splitlines()]
