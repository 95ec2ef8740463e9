"""Whether this machine is ready to convert and to train, and what to do where it is not.

    python -m data_tools.doctor [--data.dir DIR]

A line for each thing: OK, WARN (it works, but not well) or FAIL (it will not work). Exit status 1 after a FAIL.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from data_tools.doctor import machine_checks, software_checks
from data_tools.doctor.machine_checks import Finding


def examine(folder: Path | None) -> Iterator[Finding]:
    """Every finding, as it is made; with ``folder`` also those about its betons."""
    yield software_checks.python()
    torch, why = software_checks.load("torch")
    yield software_checks.torch(torch, why)
    cards, trouble = software_checks.cards()
    yield from software_checks.gpu(cards, trouble, software_checks.driver_cuda(), torch)
    yield from software_checks.libraries()
    yield machine_checks.cores(len(cards))
    yield machine_checks.memory()
    yield machine_checks.disk(folder or Path())
    yield machine_checks.descriptors()
    yield machine_checks.shared_memory(len(cards))
    if folder is not None:
        yield from machine_checks.betons(folder)


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
