import warnings
from pathlib import Path

import datasets
import pytest

from quernstone import Embedder, Reranker
from quernstone.evaluation.benchmarks import tasks_of_file
from quernstone.evaluation.instructions import Instructions, own_instructions
from quernstone.evaluation.protocol import Protocol
from quernstone.evaluation.run import run

TASKS = Path(__file__).parent / "local_tasks.py"
OFFICIAL = Protocol(name="official", instructions=own_instructions())
MTEB = Protocol(name="mteb", instructions=Instructions({}))


@pytest.fixture(scope="session", autouse=True)
def quiet():
    datasets.disable_progress_bars()


@pytest.fixture(scope="session")
def tasks():
    """Return new local tasks: all of them, or those named."""

    def make(*names):
        found = tasks_of_file(TASKS)
        return [task for task in found if not names or task.metadata.name in names]

    return make


@pytest.fixture(scope="session")
def embedder():
    with Embedder("tiny", dtype="float32") as made:
        yield made


@pytest.fixture(scope="session")
def reranker():
    with Reranker("tiny", dtype="float32", template="eval") as made:
        yield made


@pytest.fixture(scope="session")
def official():
    return OFFICIAL


@pytest.fixture(scope="session")
def mteb_rules():
    return MTEB


@pytest.fixture(scope="session")
def first_stage(tmp_path_factory, tasks, embedder):
    """Return a finished run of all local tasks under the official rules."""
    folder = tmp_path_factory.mktemp("results") / "first"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # mteb's own
        outcomes = run(embedder, tasks(), folder, OFFICIAL)
    assert [one.error for one in outcomes] == [""] * len(outcomes)
    return folder
