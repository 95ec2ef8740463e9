"""What MLPerf's own tool says of a log."""

from __future__ import annotations

from pathlib import Path

import pytest

RULES = "training_4.0.0/common.yaml"


def complaints(log: Path) -> str:
    """The compliance checker's findings by the rules of training 4.0; empty where it has none."""
    compliance = pytest.importorskip(
        "mlperf_logging.compliance_checker.mlp_compliance", reason="mlperf-logging is missing; make env installs it"
    )
    checker = compliance.make_checker("training", "4.0.0", quiet=False, werror=True)
    valid = checker.check_file(str(log), RULES)
    found = [*checker.overwritable.values(), *checker.not_overwritable]
    assert valid == (not found)
    return "\n".join(found)
