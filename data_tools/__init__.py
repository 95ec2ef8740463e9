"""ImageNet to FFCV betons."""

import sys

from data_tools.common.environment import check_python

check_python(sys.argv, getattr(sys, "orig_argv", ()))
