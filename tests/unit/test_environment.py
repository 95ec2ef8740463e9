"""environment.yml installs what uv.lock holds: the same packages and versions, on each supported Python."""

import tomllib
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
FROM_CONDA = {"opencv-python", "opencv-python-headless"}  # conda-forge's py-opencv goes by both names
PYTHONS = ("3.11", "3.12", "3.13")


def conda_and_pip_lines() -> tuple[list[str], list[str]]:
    *conda, pip = YAML(typ="safe", pure=True).load((ROOT / "environment.yml").read_text())["dependencies"]
    return conda, pip["pip"]


def on_linux(python: str) -> dict[str, str]:
    return {
        **default_environment(),
        "python_version": python,
        "python_full_version": f"{python}.9",
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": "x86_64",
        "platform_python_implementation": "CPython",
    }


def by_conda(python: str) -> dict[str, str]:
    """name -> version, of what pip installs on Linux."""
    found: dict[str, str] = {}
    for line in conda_and_pip_lines()[1][:-1]:
        wanted = Requirement(line)
        if wanted.marker is None or wanted.marker.evaluate(on_linux(python)):
            (pin,) = wanted.specifier
            assert pin.operator == "==", line
            assert found.setdefault(canonicalize_name(wanted.name), pin.version) == pin.version
    return found


def by_uv(python: str) -> dict[str, str]:
    """name -> version, of what `uv sync` installs on Linux: the lock's graph walked from this project."""
    lock = tomllib.loads((ROOT / "uv.lock").read_text())
    here = on_linux(python)
    packages: dict[str, list[dict]] = {}
    for package in lock["package"]:
        packages.setdefault(package["name"], []).append(package)

    def resolve(edge: dict) -> dict:
        candidates = [p for p in packages[edge["name"]] if edge.get("version", p["version"]) == p["version"]]
        (only,) = candidates
        return only

    (project,) = packages["imagenet18-ffcv"]
    edges = [*project["dependencies"], *project["dev-dependencies"]["dev"]]
    seen: set[tuple[str, str]] = set()
    found: dict[str, str] = {}
    while edges:
        edge = edges.pop()
        if "marker" in edge and not Requirement(f"x; {edge['marker']}").marker.evaluate(here):
            continue
        package = resolve(edge)
        for extra in ("", *edge.get("extra", ())):
            if (package["name"], extra) in seen:
                continue
            seen.add((package["name"], extra))
            found[package["name"]] = package["version"]
            edges += (
                package.get("optional-dependencies", {}).get(extra, []) if extra else package.get("dependencies", [])
            )
    return found


@pytest.mark.parametrize("python", PYTHONS)
def test_both_environments_hold_the_same_versions(python: str) -> None:
    uv = {name: version for name, version in by_uv(python).items() if name not in FROM_CONDA}
    assert by_conda(python) == uv


def test_every_direct_dependency_is_installed() -> None:
    """Read from pyproject.toml itself: the two above could both have lost one."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = [Requirement(r) for r in (*pyproject["project"]["dependencies"], *pyproject["dependency-groups"]["dev"])]
    for python in PYTHONS:
        pinned = by_conda(python)
        for requirement in wanted:
            name = canonicalize_name(requirement.name)
            if name in FROM_CONDA:
                assert any(line.startswith("opencv") for line in conda_and_pip_lines()[0])
            else:
                assert requirement.specifier.contains(pinned[name]), (python, name)


def test_every_package_but_the_project_has_a_version() -> None:
    *pins, project = conda_and_pip_lines()[1]
    assert project == "-e ."
    assert not FROM_CONDA & {canonicalize_name(Requirement(line).name) for line in pins}


def test_python_version_is_supported() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    supported = Requirement(f"python{pyproject['project']['requires-python']}").specifier
    (python,) = [line.removeprefix("python=") for line in conda_and_pip_lines()[0] if line.startswith("python=")]
    assert supported.contains(f"{python}.1")
    assert all(supported.contains(f"{p}.1") for p in PYTHONS)
