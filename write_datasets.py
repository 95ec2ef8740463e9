"""Convert ImageNet, in whatever form it comes, to FFCV betons: several sizes from one read, resumable.

python write_datasets.py --data.source=imagenet-data-sorted.tar --data.out=data/beton
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from data_tools.common.errors import program
from data_tools.common.options import parse
from data_tools.convert.config import WriteSpec

DESCRIPTION = "Convert images to FFCV betons at several sizes from one read. If interrupted, run it again."


@program("write_datasets.py")
def main(argv: Sequence[str]) -> int:
    spec = parse(WriteSpec, argv, prog="write_datasets.py", description=DESCRIPTION)
    from data_tools.convert import cli  # heavy imports after the command line is known to be sound

    return cli.run(spec)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
