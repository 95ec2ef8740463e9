"""Options from the command line and YAML files: values, precedence, and what is refused."""

import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, ValidationError

from data_tools.common.errors import print_error
from data_tools.common.options import Argument, OptionError, Section, option_rows, options_of, parse


class Point(Section):
    """A place."""

    x: int = Field(alias="from", ge=0)
    side: Literal["left", "right"] = "left"


class Write(Section):
    """How it is written."""

    quality: int = Field(90, ge=1, le=100, description="JPEG quality")
    side: Literal["shorter", "longer"] = Field("shorter", description="side that is capped")
    caps: tuple[str, ...] = Field(("160", "full"), description="caps")
    rate: float = Field(0.1, ge=0, description="a rate")
    share: float | None = Field(None, gt=0, le=1, description="a share")
    dry: bool = Field(False, description="no files")
    limit: int | None = Field(None, description="a limit; by default as many as there are")
    points: tuple[Point, ...] = Field((), description="a structure")
    out: Path = Field(Path("data"), description="folder")
    log: Path | None = Field(None, description="a file")
    sources: tuple[Path, ...] | None = Field(None, description="what to read")
    mode: Literal["auto", "off"] = Field("auto", description="a mode")
    scale: float | Literal["dynamic"] = Field(1.0, description="a scale")


class Spec(Section):
    """A program with a section."""

    write: Write = Write()


class Tool(Section):
    """A program without."""

    files: Annotated[tuple[Path, ...], Argument("FILE")] = Field(description="what to look at")
    full: bool = Field(False, description="everything")
    dry_run: bool = Field(False, description="nothing")


def read(*argv: str) -> Write:
    return parse(Spec, argv, prog="p.py").write


def read_yaml(folder: Path, text: str) -> Write:
    (folder / "a.yaml").write_text(text)
    return read("-C", str(folder / "a.yaml"))


def refusal(error: OptionError) -> list[str]:
    """The lines about ``error`` and all others that were found."""
    lines = [str(each) for each in (error, *error.others)]
    assert not any("\n" in line for line in lines)
    return lines


