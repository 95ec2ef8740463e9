"""Options from the command line and YAML files: values, precedence, and what is refused."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

from data_tools.common.errors import HelpRequested
from data_tools.common.options import REQUIRED, OptionError, check, entries, option, option_rows, parse


@dataclass(frozen=True, kw_only=True, slots=True)
class Write:
    """How it is written."""

    quality: int = option(90, "JPEG quality", low=1, high=100)
    side: Literal["shorter", "longer"] = option("shorter", "side that is capped")
    caps: tuple[str, ...] = option(("160", "full"), "caps")
    rate: float = option(0.1, "a rate", low=0)
    dry: bool = option(False, "no files", was=("write.dry_run",))
    limit: int | None = option(None, "a limit", none="as many as there are")
    phases: list[Any] = option([], "a structure")
    out: Path = option(Path("data"), "folder")
    log: Path | None = option(None, "a file")
    mode: Literal["auto", "off"] = option("auto", "a mode")
    scale: float | Literal["dynamic"] = option(1.0, "a scale")

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class Spec:
    ELSEWHERE: ClassVar = dict.fromkeys(["q", "jpeg.q"], "give --write.quality")

    write: Write


@dataclass(frozen=True, kw_only=True, slots=True)
class Need:
    """Needs."""

    name: str = option(REQUIRED, "a name")


@dataclass(frozen=True, kw_only=True, slots=True)
class NeedSpec:
    need: Need


def read(*argv: str) -> Write:
    return parse(Spec, argv, prog="p.py").write


@pytest.mark.parametrize(
    ("argv", "key", "value"),
    [
        (["--write.quality=75"], "quality", 75),
        (["--write.quality", "75"], "quality", 75),
        (["--write.caps=160, 320"], "caps", ("160", "320")),
        (["--write.dry=0"], "dry", False),
        (["--write.dry=True"], "dry", True),
        (["--write.dry"], "dry", True),
        (["--write.rate=1e-4"], "rate", 1e-4),
        (["--write.limit=5"], "limit", 5),
        (["--write.limit=none"], "limit", None),
        (["--write.quality=1", "--write.quality=2"], "quality", 2),
    ],
)
def test_values_are_converted_to_their_types(argv: list[str], key: str, value: object) -> None:
    got = getattr(read(*argv), key)
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--write.qualty=3", ["--write.qualty", "--write.quality"]),
        ("--write.qual=3", ["--write.qual"]),
        ("--wrte.quality=3", ["--write.quality"]),
        ("--write.quality=101", ["write.quality", "1 to 100"]),
        ("--write.quality=9.5", ["write.quality", "whole number"]),
        ("--write.side=short", ["write.side", "did you mean shorter"]),
        ("--write.rate=nan", ["write.rate", "finite"]),
        ("--write.rate=inf", ["write.rate", "finite"]),
        ("--write.rate=-1", ["write.rate", "at least 0"]),
        ("--write.dry=maybe", ["write.dry", "boolean"]),
        ("--write.phases=[1]", ["write.phases", "list"]),
        ("--write.out=", ["--write.out: empty", "give a path"]),
        ("--write.log=", ["--write.log: empty"]),
        ("--write.scale=none", ["--write.scale: 'none' is not a finite number", "not one of dynamic"]),
        ("--quality=3", ["unknown option --quality; did you mean --write.quality?"]),
        ("--write.caps=160 --write.caps=320", ["--write.caps", "given twice", "comma-separated"]),
        ("stray", ["stray"]),
        ("--write.dry_run=1", ["option --write.dry_run is now --write.dry (true or false)"]),
    ],
)
def test_wrong_option_is_refused_in_one_line_that_names_it(argument: str, words: list[str]) -> None:
    with pytest.raises(OptionError) as caught:
        read(*argument.split())
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_command_line_wins_over_later_file_over_earlier_file(tmp_path: Path) -> None:
    one, two = tmp_path / "one.yaml", tmp_path / "two.yaml"
    one.write_text("write:\n  quality: 10\n  rate: 1e-3\n  out: 160\n  side: longer\n")
    two.write_text("write.quality: 20\nwrite.side: shorter\n")
    got = read("--config-file", str(one), f"--config-file={two}", "--write.quality=30")
    assert (got.quality, got.rate, got.out, got.side) == (30, 1e-3, Path("160"), "shorter")


def test_environment_variables_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("write.quality", "11")
    monkeypatch.setenv("WRITE_QUALITY", "11")
    assert read().quality == 90


def test_yaml_structures_are_passed_through(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("write:\n  phases: [{a.b: {c: null}, d: [1, 2.5]}, {}]\n  limit: null\n")
    assert read("-C", str(file)).phases == [{"a.b": {"c": None}, "d": [1, 2.5]}, {}]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("write:\n  quality: 1\n  quality: 2\n", ["quality", "twice"]),
        ("write:\n  phases: [{a: 1, a: 2}]\n", ["'a'", "twice"]),
        ("write:\n  qualty: 1\n", ["a.yaml", "write.qualty", "did you mean write.quality"]),
        ("writ:\n  quality: 1\n", ["a.yaml", "writ.quality"]),
        ("write: 3\n", ["a.yaml", "mapping"]),
        ("write: off\n", ["a.yaml", "write is not a mapping"]),
        ("write: []\n", ["a.yaml", "write is not a mapping"]),
        ("false\n", ["a.yaml", "the file is not a mapping"]),
        ("write: {out: ~}\n", ["a.yaml: write.out: null, which is an empty value or `~` in YAML; give a value"]),
        ("write: {scale: }\n", ["a.yaml: write.scale: null, which is"]),
        ('write: {out: "a\\0b"}\n', ["a.yaml: write.out: 'a\\x00b' holds a NUL character"]),
        ("- 1\n", ["a.yaml", "mapping"]),
        ("write: {quality: [\n", ["a.yaml", "not YAML"]),
        ("write:\n  out: off\n", ["a.yaml", "write.out", "text"]),
        ("write:\n  quality: 1.5\n", ["write.quality", "whole number"]),
        ("write:\n  rate: .nan\n", ["write.rate", "finite"]),
        ("write: {out: a}\nwrite.out: b\n", ["a.yaml", "write.out is given twice"]),
        ("write:\n  caps: [064]\n", ["a.yaml", "064 (line 2) is octal in YAML, and would be read as 52"]),
        ("write:\n  phases: [{a: 1:30}]\n", ["1:30 (line 2) is to base 60 in YAML, and would be read as 90"]),
        ("write: {out: ''}\n", ["write.out", "empty"]),
        ("write: !!python/object/apply:os.getcwd []\n", ["not YAML"]),
    ],
)
def test_wrong_file_is_refused_in_one_line_that_names_the_key(tmp_path: Path, text: str, words: list[str]) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(text)
    with pytest.raises(OptionError) as caught:
        read("-C", str(file))
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_missing_file_and_missing_required_value(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"none\.yaml"):
        read("-C", str(tmp_path / "none.yaml"))
    with pytest.raises(OptionError, match="--config-file: empty, perhaps from an unset variable"):
        read("-C", "")
    with pytest.raises(OptionError, match=r"need\.name is required"):
        parse(NeedSpec, [], prog="p.py")


def test_help_lists_every_option_with_its_default() -> None:
    with pytest.raises(HelpRequested) as asked:
        parse(Spec, ["--help"], prog="p.py", description="Does it.")
    text = str(asked.value)
    assert text.startswith("usage: python p.py [--config-file FILE.yaml] [--section.key=value ...]\n\nDoes it.\n")
    assert all(f"  --{entry.key} " in text for entry in entries(Spec))
    assert "JPEG quality; 1 to 100 [90]" in text
    assert "side that is capped; shorter or longer [shorter]" in text
    assert "a limit [as many as there are]" in text


def test_table_has_every_option_with_its_default() -> None:
    rows = {row[0]: row[1:] for row in option_rows(Spec, "write")}
    assert rows["`--write.quality`"] == ["`90`", "JPEG quality; 1 to 100"]
    assert rows["`--write.side`"] == ["`shorter`", "side that is capped; `shorter` or `longer`"]
    assert rows["`--write.limit`"] == ["none", "a limit; none: as many as there are"]
    assert rows["`--write.dry`"] == ["`false`", "no files"]


def test_file_of_options_may_be_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.yaml").write_text("write: {quality: 7}\n")
    assert read("--config-file=~/a.yaml").quality == 7


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("mode: off", "mode", "off"),
        ("out: 2024-01-31", "out", Path("2024-01-31")),
        ("out: ~/betons", "out", Path("/home/me/betons")),
        ("log: none", "log", None),
        ("quality: 0x40", "quality", 64),
        ("caps: ['064', 160]", "caps", ("064", "160")),
    ],
)
def test_yaml_means_what_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, key: str, value: object
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    file = tmp_path / "a.yaml"
    file.write_text(f"write:\n  {text}\n")
    assert getattr(read("-C", str(file)), key) == value


def test_names_of_other_programs_are_answered(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text("jpeg: {q: 3}\n")
    for argv in (["--q=3"], ["--q", "3"], ["-C", str(file)]):
        with pytest.raises(OptionError, match=r"unknown (option --q|key jpeg\.q); here, give --write\.quality"):
            parse(Spec, argv, prog="p.py")


@dataclass(frozen=True, kw_only=True, slots=True)
class Tool:
    """A tool."""

    files: tuple[Path, ...] = option(REQUIRED, "what to look at", argument="FILE")
    full: bool = option(False, "everything")
    dry_run: bool = option(False, "nothing")

    def __post_init__(self) -> None:
        check(self)


@pytest.mark.parametrize(
    "argv", [["--full", "a", "b"], ["a", "--full", "b"], ["--full", "true", "a", "b"], ["a", "b", "--full"]]
)
def test_words_without_names_and_switches_mix(argv: list[str]) -> None:
    assert parse(Tool, argv, prog="a.tool") == Tool(files=(Path("a"), Path("b")), full=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Paths:
    """Paths."""

    sources: tuple[Path, ...] | None = option(None, "what to read")
    out: Path = option(Path("out"), "what to write")

    def __post_init__(self) -> None:
        check(self)


def test_tilde_is_the_home_folder_wherever_a_path_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    read = parse(Paths, ["--sources=~/a, ~/b,c~,~nobody-here/d", "--out=~"], prog="p.py")
    assert read.sources == (tmp_path / "a", tmp_path / "b", Path("c~"), Path("~nobody-here/d"))
    assert read.out == tmp_path


def test_path_that_exists_is_not_split_at_its_commas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a,b.tar", "x, y, z.tar", "c.tar"):
        (tmp_path / name).touch()
    text = f"{tmp_path}/a,b.tar,~/x, y, z.tar,{tmp_path}/c.tar,none,other"
    wanted = [tmp_path / "a,b.tar", tmp_path / "x, y, z.tar", tmp_path / "c.tar", Path("none"), Path("other")]
    assert parse(Paths, [f"--sources={text}"], prog="p.py").sources == tuple(wanted)


def test_dashes_stand_for_underscores() -> None:
    assert parse(Tool, ["a", "--dry-run"], prog="a.tool").dry_run


@pytest.mark.parametrize("argv", [[""], ["a", " "]])
def test_empty_word_is_no_path(argv: list[str]) -> None:
    with pytest.raises(OptionError, match="FILE: empty, perhaps from an unset variable; give a path"):
        parse(Tool, argv, prog="p.py")


def test_suggestion_is_near_by_its_own_name() -> None:
    for given, answer in (("--write.qualty=3", "--write.quality"), ("--wirte.quality=3", "--write.quality")):
        with pytest.raises(OptionError, match=f"did you mean {answer}"):
            read(given)
    with pytest.raises(OptionError) as caught:
        read("--write.colour=3")  # as near as write.out to the letters of both
    assert str(caught.value) == "unknown option --write.colour"


def test_case_does_not_keep_a_name_from_being_near() -> None:
    with pytest.raises(OptionError, match=r"did you mean --write\.quality\?"):
        read("--WRITE.QUALITY=3")
    with pytest.raises(OptionError, match="did you mean longer"):
        read("--write.side=LONGER")


def test_missing_word_is_named() -> None:
    with pytest.raises(OptionError, match="FILE is required: what to look at"):
        parse(Tool, ["--full"], prog="a.tool")


def test_section_made_in_code_is_checked_too() -> None:
    with pytest.raises(OptionError, match="quality"):
        Write(quality=0)
    with pytest.raises(OptionError, match="quality"):
        Write(quality="5")  # type: ignore[arg-type]
