"""Names and arguments of `data.augment`."""

import pytest
from helpers.recipes import mistakes

from training.config.run_config import Data

CUTOUT = {"ffcv.transforms.Cutout": {"crop_size": 8, "fill": [1, 2, 3]}}
GREY = "torchvision.transforms.v2.RandomGrayscale"


def test_names_and_arguments() -> None:
    read = Data(augment=[CUTOUT, GREY]).augment
    assert [(each.name, each.arguments, each.on_host) for each in read] == [
        ("ffcv.transforms.Cutout", {"crop_size": 8, "fill": [1, 2, 3]}, True),
        (GREY, {}, False),
    ]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["os.system"], "augment[0].name: 'os.system' is not allowed"),
        (["Cutout"], "'Cutout' is not allowed"),
        (["ffcv.transforms.ops.ToTensor"], "is not allowed"),
        (["ffcv.transforms.__builtins__"], "is not allowed"),
        ([GREY, {**CUTOUT, "ffcv.transforms.Poison": {}}], "augment[1]: {'ffcv.transforms.Cutout"),
        ([{"ffcv.transforms.Cutout": 8}], "augment[0].arguments: 8 is not a mapping"),
        ([{"ffcv.transforms.Poison": {"mask": {"a": 1}}}], "augment[0].arguments.mask: {'a': 1} is not a plain value"),
        ([3], "augment[0]: 3 is not one name with its arguments; give one, such as ffcv.transforms.Cutout: {crop_size"),
        ([GREY, CUTOUT], "augment: those of ffcv.transforms work on the host and must come before"),
    ],
)
def test_wrong_entries_are_refused(entries: list[object], message: str) -> None:
    (mistake,) = mistakes(Data, {"augment": entries})
    assert message in str(mistake)
