"""The doctor's findings about driver, GPUs and libraries, from made-up machines."""

from collections.abc import Iterable
from types import SimpleNamespace

import pytest

from data_tools.common.gpus import Gpu
from data_tools.doctor import software_checks
from data_tools.doctor.machine_checks import Finding

CUDA_13 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]


def levels(findings: Iterable[Finding]) -> list[str]:
    return [finding.level for finding in findings]


def fake_torch(arches: list[str], cuda: str | None = "13.2", devices: int = 1) -> SimpleNamespace:
    return SimpleNamespace(
        __version__="2.15.0",
        version=SimpleNamespace(cuda=cuda),
        cuda=SimpleNamespace(get_arch_list=lambda: arches, device_count=lambda: devices),
    )


def card(name: str, *capability: int, driver: str = "580.65.06") -> Gpu:
    return Gpu(name=name, driver=driver, capability=capability)


@pytest.mark.parametrize(
    ("built_for", "capability", "runs"),
    [
        (CUDA_13, (7, 0), False),  # V100
        (CUDA_13, (7, 5), True),  # Titan RTX
        (CUDA_13, (8, 9), True),  # L40: sm_86 and sm_80 run on it
        (CUDA_13, (9, 0), True),
        (CUDA_13, (10, 3), True),  # B300
        (CUDA_13, (11, 0), False),  # machine code of 10.0 does not run on another generation
        (["sm_86"], (8, 0), False),
        (["sm_80", "compute_80"], (12, 0), True),  # PTX is translated for what is newer
        (["sm_80", "compute_90"], (7, 5), False),
        (["sm_90a"], (9, 0), True),
        ([], (9, 0), False),
    ],
)
def test_supports_follows_the_rules_of_cuda(built_for: list[str], capability: tuple[int, int], runs: bool) -> None:
    assert software_checks.supports(built_for, capability) == runs


def test_findings_about_driver_and_cards() -> None:
    torch = fake_torch(CUDA_13, devices=2)
    both = [card("H100", 9, 0), card("V100", 7, 0)]
    good, h100, v100 = software_checks.gpus(both, "", (13, 0), torch)
    assert (good.level, h100.level, v100.level) == ("OK", "OK", "FAIL")
    assert "V100, compute capability 7.0, and this torch is for sm_75" in str(v100)
    old, _ = software_checks.gpus([card("H100", 9, 0, driver="535.54")], "", (12, 2), torch)
    assert "driver 535.54 (CUDA up to 12.2), but torch needs CUDA 13.2: install driver 580" in str(old)
    assert levels(software_checks.gpus([card("H100", 9, 0)], "", (13, 0), fake_torch([], cuda=None))) == ["FAIL", "OK"]
    assert levels(software_checks.gpus([card("H100", 9, 0)], "", (13, 0), None)) == ["OK", "OK"]
    assert levels(software_checks.gpus([], "", None, torch)) == ["WARN"]
    assert levels(software_checks.gpus([], "No devices were found", (13, 0), torch)) == ["FAIL"]


def test_hidden_gpus_are_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    *_, last = software_checks.gpus([card("H100", 9, 0)] * 8, "", (13, 0), fake_torch(CUDA_13))
    assert str(last) == "WARN torch sees 1 of 8 GPUs: CUDA_VISIBLE_DEVICES is '0'"
