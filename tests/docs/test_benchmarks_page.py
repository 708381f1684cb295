"""The guide of benchmarks: its tables are those of the package, and its commands are understood."""

import shlex

import pytest
from doc_pages import commands, read_page

from smol_hf.commands.evaluation import add_evaluate, run_evaluate
from smol_hf.commands.parser import Parser
from smol_hf.evaluation.benchmarks.published import PUBLISHED
from smol_hf.evaluation.benchmarks.suite import BENCHMARKS

PAGE = "benchmarks"


def row(*cells):
    return "| " + " | ".join(map(str, cells)) + " |"


def names_table():
    for name, each in BENCHMARKS.items():
        tasks = ", ".join(f"`{task}`" for task in each.task.split(","))
        yield row(
            f"`{name}`",
            each.title,
            tasks,
            ", ".join(f"`{one}`" for one in each.metric.split("+")),
            f"{each.samples:,}",
        )


def score_tables():
    """A table for each set of benchmarks."""
    for names in dict.fromkeys(tuple(column) for _, column in PUBLISHED.values()):
        models = [model for model, (_, column) in PUBLISHED.items() if tuple(column) == names]
        yield row("Benchmark", *(f"`{model}`" for model in models))
        yield "|---|" + "---:|" * len(models)
        for name in names:
            yield row(BENCHMARKS[name].title, *(PUBLISHED[model][1][name] for model in models))


def sources():
    for source in dict.fromkeys(source for source, _ in PUBLISHED.values()):
        models = ", ".join(f"`{model}`" for model, (each, _) in PUBLISHED.items() if each == source)
        yield f"- {models}: {source}."


@pytest.mark.parametrize("table", [names_table, score_tables, sources])
def test_the_page_shows_the_tables_of_the_package(table):
    lines = read_page(PAGE).splitlines()
    assert [line for line in table() if line not in lines] == []


def test_the_commands_are_understood(tmp_path):
    parser = Parser()
    add_evaluate(parser)
    lines = [shlex.split(line) for line in commands(PAGE)]
    evaluations = [words[2:] for words in lines if words[:2] == ["smol-hf", "evaluate"]]
    assert len(evaluations) > 4
    for words in evaluations:
        arguments = parser.parse_args([*words, "--dry-run"])
        arguments.checkpoint = "owner/model"
        assert run_evaluate(arguments)["planned"]
