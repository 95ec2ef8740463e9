"""Training from FFCV betons."""

from data_tools.common import runtime  # noqa: F401 - importing data_tools checks the Python that runs
