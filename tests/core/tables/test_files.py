"""Standard input."""

import subprocess
import sys

WAITING = """
import sys, threading, time
from pathlib import Path
from quernstone.tables import open_file

ready = threading.Event()

def read():
    with open_file(Path("-")) as lines:
        for line in lines:
            ready.set()

threading.Thread(target=read, daemon=True).start()
ready.wait()
time.sleep(0.2)  # until it waits for more
sys.exit(3)
"""


def test_a_process_ends_although_a_thread_waits_for_standard_input():
    pipes = {"stdin": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", WAITING], **pipes) as process:
        process.stdin.write(b"one line\n" * 2000)
        process.stdin.flush()
        assert (process.wait(timeout=60), process.stderr.read()) == (3, b"")
