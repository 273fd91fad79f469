"""`quern eval` from the command line, the scripts with the official names, wrong usage."""

import gc
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import quernstone.evaluation
from quernstone.cli import app
from quernstone.errors import ConfigError
from quernstone.evaluation import protocol

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

ROOT = Path(__file__).parents[3]
TASKS = str(Path(__file__).parent / "local_tasks.py")


@pytest.fixture
def quern(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QUERN_MODEL", "tiny")
    monkeypatch.setenv("QUERN_RERANK_MODEL", "tiny")

    def run(*arguments):
        return CliRunner().invoke(app, ["eval", *map(str, arguments)], prog_name="quern")

    return run


def test_two_stages_and_a_summary(quern):
    done = quern(
        "run", "-o", "one", "--tasks-file", TASKS, "--tasks", "LocalReranking,LocalRetrieval"
    )
    assert done.exit_code == 0, done.stderr
    assert done.stdout == "2 of 2 tasks done, results in one\n"
    lines = [line for line in done.stderr.splitlines() if line[1:3] == "/2"]
    assert [line.split(":")[0] for line in lines] == [
        *["1/2 LocalRetrieval (Retrieval)"] * 2,
        *["2/2 LocalReranking (Reranking)"] * 2,
    ]
    assert lines[0].startswith("1/2 LocalRetrieval (Retrieval): started at ")
    assert lines[1].endswith(" s")
    done = quern(
        *("rerank", "--predictions", "one", "-o", "two", "--tasks-file", TASKS),
        *("--tasks", "LocalRetrieval", "--languages", "eng", "--candidates", 5),
    )
    assert done.exit_code == 0, done.stderr
    # in a pipe as well
    assert "reranking LocalRetrieval: 300 of 300 (100%), " in done.stderr
    assert done.stdout.splitlines()[2].startswith("| LocalRetrieval | ")
    assert Path("two/reranked.md").read_text() == "".join(
        done.stdout.splitlines(keepends=True)[:-1]
    )
    settings = json.loads(Path("two/run.json").read_text())["settings"]
    assert (settings["template"], settings["top_k"]) == ("eval", 5)
    done = quern("summary", "one", "two", "-o", "tables")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("| model | mean (task) | mean (type) | Reranking | Retrieval |\n")
    assert "| tiny in two |" in done.stdout
    assert Path("tables/summary.md").read_text() == done.stdout
    content = json.loads(Path("tables/summary.json").read_text())
    assert [one["name"] for one in content["models"]] == ["tiny in one", "tiny in two"]
    assert Path("tables/summary.png").stat().st_size > 5000


@pytest.mark.slow
def test_former_spellings_of_the_options_of_rerank(quern):
    tasks = ("--tasks-file", TASKS, "--tasks", "LocalReranking")
    assert quern("run", "-o", "one", *tasks).exit_code == 0
    for folder, options in (
        ("new", ("--template", "card", "--candidates", 3)),
        ("old", ("--variant", "card", "--top-k", 3)),
    ):
        done = quern("rerank", "--predictions", "one", "-o", folder, *tasks, *options)
        assert done.exit_code == 0, done.stderr
        settings = json.loads(Path(folder, "run.json").read_text())["settings"]
        assert (settings["template"], settings["top_k"]) == ("card", 3)
    shown = quern("rerank", "--help").stdout
    assert "--candidates" in shown
    assert "--top-k" not in shown
    assert "--variant" not in shown


def test_dimensions_and_instructions(quern, monkeypatch):
    monkeypatch.setitem(protocol._MAX_LENGTHS, "official", 24)
    some = ("--tasks-file", TASKS, "--tasks", "LocalReranking")
    done = quern("mrl", "-o", "mrl", "--dimensions", "32,256", *some)
    assert done.exit_code == 0, done.stderr
    assert " inputs were cut to 24 tokens\n" in done.stdout
    assert done.stdout.startswith("LocalReranking  32: ")
    assert Path("mrl/mrl.png").stat().st_size > 5000
    done = quern("instructions", "-o", "both", *some)
    assert done.exit_code == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[2].startswith("| with instructions | ")
    assert lines[3].startswith("| without instructions | ")
    assert lines[2].split("|")[2:] != lines[3].split("|")[2:]
    assert Path("both/instructions.png").stat().st_size > 5000


def test_a_failed_task_is_exit_code_1(quern):
    Path("mine.py").write_text(
        f"import runpy\nfound = runpy.run_path({TASKS!r}, run_name=__name__)\n"
        "LocalSTS, LocalReranking = found['LocalSTS'], found['LocalReranking']\n"
        "def gone(self, **kwargs):\n    raise OSError('gone')\n"
        "LocalSTS.load_data = gone\n"
    )
    done = quern("run", "-o", "out", "--tasks-file", "mine.py")
    assert done.exit_code == 1
    assert "1/2 LocalSTS (STS): FAILED: OSError: gone\n" in done.stderr
    assert "failed: LocalSTS; run the command again to retry them" in done.stderr
    assert done.stdout == "1 of 2 tasks done, results in out\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-b", "MTEB(en, v2)"], "unknown benchmark 'MTEB(en, v2)'; did you mean 'MTEB(eng, v2)'"),
        (["-t", "SciFakt"], "unknown task 'SciFakt'; did you mean 'SciFact'"),
        (["-b", "MTEB(eng, v2)", "-t", "T2Reranking"], "(in MTEB(eng, v2))"),
        ([], "pass a benchmark, tasks, or a file of tasks"),
        (["-t", "STS12", "--protocol", "x"], "unknown protocol 'x'; use official or mteb"),
        (["-t", "STS12", "--languages", "klingon"], "klingon"),
        (
            ["-t", "STS12,STS22", "--languages", "cmn"],
            "STS12: not in any of the languages cmn, only in eng",
        ),
        (
            ["-b", "MTEB(cmn, v1)", "--languages", "zho"],
            "no task is in any of the languages zho, only in cmn",
        ),
        (["--tasks-file", "gone.py"], "`gone.py` is not a Python file"),
        (
            ["-t", "STS12", "--instructions", "gone.json"],
            "the instruction file `gone.json` does not exist",
        ),
    ],
)
def test_wrong_usage(quern, arguments, message):
    done = quern("run", "-o", "out", *arguments)
    assert done.exit_code == 2
    assert message in done.stderr
    assert not Path("out").exists()


