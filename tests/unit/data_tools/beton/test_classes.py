"""Which data set a list of classes is."""

from data_tools.beton.classes import in_imagenets_order, may_be_imagenets, shortfalls


def test_imagenets_classes_and_shortfalls() -> None:
    wnids = tuple(f"n{at:08d}" for at in range(1000))
    assert may_be_imagenets(wnids)
    assert not may_be_imagenets(wnids[:999])
    assert not may_be_imagenets((*wnids[:999], "dog"))
    assert shortfalls(wnids, {"train": 1_281_167, "val": 50_000}) == []
    assert len(shortfalls(wnids, {"train": 1_281_166})) == 2


def test_imagenets_order_is_wnids_sorted_or_their_numbers() -> None:
    wnids = tuple(f"n{at:08d}" for at in range(1000))
    assert in_imagenets_order(wnids)
    assert in_imagenets_order([str(at) for at in range(1000)])
    assert in_imagenets_order([f"{at:04d}" for at in range(1000)])
    assert not in_imagenets_order(wnids[::-1])
    assert not in_imagenets_order(sorted(str(at) for at in range(1000)))  # 0, 1, 10, 100, ...
    assert not in_imagenets_order(wnids[:999])
    assert not in_imagenets_order((*wnids[:999], "zebra"))
    assert not in_imagenets_order(())
