"""Validate exported weights in torchvision's own network, on the images that the recipe's last phase validates on.

    python -m scripts.torchvision_scores last.pth --config-file RECIPE.yaml --data.dir=data/beton

Prints images, top-1 and top-5 as JSON. Of this project it uses only the loader.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from data_tools.common.errors import program
from data_tools.common.options import parse
from training.evaluate import EvaluateOptions

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@program("torchvision_scores")
def main(argv: Sequence[str]) -> int:
    options = parse(EvaluateOptions, argv, prog="scripts.torchvision_scores", description=__doc__ or "")
    import torch
    import torchvision
    from torchvision.transforms.v2.functional import normalize

    from training.engine.phase_loaders import val_loader

    device = torch.device("cuda" if options.dist.device != "cpu" and torch.cuda.is_available() else "cpu")
    datasets = options.datasets()
    network = getattr(torchvision.models, options.model.arch)(num_classes=len(datasets.classes))
    network.load_state_dict(torch.load(options.weights, weights_only=True))
    network.to(device).eval()
    images_seen = top1 = top5 = 0
    with torch.inference_mode(), val_loader(options, datasets, options.phase, device=device) as loader:
        for images, labels in loader:
            logits = network(normalize(images.float() / 255, list(MEAN), list(STD)))
            best = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
            images_seen += len(labels)
            top1 += int(best[:, 0].sum())
            top5 += int(best.any(dim=1).sum())
    print(json.dumps({"images": images_seen, "top1": 100 * top1 / images_seen, "top5": 100 * top5 / images_seen}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