def test_a_file_without_tasks(quern):
    Path("empty.py").write_text("from mteb.abstasks import AbsTaskSTS\n")
    done = quern("run", "-o", "out", "--tasks-file", "empty.py")
    assert done.exit_code == 2
    assert "`empty.py` defines no task" in done.stderr


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("\ndef f(:\n", "`mine/bad.py`, line 2: SyntaxError: "),
        ("import sibling\nsibling.fail()\n", "`mine/bad.py`, line 2: OSError: gone"),
        (
            "from mteb.abstasks import AbsTaskSTS\nclass Faulty(AbsTaskSTS):\n    metadata = 3\n",
            "`mine/bad.py`: AttributeError: ",
        ),
    ],
    ids=["syntax", "sibling", "metadata"],
)
def test_a_file_that_fails(quern, monkeypatch, content, message):
    monkeypatch.setattr(sys, "path", [*sys.path])
    Path("mine").mkdir()
    Path("mine/bad.py").write_text(content)
    Path("mine/sibling.py").write_text("def fail():\n    raise OSError('gone')\n")
    done = quern("run", "-o", "out", "--tasks-file", "mine/bad.py")
    assert done.exit_code == 2
    assert done.stderr.startswith(f"quern: {message}")
    del done
    gc.collect()
    from mteb.abstasks import AbsTaskSTS  # imports mteb, which takes seconds

    names = {task.__name__ for task in AbsTaskSTS.__subclasses__()}
    assert "Faulty" not in names  # mteb goes through the task classes of the process


def test_nothing_to_rerank(quern):
    Path("saved").mkdir()
    Path("mine.py").write_text(
        f"import runpy\nLocalSTS = runpy.run_path({TASKS!r}, run_name=__name__)['LocalSTS']\n"
    )
    done = quern("rerank", "--predictions", "saved", "-o", "out", "--tasks-file", "mine.py")
    assert done.exit_code == 2
    assert "none of these tasks is of the type Retrieval" in done.stderr


def test_half_a_result_is_exit_code_1(quern):
    Path("one").mkdir()
    Path("one/STS12.json").write_text('{"task_name": ')
    done = quern("summary", "one")
    assert done.exit_code == 1
    assert done.stderr.startswith("quern: `one/STS12.json`: not complete JSON")


def test_help_imports_no_mteb():
    code = (
        "import sys; from quernstone.cli import app\n"
        "try: app(['--help'], prog_name='quern')\n"
        "except SystemExit: print([m for m in ('mteb', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "Evaluate models on MTEB" in done.stdout


def test_scripts_with_the_official_names_and_arguments(tmp_path):
    """They are three lines each: what they call is seen with a `quern` that prints its words."""
    fake = tmp_path / "bin" / "quern"
    fake.parent.mkdir()
    fake.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    environment = {**os.environ, "PATH": f"{fake.parent}:{os.environ['PATH']}"}

    def words(*command):
        done = subprocess.run(
            [str(part) for part in command],
            capture_output=True,
            text=True,
            check=True,
            env=environment,
            cwd=tmp_path,
        )
        return done.stdout.splitlines()

    scripts = ROOT / "evaluation"
    assert words(scripts / "run_mteb.sh", "M", "name", "MTEB(eng, v2)", "--tasks", "a,b") == [
        *("eval", "run", "--model", "M", "--output", "results/name"),
        *("--benchmark", "MTEB(eng, v2)", "--tasks", "a,b"),
    ]
    assert words(scripts / "run_mteb_reranking.sh", "R", "name", "results/e", "MTEB(cmn, v1)") == [
        *("eval", "rerank", "--model", "R", "--output", "results/name"),
        *("--predictions", "results/e", "--benchmark", "MTEB(cmn, v1)"),
    ]
    python = [sys.executable, scripts / "summary.py"]
    assert words(*python, "results/name", "MTEB(Code, v1)") == [
        *("eval", "summary", "results/name", "--benchmark", "MTEB(Code, v1)"),
    ]
    assert words(*python, "results/name")[-1] == "MTEB(Multilingual, v2)"
    assert words(*python, "results/name", "MTEB(Code, v1)", "--splits", "all")[-2:] == [
        *("--splits", "all"),
    ]


@pytest.mark.parametrize("name", ["run_mteb.sh", "run_mteb_reranking.sh", "summary.py"])
def test_scripts_without_arguments_print_their_usage(name):
    command = [sys.executable] if name.endswith(".py") else ["bash"]
    command.append(str(ROOT / "evaluation" / name))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"{name} " in done.stderr
    assert "[options of `quern eval" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_older_python_is_named(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 10, 13))
    with pytest.raises(ConfigError, match=r"needs Python 3\.11 or later.*this is Python 3\.10"):
        importlib.reload(quernstone.evaluation)
