"""Virtual environments of their own, for tests of what users install."""

import os
import subprocess
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]

OFFLINE = """\
import socket

def refuse(self, address):
    raise OSError(f"this test has no network: {address}")

socket.socket.connect = socket.socket.connect_ex = refuse
"""


class Environment:
    """A new virtual environment that sees neither the checkout nor the packages of this one."""

    def __init__(self, folder: Path):
        venv.create(folder / "venv", with_pip=True)
        self.folder = folder
        self.variables = {
            **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
            "PATH": f"{folder}/venv/bin:/usr/bin:/bin",
            "PIP_CONSTRAINT": str(ROOT / "constraints.txt"),
            "HF_HUB_OFFLINE": "1",
        }

    def run(self, command: str, folder: Path | None = None) -> str:
        """Run a shell command that must succeed, and return its output."""
        where = folder or self.folder
        done = subprocess.run(
            ["bash", "-c", command], cwd=where, env=self.variables, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def run_offline(self, code: str) -> str:
        """Run Python code in which connecting a socket fails."""
        (self.folder / "page.py").write_text(OFFLINE + code)
        return self.run("python page.py")
