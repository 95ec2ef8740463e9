"""Whether this machine is ready to convert and to train, and what to do where it is not.

    python -m data_tools.doctor [--data.dir DIR]

A line for each thing: OK, WARN (it works, but not well) or FAIL (it will not work). Exit status 1 after a FAIL.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from data_tools.doctor import machine_checks as surroundings
from data_tools.doctor import software_checks as software
from data_tools.doctor.machine_checks import Finding


def examine(folder: Path | None) -> Iterator[Finding]:
    """Every finding, as it is made; with ``folder`` also those about its betons."""
    yield software.python()
    torch, why = software.load("torch")
    yield software.torch(torch, why)
    cards, trouble = software.cards()
    yield from software.gpu(cards, trouble, software.driver_cuda(), torch)
    yield from software.libraries()
    yield surroundings.cores(len(cards))
    yield surroundings.memory()
    yield surroundings.disk(folder or Path())
    yield surroundings.descriptors()
    yield surroundings.shared_memory(len(cards))
    if folder is not None:
        yield from surroundings.betons(folder)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m data_tools.doctor", allow_abbrev=False, description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--data.dir", dest="folder", type=Path, metavar="DIR", help="a folder of betons, to look at too"
    )
    given = parser.parse_args(argv)
    failed = False
    for finding in examine(given.folder):
        print(finding, flush=True)
        failed |= finding.level == "FAIL"
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
