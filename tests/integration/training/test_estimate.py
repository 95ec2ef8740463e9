"""The rate that an estimate is made from, measured on this machine."""

from helpers.recipes import config

from training import estimate


def test_rate_is_measured_on_this_machine() -> None:
    options = config("cpu_demo")
    assert estimate.measured_rate(options, options.schedule.parsed.phases[0], steps=1) > 0
