"""What tests in several folders use; a package of its own because folders of tests hold no packages."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
