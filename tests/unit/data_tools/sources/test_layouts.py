"""Which split, class and name follow from a picture's path, and which paths are refused or left out. Without files."""

import unicodedata

import pytest

from data_tools.sources.layouts import HIDDEN, OUT_OF_PLACE, SourceLayout, classify


def layout_of(*paths: str, roots: tuple[str, ...] = ("",), annotated: tuple[str, ...] = ()) -> SourceLayout:
    pictures: dict[tuple[str, ...], list[bytes]] = {}
    for path in paths:
        *folders, name = path.split("/")
        pictures.setdefault(tuple(folders), []).append(name.encode())
    tuples = [tuple(filter(None, root.split("/"))) for root in roots]
    return classify(pictures, tuples, [tuple(folder.split("/")) for folder in annotated])


def taken(*paths: str, **more: tuple[str, ...]) -> dict[str, tuple[str, int | None, str | None, str]]:
    """(split, cap, class, name) of each path; nothing is refused."""
    layout = layout_of(*paths, **more)
    assert not layout.faults and not layout.unlabelled
    found = {}
    for path in paths:
        *folders, name = path.split("/")
        if place := layout.places.get(tuple(folders)):
            found[path] = (place.split, place.cap, place.label, "/".join((*place.below, name)))
    return found


def left_out(*paths: str) -> list[str]:
    return ["/".join(path) for path, why in layout_of(*paths).left_out.items() if why == OUT_OF_PLACE]


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("train/cat/1.jpg", ("train", None, "cat", "1.jpg")),
        ("imagenet/Data/train/cat/1.jpg", ("train", None, "cat", "1.jpg")),
        ("training/cat/1.jpg", ("train", None, "cat", "1.jpg")),
        ("VALIDATION/cat/1.jpg", ("val", None, "cat", "1.jpg")),
        ("test/cat/1.jpg", ("test", None, "cat", "1.jpg")),
        (".data/train/cat/1.jpg", ("train", None, "cat", "1.jpg")),
        ("imagenet-sz/160/train/cat/1.jpg", ("train", 160, "cat", "1.jpg")),
        ("sz/352/validation/cat/1.jpg", ("val", 352, "cat", "1.jpg")),
        ("x-sz/160/old/train/cat/1.jpg", ("train", None, "cat", "1.jpg")),
    ],
)
def test_folder_below_the_split_is_the_class(path: str, place: tuple[object, ...]) -> None:
    assert taken(path) == {path: place}


def test_pictures_belong_to_the_outermost_folder_at_any_depth() -> None:
    """As in torchvision's ImageFolder."""
    paths = ("train/cat/1.jpg", "train/dogs/poodle/1.jpg", "train/dogs/beagle/young/1.jpg", "train/dogs/2.jpg")
    assert [place[2:] for place in taken(*paths).values()] == [
        ("cat", "1.jpg"),
        ("dogs", "poodle/1.jpg"),
        ("dogs", "beagle/young/1.jpg"),
        ("dogs", "2.jpg"),
    ]


def test_names_of_tiny_imagenet_have_no_folder() -> None:
    whole = taken("train/n1/images/1.JPEG", "train/n2/images/2.JPEG")
    assert [place[3] for place in whole.values()] == ["1.JPEG", "2.JPEG"]
    mixed = taken("train/n1/images/1.JPEG", "train/n1/1.JPEG")
    assert [place[3] for place in mixed.values()] == ["images/1.JPEG", "1.JPEG"]


@pytest.mark.parametrize(
    ("path", "annotated"), [("val/images/1.JPEG", ("val",)), ("val/ILSVRC2012_val_00000001.JPEG", ())]
)
def test_labels_may_go_by_name(path: str, annotated: tuple[str, ...]) -> None:
    assert taken(path, annotated=annotated)[path] == ("val", None, None, path.rpartition("/")[2])
    assert taken("ILSVRC2012_val_00000001.JPEG")["ILSVRC2012_val_00000001.JPEG"][:3] == ("val", None, None)


def test_classes_may_be_called_like_splits() -> None:
    paths = ("train/train/1.jpg", "train/car/1.jpg", "val/train/1.jpg", "val/car/1.jpg")
    assert [place[2] for place in taken(*paths).values()] == ["train", "car", "train", "car"]


@pytest.mark.parametrize("front", ["train", "train/test", "test/x-sz/160"])
def test_data_set_may_be_called_like_a_split(front: str) -> None:
    paths = [f"{front}/{split}/{name}/1.jpg" for split in ("train", "val") for name in ("cat", "dog")]
    found = [(split, name) for split, _, name, _ in taken(*paths).values()]
    assert found == [("train", "cat"), ("train", "dog"), ("val", "cat"), ("val", "dog")]


