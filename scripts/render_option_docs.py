"""Write the tables of options in docs/OPTIONS.md from the code."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from data_tools.common.errors import program
from data_tools.common.files import replace_between, write_atomically
from data_tools.common.options import Argument, Section, option_rows, parse, sections_of
from data_tools.convert.config import WriteSpec
from training.config.run_config import RunConfig
from training.config.schedule import Phase

TOOLS = {  # module and options class of each program
    "data_tools.doctor": ("data_tools.doctor.__main__", "DoctorOptions"),
    "data_tools.sample": ("data_tools.sample.__main__", "SampleOptions"),
    "data_tools.verify": ("data_tools.verify", "VerifyOptions"),
    "data_tools.describe": ("data_tools.describe", "DescribeOptions"),
    "data_tools.adopt": ("data_tools.adopt", "AdoptOptions"),
    "data_tools.dawn_tsv": ("data_tools.dawn_tsv", "DawnOptions"),
    "training.plan": ("training.plan", "PlanOptions"),
    "training.warm_up": ("training.warm_up", "WarmUpOptions"),
    "training.estimate": ("training.estimate", "EstimateOptions"),
    "training.preview": ("training.preview", "PreviewOptions"),
    "training.evaluate": ("training.evaluate", "EvaluateOptions"),
    "training.export": ("training.export", "ExportOptions"),
    "training.report": ("training.report", "ReportOptions"),
    "training.compare": ("training.compare", "CompareOptions"),
}
END = "<!-- end of options -->"


def begin(name: str) -> str:
    return f"<!-- options of {name}: made by make docs -->"


def option_table(rows: Sequence[Sequence[str]], first: str = "option") -> Iterator[str]:
    """Rows of `option_rows` as a Markdown table, line by line."""
    yield f"| {first} | default | meaning |"
    yield "|---" * (first.count("|") + 3) + "|"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def training_options() -> Iterator[str]:
    """A heading and a table for each section; after the schedule's, the keys of a phase."""
    for name, kind in sections_of(RunConfig).items():
        yield f"### {name}: {(kind.__doc__ or '').strip()}\n"
        yield from option_table(option_rows(RunConfig, name))
        if name == "schedule":
            yield "\nKeys of a phase:\n"
            rows = option_rows(Phase, "")
            yield from option_table([[row[0].replace("--", ""), *row[1:]] for row in rows], first="key")
        yield ""


def tool_options() -> Iterator[str]:
    """One table for all tools, and which of them share the options of train_imagenet.py."""
    rows, sharing = [], []
    for tool, (module, schema) in TOOLS.items():
        kind = getattr(importlib.import_module(module), schema)
        shared = issubclass(kind, RunConfig)
        own = [row for name in ("", *sections_of(kind)) if not (shared and name) for row in option_rows(kind, name)]
        rows += [[f"`{tool}`" if number == 0 else "", *row] for number, row in enumerate(own)]
        sharing += [f"`{tool.rpartition('.')[2]}`"] if shared else []
    yield from option_table(rows, first="program | option")
    yield f"\n{', '.join(sharing[:-1])} and {sharing[-1]} also take all options of `train_imagenet.py`."


def conversion_options() -> Iterator[str]:
    """One table for both sections."""
    yield from option_table([row for name in sections_of(WriteSpec) for row in option_rows(WriteSpec, name)])


PARTS = {
    "write_datasets.py": conversion_options,
    "train_imagenet.py": training_options,
    "the tools": tool_options,
}


def rendered(text: str) -> str:
    """The `text` of the page with new tables."""
    for name, lines in PARTS.items():
        text = replace_between(text, begin(name), END, "\n".join(lines()).strip())
    return text


class OptionDocsOptions(Section):
    page: Annotated[Path, Argument("PAGE.md")] = Field(description="the page to update")


@program("render_option_docs.py")
def main(argv: Sequence[str]) -> int:
    options = parse(OptionDocsOptions, argv, prog="scripts/render_option_docs.py", description=__doc__ or "")
    write_atomically(options.page, rendered(options.page.read_text(encoding="utf-8")).encode())
    print(f"{options.page}: {', '.join(PARTS)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
