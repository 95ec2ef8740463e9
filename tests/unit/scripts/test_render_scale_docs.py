"""What benchmarks/results/machines.md shows is what the estimate says now."""

import itertools
from xml.etree import ElementTree

import pytest
from helpers import ROOT

from data_tools.common.files import replace_between
from scripts import render_scale_docs

PAGE = ROOT / "benchmarks" / "results" / "machines.md"
SCHEDULES = render_scale_docs.read(ROOT / "rn50_configs")
CURVES = render_scale_docs.curves_of(SCHEDULES["machines16"])


def test_tables_are_up_to_date() -> None:
    text = PAGE.read_text(encoding="utf-8")
    content = "\n".join(render_scale_docs.content(SCHEDULES))
    renewed = replace_between(text, render_scale_docs.BEGIN, render_scale_docs.END, content)
    assert renewed == text, "make docs renews it"


def test_plot_is_up_to_date_and_says_that_it_is_simulated() -> None:
    picture = PAGE.with_name("machines.svg").read_text()
    about = ElementTree.fromstring(picture).findtext("{http://www.w3.org/2000/svg}desc")
    assert about == f"simulated; figures {render_scale_docs.mark(CURVES)}", "make docs renews it"
    assert picture.count(">simulated: ") == 2


def test_curves_behave_as_machines_do() -> None:
    # More of the network never costs time, and no number of machines scales better than perfectly.
    for slow, fast in itertools.pairwise(("h100, 25 Gbit/s", "h100, 100 Gbit/s", "h100, 400 Gbit/s")):
        assert CURVES[slow][0] == CURVES[fast][0]
        assert all(a >= b for a, b in zip(CURVES[slow][1:], CURVES[fast][1:], strict=True))
    for minutes in CURVES.values():
        assert all(b > a / 2 for a, b in itertools.pairwise(minutes))


def test_global_batches_are_kept_on_other_numbers_of_gpus() -> None:
    plan = render_scale_docs.same_global_batch(SCHEDULES["machines16"], 128, 1024)
    assert [phase.batch_per_gpu for phase in plan.phases] == [8, 16, 8, 24, 16]
    with pytest.raises(ValueError, match="global batch"):
        render_scale_docs.same_global_batch(SCHEDULES["machines16"], 128, 1000)
