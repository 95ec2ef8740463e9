"""ImageNet to FFCV betons."""

import sys

from data_tools.common.runtime import check_python

check_python(sys.argv, getattr(sys, "orig_argv", ()))
