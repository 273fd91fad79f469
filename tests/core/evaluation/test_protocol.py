"""Which instruction goes where."""

import json

import pytest
from mteb.models.instruct_wrapper import InstructSentenceTransformerModel
from mteb.models.model_implementations.qwen3_models import instruction_template
from mteb.types import PromptType

from quernstone.encoding.prompts import query_frame
from quernstone.errors import ConfigError
from quernstone.evaluation.benchmarks import BENCHMARKS, benchmark_tasks, known_task_names
from quernstone.evaluation.instructions import (
    Instructions,
    TaskInstruction,
    own_instructions,
    read_instructions,
)
from quernstone.evaluation.protocol import Protocol

QUERY, DOCUMENT = PromptType.query, PromptType.document


@pytest.fixture(scope="module")
def all_tasks():
    """The tasks of the four benchmarks, by name."""
    return {t.metadata.name: t.metadata for b in BENCHMARKS for t in benchmark_tasks(b)}


def test_the_four_benchmarks():
    counts = [len(benchmark_tasks(name)) for name in BENCHMARKS]
    assert counts == [41, 31, 12, 131]


def test_our_table_has_every_task_for_which_mteb_has_no_instruction(all_tasks):
    without = {name for name, task in all_tasks.items() if task.prompt is None}
    # symmetric in Qwen's evaluation, which mteb's metadata cannot say
    assert set(own_instructions()) == without | {"ArguAna"}


def test_our_table_is_fit_to_print():
    for name, one in own_instructions().items():
        assert one.query == one.query.strip(), name
        assert one.query[0].isupper(), name
        assert not one.query.endswith("."), name
    symmetric = {name for name, one in own_instructions().items() if one.document}
    assert symmetric == {"ArguAna", "CQADupstackGamingRetrieval", "CQADupstackUnixRetrieval"}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("prompt_type", [None, QUERY, DOCUMENT])
def test_the_mteb_protocol_is_that_of_its_own_wrapper(prompt_type, all_tasks, mteb_rules):
    theirs = InstructSentenceTransformerModel.__new__(InstructSentenceTransformerModel)
    theirs.instruction_template, theirs.prompts_dict = instruction_template, None
    for name, task in all_tasks.items():
        expected = theirs.get_task_instruction(task, prompt_type)
        assert query_frame(mteb_rules.embedding_instruction(task, prompt_type)) == expected, name


def test_the_official_protocol(all_tasks, official):
    def instruction(name, side):
        return official.embedding_instruction(all_tasks[name], side)

    similar = "Retrieve semantically similar text"
    assert instruction("STS12", None) == similar
    # mteb and every table have another one for this task, which the override beats
    assert instruction("SprintDuplicateQuestions", None) == similar
    assert instruction("SCIDOCS", DOCUMENT) == ""
    assert instruction("SCIDOCS", QUERY).startswith("Given a scientific paper title")
    # of reranking types the documents get the instruction, too
    for name in ("T2Reranking", "RuBQReranking", "Core17InstructionRetrieval"):
        assert instruction(name, DOCUMENT) == instruction(name, QUERY) != ""
    assert instruction("ArguAna", DOCUMENT) == instruction("ArguAna", QUERY) != ""
    assert instruction("Banking77Classification", None).startswith("Given a online banking")
    assert instruction("Tatoeba", None) == "Retrieve parallel sentences"


def test_every_task_has_one_instruction(all_tasks, official):
    for name, task in all_tasks.items():
        assert official.embedding_instruction(task, QUERY), name
        assert official.reranking_instruction(task), name


def test_without_instructions(all_tasks):
    bare = Protocol(name="official", instructions=own_instructions(), bare=True)
    sides = (None, QUERY, DOCUMENT)
    assert {bare.embedding_instruction(t, s) for t in all_tasks.values() for s in sides} == {""}


def test_lengths_and_templates(official, mteb_rules):
    assert (official.max_length, official.template) == (8192, "eval")
    assert (mteb_rules.max_length, mteb_rules.template) == (32768, "card")


def test_reranking_instructions(all_tasks, official, mteb_rules):
    default = "Given the user query, retrieval the relevant passages"
    fiqa = all_tasks["FiQA2018"]
    assert official.reranking_instruction(fiqa).startswith("Given a financial question")
    assert mteb_rules.reranking_instruction(fiqa) == default


# ------------------------------------------------------------------------- files of instructions


@pytest.fixture
def read(tmp_path):
    def parse(content):
        path = tmp_path / "task_prompts.json"
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return read_instructions(path, frozenset(known_task_names()))

    return parse


def test_the_official_format(read):
    table = read(
        {
            "AmazonCounterfactualClassification": "Classify",
            "ArguAna": {"query": "Find", "passage": "Found"},
            "MmarcoReranking": "a key of the official file that names no task",
        }
    )
    assert dict(table) == {
        "AmazonCounterfactualClassification": TaskInstruction("Classify"),
        "ArguAna": TaskInstruction("Find", "Found"),
    }


def test_a_file_goes_before_our_table(read, all_tasks):
    table = read({"AppsRetrieval": "Solve it"}).over(own_instructions())
    rules = Protocol(name="official", instructions=table)
    assert rules.embedding_instruction(all_tasks["AppsRetrieval"], QUERY) == "Solve it"
    assert (
        rules.embedding_instruction(all_tasks["CosQA"], QUERY) == own_instructions()["CosQA"].query
    )
    assert table.digest != own_instructions().digest


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"SciFakt": "x"}, "1 keys are not tasks: 'SciFakt'; did you mean 'SciFact'"),
        ({"ArguAna": {"query": "a", "answer": "b"}}, "expected an instruction, or an object with"),
        ({"ArguAna": {"query": "a"}}, "'ArguAna' is {'query': 'a'}; expected an instruction"),
        ({"ArguAna": 7}, "'ArguAna' is 7; expected an instruction"),
        (["x"], "contains a list, expected an object"),
        ('{"ArguAna": "x"', "is not JSON"),
        (
            "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 23243\n",
            "is a Git LFS pointer of 67 bytes and not the file itself; run `git lfs install",
        ),
    ],
)
def test_bad_files(content, message, read):
    with pytest.raises(ConfigError) as caught:
        read(content)
    assert message in str(caught.value)


def test_a_missing_file(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.json` does not exist"):
        read_instructions(tmp_path / "gone.json", frozenset())


def test_tables_differ_by_content_and_not_by_order():
    one, two = TaskInstruction("a"), TaskInstruction("b", "c")
    assert Instructions({"x": one, "y": two}).digest == Instructions({"y": two, "x": one}).digest
    assert Instructions({"x": one}).digest != Instructions({"x": two}).digest
