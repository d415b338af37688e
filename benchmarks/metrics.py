"""Time and memory of the metrics: `python benchmarks/metrics.py PART [...]`, one part a process.

    inception [BATCH]        images/s of the FID Inception (32 x 32 images, tf1 resizing)
    torch CHECKOUT [BATCH]   the same of pytorch-fid (run by a Python that has torch and torchvision)
    stream [N]               mean and covariance of N = 50,000 features of 2,048, which pass by
    fid                      Frechet distance at 2,048 features
    kid [N]                  100 subsets of 1,000 of N = 50,000 features
    neighbours [M N]         precision and recall of N = 50,000 samples, M = 10,000 of the reference

Weights and features are random: neither time nor memory depends on their values. Images a second of CPU
are printed too, because they hold on a shared machine; compare both programs on one core
(`taskset -c 0`) and turn by turn.
"""

import resource
import sys
import time

import numpy as np


def best(name, count, run, repeats=3):
    """Print images a second of wall clock and of CPU, the best of the repeats."""
    run()
    wall, cpu = [], []
    for _ in range(repeats):
        start = time.perf_counter(), time.process_time()
        run()
        wall.append(time.perf_counter() - start[0])
        cpu.append(time.process_time() - start[1])
    print(f"{name}: {count / min(wall):.2f} images/s, {count / min(cpu):.2f} a second of CPU")


def pictures(batch):
    return np.random.default_rng(0).integers(0, 256, (batch, 32, 32, 3), dtype=np.uint8)


def inception(batch="16"):
    import jax

    from score_jax import metrics
    from score_jax.metrics.inception import Inception

    shapes = jax.eval_shape(
        Inception(("logits",)).init, jax.random.key(0), np.zeros((1, 299, 299, 3))
    )
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda v: rng.normal(0, 0.03, v.shape).astype(np.float32), shapes)
    features = metrics.inception_features(metrics.Weights(params, "random"))
    images = pictures(int(batch))
    best(
        "inception", len(images), lambda: list(metrics.extract(features, images, batch=len(images)))
    )


def torch(checkout, batch="16"):
    sys.path.insert(0, f"{checkout}/src")
    import os

    import torch
    import torchvision
    from pytorch_fid import inception

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    inception.load_state_dict_from_url = lambda *args, **kwargs: None
    torchvision.models.inception.Inception3.load_state_dict = lambda *args, **kwargs: None
    net = inception.InceptionV3().eval()
    images = torch.from_numpy(pictures(int(batch))).permute(0, 3, 1, 2)

    def run():
        with torch.no_grad():
            net(images / 255)

    best(f"pytorch-fid, torch {torch.__version__}", len(images), run)


def vectors(n, k=2048, block=1000, seed=0):
    """Blocks of random features, none of which is kept."""
    rng = np.random.default_rng(seed)
    for _ in range(0, n, block):
        yield {"pool": rng.standard_normal((block, k), np.float32)}


def timed(name, run):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter(), time.process_time()
    value = run()
    wall, cpu = time.perf_counter() - start[0], time.process_time() - start[1]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{name}: {wall:.1f} s, {cpu:.1f} s of CPU; peak {peak / 2**20:.2f} GiB "
          f"({before / 2**20:.2f} before)")  # fmt: skip
    return value


def stream(n="50000"):
    from score_jax import metrics

    timed(f"moments of {n} x 2048", lambda: metrics.collect(vectors(int(n))))


def fid():
    from score_jax import metrics

    a, b = (metrics.collect(vectors(4000, seed=s))["pool"].moments for s in (0, 1))
    timed("frechet at 2048", lambda: metrics.frechet(a, b))


def kid(n="50000"):
    from score_jax import metrics

    a, b = (np.concatenate([v["pool"] for v in vectors(int(n), seed=s)]) for s in (0, 1))
    timed(f"kid of {n}", lambda: metrics.kid_subsets(a, b))


def neighbours(m="10000", n="50000"):
    from score_jax import metrics

    a, b = (
        np.concatenate([v["pool"] for v in vectors(int(c), seed=s)]) for s, c in enumerate((m, n))
    )
    timed(f"precision, recall {m}, {n}", lambda: metrics.precision_recall(a, b))


if __name__ == "__main__":
    parts = {f.__name__: f for f in (inception, torch, stream, fid, kid, neighbours)}
    parts[sys.argv[1]](*sys.argv[2:])
