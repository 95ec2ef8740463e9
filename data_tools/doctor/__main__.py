"""Check that this machine is ready to convert and to train, and say what to do if it is not.

Prints a line for each check: OK, WARN (works, but not well) or FAIL (does not work). The exit status is 1 after a FAIL.
"""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from data_tools.common.errors import program
from data_tools.common.gpus import installed_gpus
from data_tools.common.options import Argument, Section, parse
from data_tools.doctor import machine_checks, software_checks
from data_tools.doctor.machine_checks import Finding


def examine(folder: Path | None) -> Iterator[Finding]:
    """Yield every finding, with ``folder`` also those about its betons."""
    yield software_checks.python()
    torch, error = software_checks.load("torch")
    yield software_checks.torch(torch, error)
    gpus, error = installed_gpus()
    yield from software_checks.gpus(gpus, error, software_checks.driver_cuda(), torch)
    yield from software_checks.libraries()
    yield machine_checks.cores(len(gpus))
    yield machine_checks.waiting_threads()
    yield machine_checks.memory()
    yield machine_checks.disk(folder or Path())
    yield machine_checks.descriptors()
    yield machine_checks.shared_memory(len(gpus))
    if folder is not None:
        yield from machine_checks.betons(folder)


class DoctorOptions(Section):
    betons: Annotated[Path | None, Argument("BETON_DIR")] = Field(
        None, description="also check this folder of betons; by default none are checked"
    )


@program("data_tools.doctor")
def main(argv: Sequence[str]) -> int:
    options = parse(DoctorOptions, argv, prog="data_tools.doctor", description=__doc__ or "")
    failed = False
    for finding in examine(options.betons):
        print(finding, flush=True)
        failed |= finding.level == "FAIL"
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
