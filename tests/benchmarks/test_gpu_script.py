"""The GPU check at a tiny size on a CPU, so that no run on a GPU is lost to a typo."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from benchmarks.gpu import driver
from benchmarks.gpu.driver import CHECKPOINTS, STEPS, Driver, Step
from benchmarks.gpu.run import Run, Settings, describe, read_results

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "gpu" / "device_check.sh"
OUTCOMES = {"pass", "figure", "needs a GPU"}


def start(*arguments, **environment):
    return subprocess.run(
        ["bash", str(SCRIPT), *map(str, arguments)],
        env={**os.environ, "PYTHON": sys.executable, **environment},
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def settings(tmp_path):
    folders = {"out": tmp_path / "out", "work": tmp_path / "work"}
    return Settings(device="cpu", dry_run=True, **folders)


@pytest.mark.slow
def test_every_step_runs_on_a_cpu(tmp_path):
    done = start("--device", "cpu", "--dry-run", "--out", tmp_path, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["settings"] == {"device": "cpu", "dry_run": True}
    results = {step["step"]: step["results"] for step in written["steps"]}
    assert results.keys() == {step.name for step in (CHECKPOINTS, *STEPS)}
    for name, found in results.items():
        assert found, f"{name} reported nothing"
        assert {result["outcome"] for result in found} <= OUTCOMES
        assert all(describe(result) in done.stdout.splitlines() for result in found)
    outcomes = {name: {each["outcome"] for each in found} for name, found in results.items()}
    assert "pass" in outcomes["correctness"]
    assert "needs a GPU" in outcomes["gpu_tests"]
    rate = next(each for each in results["throughput"] if each["name"].endswith("to vectors"))
    assert rate["figures"]["tokens_per_s"] > 0
    assert rate["figures"]["share_of_matrix_rate"] > 0


def test_a_full_run_needs_a_gpu(tmp_path):
    done = start("--device", "cpu", "--out", tmp_path)
    assert done.returncode == 2
    assert "add --dry-run" in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_nothing_starts(tmp_path):
    done = start("--out", tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("CUDA does not work here")
    assert "====" not in done.stdout


def test_a_failing_step_does_not_stop_the_others(settings, monkeypatch, capfd):
    steps = (
        Step("missing", 30, loads_model=False),
        Step("checkpoints", 1, loads_model=False),
        Step("environment", 30, loads_model=False),
    )
    monkeypatch.setattr(driver, "STEPS", steps)
    assert not Driver(settings, limit=100).run([step.name for step in steps])
    printed = capfd.readouterr().out
    assert (
        "FAIL missing: error=ModuleNotFoundError: No module named 'benchmarks.gpu.steps.m"
        in printed
    )
    assert "FAIL checkpoints: error=stopped after its limit of 1 s" in printed
    assert "optional packages: " in printed
    assert "ModuleNotFoundError" in settings.log_file("missing").read_text()


def test_no_step_starts_without_time(settings, capfd):
    assert not Driver(settings, limit=0).run(["rates"])
    assert "FAIL rates: error=not run: no time left" in capfd.readouterr().out
    written = json.loads((settings.out / "results.json").read_text())
    assert [step["results"][0]["outcome"] for step in written["steps"]] == ["fail"]


def test_results_are_plain_json(settings, capsys):
    run = Run(settings, "some", sys.stdout)
    run.check("a", True, x=0.5)
    run.figure("b", n=float("nan"), path=Path("p"), many=[1, 2])
    with run.part("c"):
        raise ValueError("wrong\nand more")
    run.needs_gpu("d")
    found = read_results(settings.results_file("some"))
    assert [each["outcome"] for each in found] == ["pass", "figure", "fail", "needs a GPU"]
    assert found[1]["figures"] == {"n": "nan", "path": "p", "many": [1, 2]}
    assert capsys.readouterr().out.splitlines() == [
        "PASS a: x=0.5",
        "     b: n=nan  path=p  many=[1, 2]",
        "FAIL c: error=ValueError: wrong",
        "---- d: needs a GPU",
    ]
    assert run.earlier_figure("some", "a", "x") == 0.5
    # a step that is stopped may leave half a line
    with settings.results_file("some").open("a") as file:
        file.write('{"name"')
    assert read_results(settings.results_file("some")) == found
