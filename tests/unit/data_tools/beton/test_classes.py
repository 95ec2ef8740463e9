"""Which data set a list of classes is."""

from data_tools.beton.classes import expected_dataset, number_classes, shortfalls


def test_expected_dataset_and_shortfalls() -> None:
    wnids = number_classes(f"n{at:08d}" for at in range(1000))
    assert expected_dataset(wnids) == "imagenet1k"
    assert expected_dataset(wnids[:999]) == "any"
    assert expected_dataset((*wnids[:999], "dog")) == "any"
    assert shortfalls(wnids, {"train": 1_281_167, "val": 50_000}) == []
    assert len(shortfalls(wnids, {"train": 1_281_166})) == 2
