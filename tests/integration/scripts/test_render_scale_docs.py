"""The command that renews benchmarks/results/machines.md and its plot."""

from pathlib import Path

from helpers import ROOT

from scripts.render_scale_docs import BEGIN, END, main


def test_command_renews_tables_and_plot(tmp_path: Path) -> None:
    page = tmp_path / "machines.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    made = []
    for _ in range(2):
        assert main([str(page), str(ROOT / "rn50_configs")]) == 0
        made.append((page.read_text(), (tmp_path / "machines.svg").read_bytes()))
    assert made[0] == made[1]
    assert made[0][0].startswith("before\n") and made[0][0].endswith("after\n") and "old" not in made[0][0]
    assert made[0][1] == (ROOT / "benchmarks" / "results" / "machines.svg").read_bytes()