def test_folder_of_one_split_may_be_given_itself() -> None:
    for root in ("store/train", "store/Training"):
        assert taken("cat/1.jpg", "dog/a/2.jpg", roots=(root,)) == {
            "cat/1.jpg": ("train", None, "cat", "1.jpg"),
            "dog/a/2.jpg": ("train", None, "dog", "a/2.jpg"),
        }
    assert taken("cat/1.jpg", "test/1.jpg", roots=("train",))["test/1.jpg"][:3] == ("train", None, "test")
    assert taken("cat/1.jpg", roots=("x-sz/160/val",))["cat/1.jpg"] == ("val", 160, "cat", "1.jpg")
    assert taken("cat/1.jpg", roots=("link", "store/val"))["cat/1.jpg"][0] == "val"
    assert taken("train/cat/1.jpg", roots=("x-sz/160",))["train/cat/1.jpg"][1] == 160
    assert (
        taken("train/cat/1.jpg", roots=("store/val",))["train/cat/1.jpg"][0] == "train"
    )  # the root's name is no split
    numbered = "val/ILSVRC2012_val_00000001.JPEG"
    assert taken(numbered, "cover.jpg", roots=("val",))[numbered][:3] == ("val", None, None)


@pytest.mark.parametrize(
    ("paths", "both"),
    [
        (("color/train/a/1.jpg", "segmented/train/a/1.jpg"), "color/train and segmented/train"),
        (("bottle/train/good/1.png", "cable/train/good/1.png"), "bottle/train and cable/train"),
        (("train/a/1.jpg", "Train/b/1.jpg"), "train and Train"),
        (("train/a/1.jpg", "training/a/2.jpg"), "train and training"),
        (("a-sz/160/train/a/1.jpg", "b-sz/160/train/a/1.jpg"), "a-sz/160/train and b-sz/160/train"),
    ],
)
def test_two_folders_of_one_split_are_refused(paths: tuple[str, ...], both: str) -> None:
    assert layout_of(*paths).faults["train"].what.startswith(f"{both} both exist")


def test_folders_of_different_splits_and_sizes_may_stand_apart() -> None:
    assert len(taken("a/train/c/1.jpg", "b/val/c/1.jpg", "x-sz/160/train/c/1.jpg", "x-sz/320/train/c/1.jpg")) == 4


@pytest.mark.parametrize("split", ["train", "valid"])
@pytest.mark.parametrize("folders", [("images",), ("images", "labels"), ("JPEGImages", "masks"), ("image", "gt")])
def test_data_for_detection_and_segmentation_are_refused(split: str, folders: tuple[str, ...]) -> None:
    fault = layout_of(*(f"{split}/{folder}/1.jpg" for folder in folders)).faults[{"valid": "val"}.get(split, split)]
    assert "YOLO" in fault.what and fault.where == split
    unlabelled = layout_of("images/train/1.jpg", "train/a/1.jpg", "images/val/1.jpg").unlabelled
    assert not unlabelled  # they are left out: the outermost folders of splits have classes
    assert "YOLO" in layout_of("images/train/1.jpg").unlabelled["train"].what


def test_classes_in_a_folder_of_their_own_are_refused() -> None:
    fault = layout_of("train/images/cat/1.jpg", "train/images/dog/1.jpg").faults["train"]
    assert "images, with folders in it (cat, dog, ...)" in fault.what and fault.remedy.endswith("into train/")
    assert not layout_of("train/cat/siam/1.jpg", "train/cat/2.jpg", "train/cat/mau/1.jpg").faults
    assert not layout_of("train/n1/images/1.jpg").faults


def test_pictures_in_no_class_are_refused_unless_the_split_has_classes() -> None:
    fault = layout_of("train/a/1.jpg", "val/1.jpg").unlabelled["val"]
    assert fault.where == "val/1.jpg" and "into val/<class>/" in fault.remedy
    assert not layout_of("val/a/1.jpg", "val/1.jpg").unlabelled
    assert sorted(left_out("val/a/1.jpg", "val/1.jpg", "validation/2.jpg")) == ["val", "validation"]


@pytest.mark.parametrize(
    "path", ["1.jpg", "misc/1.jpg", "old/train/a/1.jpg", "more/val/a/1.jpg", "train/1.jpg", "Data/DET/train/a/1.jpg"]
)
def test_pictures_elsewhere_are_left_out(path: str) -> None:
    assert left_out("train/a/1.jpg", path) == [path.rpartition("/")[0]]


@pytest.mark.parametrize(
    "folder", ["train/@eaDir/1.jpg", "train/a/.ipynb_checkpoints", "train/a/@eaDir/1.jpg", "__MACOSX/train/a", ".git"]
)
def test_hidden_folders_are_known(folder: str) -> None:
    layout = layout_of("train/a/1.jpg", f"{folder}/1.jpg")
    assert layout.left_out == {tuple(folder.split("/")): HIDDEN}
    assert list(layout.places) == [("train", "a")]


def test_class_names_are_taken_as_they_are() -> None:
    names = ("Cat", "cat", "CAT ", unicodedata.normalize("NFD", "é"), "é")
    assert [place[2] for place in taken(*(f"train/{name}/1.jpg" for name in names)).values()] == list(names)
