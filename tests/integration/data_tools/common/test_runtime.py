"""Output that cannot be written ends neither a program nor its status."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import sys
from data_tools.common.errors import program
from data_tools.common.runtime import expendable_output

@program("test")
def main(argv):
    with expendable_output():
        for _ in range(3):
            print("a line of the table" * 1000, flush=True)
            print("progress", file=sys.stderr)
    return 75

sys.exit(main([]))
"""


@pytest.mark.parametrize("where", ["closed pipe", "full disk", "closed"])
def test_status_is_that_of_the_run(where: str) -> None:
    command = [sys.executable, "-c", PROGRAM]
    if where == "closed pipe":
        reader, writer = os.pipe()
        os.close(reader)
    else:
        writer = os.open("/dev/full" if where == "full disk" else "/dev/null", os.O_WRONLY)
    if where == "closed":
        command = ["sh", "-c", '"$@" >&- 2>&-', "sh", *command]
    try:
        assert subprocess.run(command, stdout=writer, stderr=writer, timeout=60).returncode == 75
    finally:
        os.close(writer)
