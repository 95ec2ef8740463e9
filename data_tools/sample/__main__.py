"""A sample dataset made from nothing, as a sorted tar: python -m data_tools.sample OUT.tar"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

from data_tools.sample.dataset import specs, write


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m data_tools.sample", description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("out", type=Path, metavar="OUT.tar", help="where to write the tar")
    add("--classes", type=int, default=10, help="kinds of pattern (default: %(default)s)")
    add("--train", type=int, default=1600, help="training images in all (default: %(default)s)")
    add("--val", type=int, default=400, help="validation images in all (default: %(default)s)")
    add("--seed", type=int, default=0, help="another seed, other images (default: %(default)s)")
    cores = len(os.sched_getaffinity(0))
    add("--workers", type=int, default=cores, help="processes (default: one per core, %(default)s)")
    args = parser.parse_args(argv)
    try:
        todo = specs(classes=args.classes, train=args.train, val=args.val, seed=args.seed)
    except ValueError as error:
        parser.error(str(error))
    start = time.monotonic()
    write(args.out, todo, workers=max(1, args.workers))
    seconds = time.monotonic() - start
    print(f"{args.out}: {len(todo)} images, {args.out.stat().st_size / 1e6:.1f} MB, {seconds:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
