"""The colours of the report's page."""

import re
from pathlib import Path

from helpers.run_folders import run_folder

from training.reporting import charts, report_html
from training.reporting.run_folder import read_runs


def test_every_colour_follows_the_theme(tmp_path: Path) -> None:
    runs = read_runs([run_folder(tmp_path / str(i), [30 + i, 60]) for i in range(charts.MAX_RUNS)])
    html = report_html.page(runs, None)
    body = html.partition("</style>")[2]
    assert not re.findall(r"#[0-9a-f]{6}\b", body)
    used, known = set(re.findall(r"var\(--([a-z0-9-]+)\)", html)), set(re.findall(r"--([a-z0-9-]+):", html))
    assert used <= known
    # Every variable has a value in the light and one in the dark.
    dark = html.partition("prefers-color-scheme: dark")[2]
    assert all(f"--{name}: #" in dark.partition("}")[0] for name in used - {"tone"})
