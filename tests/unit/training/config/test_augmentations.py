"""Names and arguments of `data.augment`."""

import pytest

from data_tools.common.options import OptionError
from training.config.augmentations import Augmentation, read_augmentations


def test_names_and_arguments() -> None:
    read = read_augmentations(
        [{"ffcv.transforms.Cutout": {"crop_size": 8, "fill": [1, 2, 3]}}, "torchvision.transforms.v2.RandomGrayscale"]
    )
    assert read == (
        Augmentation("ffcv.transforms.Cutout", {"crop_size": 8, "fill": [1, 2, 3]}),
        Augmentation("torchvision.transforms.v2.RandomGrayscale", {}),
    )
    assert [each.on_host for each in read] == [True, False]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["os.system"], "'os.system' is not allowed"),
        (["Cutout"], "'Cutout' is not allowed"),
        (["ffcv.transforms.ops.ToTensor"], "is not allowed"),
        (["ffcv.transforms.__builtins__"], "is not allowed"),
        ([{"ffcv.transforms.Cutout": {"crop_size": 8}, "ffcv.transforms.Poison": {}}], "not one name"),
        ([{"ffcv.transforms.Cutout": 8}], "not a mapping of arguments"),
        ([{"ffcv.transforms.Poison": {"mask": {"a": 1}}}], "not a plain value"),
        ([3], "not one name"),
        (["torchvision.transforms.v2.RandomGrayscale", "ffcv.transforms.Cutout"], "come before"),
    ],
)
def test_wrong_entries_are_refused(entries: list[object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        read_augmentations(entries)
