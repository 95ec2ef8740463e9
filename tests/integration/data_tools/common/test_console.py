"""Output that cannot be written ends neither a program nor its status."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import sys
import logging
from data_tools.common import console
from data_tools.common.errors import program

@program("test")
def main(argv):
    for _ in range(3):
        console.show("a line of the table" * 1000)
        logging.getLogger("training").info("progress")
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
