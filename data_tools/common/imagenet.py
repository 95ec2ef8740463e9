"""Numbers of ImageNet-1k and of the target that its trainings are measured by."""

IMAGENET_CLASSES = 1000
IMAGENET_IMAGES = {"train": 1_281_167, "val": 50_000}
TARGET_TOP5 = 93.0