@pytest.mark.parametrize(
    ("argv", "key", "value"),
    [
        (["--write.quality=75"], "quality", 75),
        (["--write.quality", "75"], "quality", 75),
        (["--write.quality=1", "--write.quality=2"], "quality", 2),
        (["--write.caps=160, 320"], "caps", ("160", "320")),
        (["--write.dry=0"], "dry", False),
        (["--write.dry=True"], "dry", True),
        (["--write.dry"], "dry", True),
        (["--write.rate=1e-4"], "rate", 1e-4),
        (["--write.limit=5"], "limit", 5),
        (["--write.limit=none"], "limit", None),
        (["--write.scale=512"], "scale", 512.0),
        (["--write.scale=dynamic"], "scale", "dynamic"),
    ],
)
def test_values_are_converted_to_their_types(argv: list[str], key: str, value: object) -> None:
    got = getattr(read(*argv), key)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--write.qualty=3", "unknown option --write.qualty; did you mean --write.quality?"),
        ("--write.qual=3", "unknown option --write.qual; did you mean --write.quality?"),  # no abbreviation
        ("--wirte.quality=3", "did you mean --write.quality?"),
        ("--WRITE.QUALITY=3", "did you mean --write.quality?"),
        ("--quality=3", "unknown option --quality; did you mean --write.quality?"),
        ("--quality 3", "unknown option --quality; did you mean --write.quality?"),
        ("--write.quality=101", "--write.quality: 101 is out of range (1 to 100)"),
        ("--write.quality=9.5", "--write.quality: '9.5' is not a whole number"),
        ("--write.quality", "--write.quality: needs a value"),
        ("--write.side=short", "--write.side: 'short' is not one of shorter, longer; did you mean shorter?"),
        ("--write.side=LONGER", "did you mean longer?"),
        ("--write.rate=nan", "--write.rate: 'nan' is not a finite number"),
        ("--write.rate=-1", "--write.rate: -1 is out of range (at least 0)"),
        ("--write.share=0", "--write.share: 0 is out of range (above 0, at most 1); give none, or leave it out"),
        ("--write.dry=maybe", "--write.dry: 'maybe' is not a boolean (true or false)"),
        ("--write.points=[1]", "--write.points: '[1]' is not a list"),
        ("--write.out=", "--write.out: empty, perhaps from an unset variable; give a path"),
        ("--write.log=", "--write.log: empty"),
        ("--write.scale=none", "--write.scale: 'none' is not a finite number; 'none' is not dynamic"),
        ("--write.caps=160 --write.caps=320", "--write.caps: given twice; give all values at once, comma-separated"),
        ("stray", "unexpected argument 'stray'; options are --section.key=value"),
        ("a.yaml", "unexpected argument 'a.yaml'; give --config-file a.yaml"),
        ("'my a.yaml'", "unexpected argument 'my a.yaml'; give --config-file 'my a.yaml'"),
        ("-C none.yaml", "--config-file: none.yaml: No such file or directory"),
        ("--config-file=", "--config-file: empty, perhaps from an unset variable"),
    ],
)
def test_wrong_option_is_refused_in_one_line_that_names_it(argument: str, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        read(*shlex.split(argument))
    (line,) = refusal(caught.value)
    assert message in line


def test_far_name_is_not_suggested_for_its_section() -> None:
    with pytest.raises(OptionError) as caught:
        read("--write.colour=3")  # as near as write.out to the letters of both
    assert str(caught.value) == "unknown option --write.colour"


def test_command_line_wins_over_later_file_over_earlier_file(tmp_path: Path) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text("write:\n  quality: 10\n  rate: 1e-3\n  out: 160\n  side: longer\n  limit: 3\n")
    two.write_text("write.quality: 20\nwrite.side: shorter\nwrite: {limit: null}\n")
    got = read("--config-file", str(one), f"--config-file={two}", "--write.quality=30")
    assert (got.quality, got.rate, got.out, got.side, got.limit) == (30, 1e-3, Path("160"), "shorter", None)


def test_environment_variables_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("write.quality", "11")
    monkeypatch.setenv("WRITE_QUALITY", "11")
    assert read().quality == 90


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("mode: off", "mode", "off"),
        ("log: off", "log", None),
        ("log: none", "log", None),
        ("rate: 1e-4", "rate", 1e-4),
        ("quality: 010", "quality", 10),
        ("out: 2024-01-31", "out", Path("2024-01-31")),
        ("out: ~/betons", "out", Path("/home/me/betons")),
        ("caps: ['064', 160]", "caps", ("064", "160")),
        ("caps: 160", "caps", ("160",)),
        ("points: [{from: 3, side: right}]", "points", (Point(x=3, side="right"),)),
    ],
)
def test_yaml_means_what_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, key: str, value: object
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert getattr(read_yaml(tmp_path, f"write:\n  {text}\n"), key) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("write:\n  quality: 1\n  quality: 2\n", 'not YAML: found duplicate key "quality" (line 3)'),
        ("write:\n  points: [{from: 1, from: 2}]\n", 'found duplicate key "from" (line 2)'),
        ("write: {out: a}\nwrite.out: b\n", "write.out is given twice"),
        ("write:\n  qualty: 1\n", "unknown key write.qualty; did you mean write.quality?"),
        ("writ:\n  quality: 1\n", "unknown key writ.quality; did you mean write.quality?"),
        ("writ: {}\n", "unknown key writ"),
        ("write: {points: [{form: 1, from: 1}]}\n", "write.points[0].form: unknown key; did you mean from?"),
        ("write: {points: [{}]}\n", "write.points[0].from: missing"),
        ("write: {points: [{from: 1}, {from: -1}]}\n", "write.points[1].from: -1 is out of range (at least 0)"),
        ("write: {points: [3]}\n", "write.points[0]: 3 is not a mapping of keys to values"),
        ("write: {points: {from: 3}}\n", "write.points: {'from': 3} is not a list"),
        ("write: 3\n", "write is not a mapping"),
        ("write: off\n", "write is not a mapping"),
        ("- 1\n", "the file is not a mapping"),
        ("write: {quality: [\n", "not YAML: expected the node content"),
        ("write: !!python/object/apply:os.getcwd []\n", "not YAML: could not determine a constructor"),
        ("\x00", "not YAML"),
        (f"write: {{quality: {'9' * 5000}}}", "not YAML"),
        ("[" * 2000, "not YAML"),
        ("write: {out: ~}\n", "write.out: null, which is an empty value or `~` in YAML; give a value"),
        ("write: {scale: }\n", "write.scale: null, which is"),
        ("write: {quality: true}\n", "write.quality: True is not a number"),
        ("write: {quality: 1.5}\n", "write.quality: 1.5 is not a whole number"),
        ("write: {rate: .inf}\n", "write.rate: inf is not a finite number"),
        ("write: {out: false}\n", "write.out: False is not text"),
        ("write: {out: ''}\n", "write.out: empty"),
        ('write: {out: "a\\0b"}\n', "write.out: 'a\\x00b' holds a NUL character"),
        ('write: {out: "a\\ud800b"}\n', "write.out: 'utf-8' codec can't encode character '\\ud800'"),
    ],
)
def test_wrong_file_is_refused_in_one_line_that_names_the_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(OptionError) as caught:
        read_yaml(tmp_path, text)
    (line,) = refusal(caught.value)
    assert line.startswith(f"{tmp_path / 'a.yaml'}: ")
    assert message in line


