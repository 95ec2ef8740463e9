"""Names of any bytes, in any locale: converted, checked and described like others, and shown on one line."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from helpers.betons import file_digests
from helpers.images import jpeg, photo

CLASSES = [b"caf\xe8", b"caf\xe9", "größe".encode(), b"two\nlines\x1b[1m"]
FILES = [b"a.JPEG", b"\xff\xfe.JPEG", "ß.JPEG".encode(), b"b\nc\x1b[2J.JPEG"]
LOCALES = {"UTF-8": {"LC_ALL": "C.UTF-8"}, "C": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}}
SCRIPT = """
import sys
from pathlib import Path
import write_datasets
from data_tools import describe, verify

out, *sources = sys.argv[1:]
common = ["--data.caps=160", "--write.mode=proportion", "--write.on_bad=skip", "--write.workers=2"]
for source in sources:
    folder = f"{out}/{Path(source).suffix}"
    for main, arguments in (
        (write_datasets.main, [f"--data.source={source}", f"--data.out={folder}", *common]),
        (write_datasets.main, [f"--data.source={source}", f"--data.out={folder}", *common]),
        (verify.main, [f"{folder}/train_160.beton", f"{folder}/val_160.beton", "--full"]),
        (describe.main, [f"{folder}/train_160.beton", f"--sheet={out}/sheet.png"]),
    ):
        if main(arguments):
            sys.exit(f"{main} {arguments}")
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A folder and a tar of the same images, one of them bad, in a folder whose name is no UTF-8."""
    above = Path(os.fsdecode(os.fsencode(tmp_path_factory.mktemp("names")) + b"/\xe4"))
    folder, tar = above / "set.folder", above / "set.tar"
    for split, name, file in ((s, c, f) for s in (b"train", b"val") for c in CLASSES for f in FILES):
        path = Path(os.fsdecode(os.fsencode(folder) + b"/" + b"/".join((split, name, file))))
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = CLASSES.index(name) * 10 + FILES.index(file)
        path.write_bytes(b"bad" if seed == 13 and split == b"train" else jpeg(photo(seed, 60, 50)))
    (folder / "x\x1b[1m\udce9").write_bytes(b"no image")
    with tarfile.open(tar, "w", format=tarfile.GNU_FORMAT) as file:
        file.add(folder, "set")
    return [folder, tar]


@pytest.fixture(scope="module")
def converted(sources: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    """By locale, the folder of the betons and what the programs printed."""
    found = {}
    for locale, variables in LOCALES.items():
        out = tmp_path_factory.mktemp("out")
        environment = {key: value for key, value in os.environ.items() if not key.startswith("LC_")} | variables
        command = [sys.executable, "-c", SCRIPT, out, *sources]
        done = subprocess.run(command, capture_output=True, timeout=300, env=environment)
        assert done.returncode == 0, done.stderr
        found[locale] = out, (done.stdout + done.stderr).decode("ascii" if locale == "C" else "utf-8")
    return found


def test_names_of_any_bytes_reach_the_manifest(converted: dict[str, tuple[Path, str]]) -> None:
    for path in (out / kind / "train_160.beton.json" for out, _ in converted.values() for kind in (".folder", ".tar")):
        text = path.read_bytes().decode("utf-8")
        manifest = json.loads(text)
        assert [name.encode("utf-8", "surrogateescape") for name in manifest["classes"]] == sorted(CLASSES)
        assert '"caf\\udce9"' in text and '"größe"' in text
        assert [each["image"] for each in manifest["skipped"]] == ["caf\udce9/b\nc\x1b[2J.JPEG"]
        assert manifest["images"] == 15


def test_betons_do_not_depend_on_the_locale_or_the_kind_of_source(converted: dict[str, tuple[Path, str]]) -> None:
    utf8, c = (converted[locale][0] for locale in LOCALES)
    for kind in (".folder", ".tar"):
        assert file_digests(utf8 / kind) == file_digests(c / kind)
    assert file_digests(utf8 / ".folder", "*.beton") == file_digests(utf8 / ".tar", "*.beton") != {}


def test_names_are_shown_on_one_line(converted: dict[str, tuple[Path, str]]) -> None:
    for _, printed in converted.values():
        assert all(character.isprintable() or character in "\n\r" for character in printed)
        assert "x\\x1b[1m" in printed and ": sound" in printed and "caf\\udce" in printed
