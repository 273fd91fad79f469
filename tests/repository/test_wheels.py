"""Build the packages as for a release, install the wheels elsewhere, and run each README there."""

import hashlib
import re
import subprocess
import sys

import pytest
from tests.support.environments import ROOT, Environment

import quernstone

READMES = {
    "quernstone": "core",
    "langchain-quernstone": "langchain",
    "llama-index-quernstone": "llamaindex",
    "quernstone-qdrant": "qdrant",
}

# The README's models need an engine, so `torch` comes with every extra. The extra `vllm` is not
# here: its wheels need CUDA, and `tests/vllm` has an environment of its own.
EXTRAS = {
    ("quernstone", "torch"): "",
    ("quernstone", "transformers"): "Embedder('tiny', engine='transformers').close()",
    ("quernstone", "sentence-transformers"): (
        "Embedder('tiny', engine='sentence-transformers').close()"
    ),
    ("quernstone", "hopper"): "",  # its library needs CUDA
    ("quernstone", "modelscope"): "import modelscope",
    ("quernstone", "serve"): "import quernstone.serve.app",
    ("quernstone", "parquet"): "import quernstone.tables.parquet",
    (
        "quernstone",
        "eval",
    ): "import mteb, quernstone.evaluation.tables, quernstone.evaluation.plots",
    ("quernstone", "testing"): "import quernstone.testing",
    ("langchain-quernstone", "torch"): "",
    ("langchain-quernstone", "qdrant"): "from langchain_quernstone import QuernstoneRetriever",
    ("langchain-quernstone", "testing"): "import langchain_quernstone.testing",
    ("llama-index-quernstone", "torch"): "",
    ("llama-index-quernstone", "qdrant"): "import llama_index.retrievers.quernstone",
    ("llama-index-quernstone", "testing"): "import llama_index.postprocessor.quernstone.testing",
    ("quernstone-qdrant", "torch"): "",
    ("quernstone-qdrant", "documents"): (
        "from quernstone_qdrant import read_paths\n"
        "open('a.html', 'w').write('<title>Querns</title><p>A quern is a hand mill.</p>')\n"
        "[record] = read_paths(['a.html'])\n"
        "assert 'hand mill' in record.text"
    ),
    ("quernstone-qdrant", "ray"): "import ray.data, quernstone_qdrant.ray",
}


def readme(package):
    """Return the Python blocks of a package's README."""
    text = (ROOT / "packages" / READMES[package] / "README.md").read_text()
    found = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found
    return "\n".join(found)


def build(folder, mask):
    """Run `make dist` in this environment, whose packages are there already."""
    prefix = sys.prefix
    subprocess.run(
        ["make", "-o", f"{prefix}/installed-dev", "dist", f"VENV={prefix}", f"DIST={folder}"],
        cwd=ROOT,
        umask=mask,
        check=True,
        stdout=subprocess.DEVNULL,
    )


def test_every_extra_is_installed_and_resolved():
    tomllib = pytest.importorskip("tomllib", reason="part of Python since 3.11")
    extras = set()
    for package, folder in READMES.items():
        settings = tomllib.loads((ROOT / "packages" / folder / "pyproject.toml").read_text())
        for extra, requirements in settings["project"]["optional-dependencies"].items():
            if requirements != [f"quernstone[{extra}]"]:  # one of core's, by another name
                extras.add((package, extra))
    assert extras - EXTRAS.keys() == {("quernstone", "vllm")}
    [resolved] = re.findall(r"^EXTRAS := ((?:.*\\\n)*.*)$", (ROOT / "Makefile").read_text(), re.M)
    assert {*resolved.replace("\\", "").split()} == {extra for _, extra in EXTRAS}


def hashes(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """Return the folder of a release."""
    folder = tmp_path_factory.mktemp("release") / "dist"
    build(folder, 0o022)
    return folder


@pytest.fixture(scope="module")
def wheels(dist):
    found = {path.name.split("-")[0].replace("_", "-"): path for path in dist.glob("*.whl")}
    assert found.keys() == READMES.keys()
    return found


@pytest.mark.slow
def test_two_builds_of_one_commit_are_equal(dist, tmp_path):
    build(tmp_path / "dist", 0o077)
    first = hashes(dist)
    assert len(first) == 8
    assert hashes(tmp_path / "dist") == first


@pytest.mark.slow
def test_each_readme_runs_from_the_wheels(dist, wheels, tmp_path):
    environment = Environment(tmp_path)
    extras = {"quernstone": "[torch]", "langchain-quernstone": "[qdrant]"}
    packages = " ".join(f'"{path}{extras.get(name, "")}"' for name, path in wheels.items())
    environment.run(f"pip install --quiet --no-compile --find-links {dist} {packages}")
    assert environment.run("quern --version") == f"quern {quernstone.__version__}\n"
    for package in READMES:
        assert environment.run_offline(readme(package))


@pytest.fixture(scope="module")
def wheelhouse(dist, wheels, tmp_path_factory):
    """Return a folder with our wheels and all that their extras need, in one resolution."""
    folder = tmp_path_factory.mktemp("wheelhouse")
    wanted = " ".join(
        f'"{path}[{",".join(extra for name, extra in EXTRAS if name == package)}]"'
        for package, path in wheels.items()
    )
    environment = Environment(tmp_path_factory.mktemp("download"))
    environment.run(f"pip download --quiet --find-links {dist} --dest {folder} {wanted}")
    return folder


@pytest.mark.soak
@pytest.mark.parametrize(("package", "extra"), EXTRAS)
def test_a_readme_runs_with_each_extra(package, extra, wheelhouse, tmp_path):
    environment = Environment(tmp_path)
    wanted = f"{package}[{','.join(dict.fromkeys(['torch', extra]))}]"
    environment.run(
        f'pip install --quiet --no-compile --no-index --find-links {wheelhouse} "{wanted}"'
    )
    assert environment.run_offline(readme(package) + EXTRAS[package, extra])