def test_all_mistakes_are_named_in_a_line_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("write: {quality: 0, points: [{side: up}], spead: 1}\n")
    with pytest.raises(OptionError) as caught:
        read(f"--config-file={file}", "--write.dry=maybe", "--write.rat=1")
    assert print_error("p.py", caught.value) == 2
    assert capsys.readouterr().err.splitlines() == [
        f"p.py: error: {file}: unknown key write.spead",
        "p.py: error: unknown option --write.rat; did you mean --write.rate?",
        f"p.py: error: {file}: write.quality: 0 is out of range (1 to 100)",
        "p.py: error: --write.dry: 'maybe' is not a boolean (true or false)",
        f"p.py: error: {file}: write.points[0].from: missing",
        f"p.py: error: {file}: write.points[0].side: 'up' is not one of left, right",
    ]


def test_section_made_in_code_is_checked_too() -> None:
    for wrong in ({"quality": 0}, {"qualty": 1}, {"rate": float("nan")}, {"dry": 2}):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            Write(**wrong)
    with pytest.raises(ValidationError, match="frozen"):
        Write().quality = 3  # type: ignore[misc]


def test_file_of_options_may_be_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.yaml").write_text("write: {quality: 7}\n")
    assert read("--config-file=~/a.yaml").quality == 7


def test_tilde_is_the_home_folder_wherever_a_path_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    got = read("--write.sources=~/a, ~/b,c~,~nobody-here/d", "--write.out=~")
    assert got.sources == (tmp_path / "a", tmp_path / "b", Path("c~"), Path("~nobody-here/d"))
    assert got.out == tmp_path


def test_path_that_exists_is_not_split_at_its_commas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a,b.tar", "x, y, z.tar", "c.tar"):
        (tmp_path / name).touch()
    text = f"{tmp_path}/a,b.tar,~/x, y, z.tar,{tmp_path}/c.tar,none,other,{'n' * 300}"
    wanted = [tmp_path / "a,b.tar", tmp_path / "x, y, z.tar", tmp_path / "c.tar", Path("none"), Path("other")]
    assert read(f"--write.sources={text}").sources == (*wanted, Path("n" * 300))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le"])
def test_file_says_its_encoding_or_is_utf_8(tmp_path: Path, encoding: str) -> None:
    mark = "\ufeff" if encoding == "utf-16-le" else ""
    (tmp_path / "a.yaml").write_text(f"{mark}write: {{out: café}}\n", encoding=encoding)
    assert read(f"--config_file={tmp_path / 'a.yaml'}").out == Path("café")


def test_path_that_is_not_utf_8_is_one(tmp_path: Path) -> None:
    assert read("--write.out=caf\udce9").out == Path("caf\udce9")


@pytest.mark.parametrize(
    "argv", [["--full", "a", "b"], ["a", "--full", "b"], ["--full", "true", "a", "b"], ["a", "b", "--full"]]
)
def test_words_without_names_and_switches_mix(argv: list[str]) -> None:
    assert parse(Tool, argv, prog="a.tool") == Tool(files=(Path("a"), Path("b")), full=True)


def test_dashes_stand_for_underscores() -> None:
    assert parse(Tool, ["a", "--dry-run"], prog="a.tool").dry_run


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--full"], "FILE is required: what to look at"),
        ([""], "FILE: empty, perhaps from an unset variable; give a path"),
        (["a", " "], "FILE: empty"),
    ],
)
def test_word_that_is_missing_or_empty_is_named(argv: list[str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        parse(Tool, argv, prog="a.tool")


@pytest.mark.parametrize("schema", [Spec, Tool])
def test_help_lists_every_option_with_its_default(schema: type[Section], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        parse(schema, ["--unknown", "--help"], prog="p.py", description="Does it.")
    text = capsys.readouterr().out
    assert all(f"  --{key} " in text for key in options_of(schema) if key != "files")
    if schema is Spec:
        assert text.startswith("usage: python p.py [--config-file FILE.yaml] [--section.key=value ...]\n\nDoes it.\n")
        assert "JPEG quality; 1 to 100 [90]" in text
        assert "side that is capped; shorter or longer [shorter]" in text
    else:
        assert text.startswith("usage: python p.py FILE... [--full] [--dry_run]\n")
        assert "what to look at (required)" in text


def test_table_has_every_option_with_its_default() -> None:
    rows: dict[str, Any] = {row[0]: row[1:] for row in option_rows(Spec, "write")}
    assert rows["`--write.quality`"] == ["`90`", "JPEG quality; 1 to 100"]
    assert rows["`--write.side`"] == ["`shorter`", "side that is capped; `shorter` or `longer`"]
    assert rows["`--write.limit`"] == ["as many as there are", "a limit"]
    assert rows["`--write.log`"] == ["none", "a file"]
    assert rows["`--write.dry`"] == ["`false`", "no files"]
