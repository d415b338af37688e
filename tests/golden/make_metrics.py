"""Make `metrics.npz`: what the published programs compute, for the tests of score_jax.metrics.

Needs torch, torchvision, Pillow and scipy, and checkouts of mseitzer/pytorch-fid, toshas/torch-fidelity,
GaParmar/clean-fid, facebookresearch/dinov2, openai/guided-diffusion and
clovaai/generative-evaluation-prdc in one folder; no test needs them. No weights are stored: `weights`
draws each tensor from its name, `images` and `features` likewise, here and in the tests.

    python tests/golden/make_metrics.py CHECKOUTS tests/golden/metrics.npz
"""

import importlib
import json
import sys
import types
import zlib
from pathlib import Path

import numpy as np

SIZES = {"32": (2, 32, 32), "64": (2, 64, 48), "299": (1, 299, 299)}
RESIZED = {"small": (1, 7, 5), "square": (1, 32, 32), "large": (1, 401, 330)}
DINO = {"embed_dim": 128, "depth": 2, "num_heads": 2, "img_size": 518}
ROWS, COLUMNS = slice(None, None, 13), slice(None, None, 11)  # of a resized image that are kept


def _rng(name):
    return np.random.RandomState(zlib.crc32(name.encode()))


def weights(name, shape):
    """Float32 weights of a torch state dict, such that no layer of the network dies."""
    draw = _rng(name).standard_normal(tuple(shape))
    if name.endswith("running_var"):
        draw = np.exp(0.3 * draw)
    elif name.endswith(("bn.weight", "norm1.weight", "norm2.weight", "norm.weight", "gamma")):
        draw = 1 + 0.2 * draw
    elif name.endswith((".weight",)):
        draw = draw * np.sqrt(2 / np.prod(shape[1:]))
    elif name.endswith(("bias", "running_mean")):
        draw = 0.1 * draw
    return draw.astype(np.float32)


def images(name):
    """Bytes (b, h, w, 3): waves, and noise on every other row of pixels, as hard as photographs."""
    b, h, w = (SIZES | RESIZED)[name]
    rng = _rng(f"images {name}")
    y, x = np.mgrid[:h, :w]
    phase = rng.uniform(0, 6, (b, 1, 1, 3))
    waves = np.sin(x[..., None] * 0.11 + y[..., None] * 0.23 + phase)
    noise = rng.uniform(-1, 1, (b, h, w, 3)) * (y % 2)[..., None]
    return np.rint(np.clip(127.5 + 80 * waves + 60 * noise, 0, 255)).astype(np.uint8)


def features(name, n, k):
    """Float32 features (n, k), correlated and positive as those of the Inception are."""
    rng = _rng(f"features {name}")
    mix = _rng("features mix").standard_normal((k, k)) / np.sqrt(k)
    shift = 0.2 * (name == "b")
    return np.abs(rng.standard_normal((n, k)) @ mix + 0.5 + shift).astype(np.float32)


def _load(torch, module):
    state = {n: torch.from_numpy(weights(n, v.shape)) if v.is_floating_point() else v
             for n, v in module.state_dict().items()}  # fmt: skip
    module.load_state_dict(state)
    return module.double().eval(), {n: list(v.shape) for n, v in state.items()}


def inception(torch, out):
    """Outputs of pytorch-fid and torch-fidelity in float64, and of two wrong networks."""
    import torch.nn.functional as F

    ours = importlib.import_module("pytorch_fid.inception")
    ours.load_state_dict_from_url = lambda *args, **kwargs: {}
    loaded = ours.torchvision.models.inception.Inception3.load_state_dict
    ours.torchvision.models.inception.Inception3.load_state_dict = lambda self, state: (
        loaded(self, state) if state else None
    )
    kept = {}
    build = ours.fid_inception_v3
    ours.fid_inception_v3 = lambda: kept.setdefault("whole", build())
    net = ours.InceptionV3(range(4))
    whole, shapes = _load(torch, kept["whole"])
    net.double().eval()
    whole.Mixed_6d.branch1x1.register_forward_hook(
        lambda module, args, value: kept.update(spatial=value)
    )
    out["inception/shapes"] = json.dumps(shapes)

    def run(x, key):
        with torch.no_grad():
            found = [v.mean((2, 3)) for v in net(x)]
            found.append(found[3] @ whole.fc.weight.T)
            spatial = kept["spatial"].permute(0, 2, 3, 1)[..., :7].reshape(len(x), -1)
        names = ("64", "192", "768", "pool", "logits")
        for name, value in zip(names, found, strict=True):
            out[f"{key}/{name}"] = value.numpy().astype(np.float32)
        out[f"{key}/spatial"] = spatial.numpy().astype(np.float32)

    def tensor(x):
        return torch.from_numpy(x.astype(np.float64)).permute(0, 3, 1, 2)

    for size in SIZES:
        run(tensor(images(size)) / 255, f"pytorch_fid/{size}")
    clean = importlib.import_module("cleanfid.resize").build_resizer("clean")
    x = np.stack([clean(image) for image in images("32")])
    net.resize_input = net.normalize_input = False
    run((tensor(x) - 128) / 128, "clean/32")

    # Two networks that are wrong where this one is unusual; their features must not be ours.
    net.resize_input = net.normalize_input = True
    x = tensor(images("32")) / 255
    average, maximum = F.avg_pool2d, F.max_pool2d
    F.avg_pool2d = lambda x, **kwargs: average(x, 3, 1, 1, count_include_pad=True)
    run(x, "wrong_average/32")
    F.avg_pool2d = average
    F.max_pool2d = lambda x, *args, **kwargs: (
        average(x, 3, 1, 1, count_include_pad=False) if kwargs.get("stride") == 1
        else maximum(x, *args, **kwargs)
    )  # fmt: skip
    run(x, "wrong_last_pool/32")
    F.max_pool2d = maximum
    for key in [k for k in out if k.startswith("wrong") and not k.endswith("pool")]:
        del out[key]

    theirs = importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")
    theirs.torch.load = lambda *args, **kwargs: whole.state_dict()
    names = ["64", "192", "768", "2048", "logits_unbiased"]
    extractor = theirs.FeatureExtractorInceptionV3(
        "inception", names, "file", feature_extractor_internal_dtype="float64"
    )
    for size in ("32", "64"):
        x = torch.from_numpy(images(size)).permute(0, 3, 1, 2)
        for name, value in zip((*names[:3], "pool", "logits"), extractor(x), strict=True):
            out[f"tf1/{size}/{name}"] = value.numpy()


def resizings(torch, out):
    """Parts of resized images, by torch, torch-fidelity, clean-fid and Pillow."""
    import torch.nn.functional as F
    from PIL import Image

    tf1 = importlib.import_module("torch_fidelity.interpolate_compat_tensorflow")
    clean = importlib.import_module("cleanfid.resize").build_resizer("clean")
    for name in RESIZED:
        bytes_ = images(name)
        x = torch.from_numpy(bytes_.astype(np.float64)).permute(0, 3, 1, 2)
        resize = tf1.interpolate_bilinear_2d_like_tensorflow1x
        found = {
            "tf1": (resize(x.float(), (299, 299), align_corners=False) - 128) / 128,
            "pytorch_fid": F.interpolate(x / 255, (299, 299), mode="bilinear") * 2 - 1,
            "edm2": F.interpolate(x, (224, 224), mode="bicubic", antialias=True),
        }
        for kind, value in found.items():
            value = value.permute(0, 2, 3, 1).numpy()
            out[f"resized/{kind}/{name}"] = value[:, ROWS, COLUMNS].astype(np.float32)
        value = (np.stack([clean(image) for image in bytes_]) - 128) / 128
        out[f"resized/clean/{name}"] = value[:, ROWS, COLUMNS].astype(np.float32)
        value = [np.asarray(Image.fromarray(i).resize((224, 224), Image.BICUBIC)) for i in bytes_]
        out[f"resized/pillow/{name}"] = np.stack(value)[:, ROWS, COLUMNS]


def dinov2(torch, out):
    """The class token of a small member of the family, positions resized from 37 to 16 and 3 x 5."""
    module = importlib.import_module("dinov2.models.vision_transformer")
    net = module.DinoVisionTransformer(
        **DINO, patch_size=14, init_values=1.0, block_chunks=0, block_fn=module.Block
    )
    net, shapes = _load(torch, net)
    out["dinov2/shapes"] = json.dumps(shapes)
    for name, (h, w) in {"224": (224, 224), "small": (42, 70)}.items():
        x = _rng(f"dinov2 {name}").standard_normal((2, h, w, 3))
        with torch.no_grad():
            value = net(torch.from_numpy(x.astype(np.float32)).double().permute(0, 3, 1, 2))
        out[f"dinov2/{name}"] = value.numpy().astype(np.float32)


def distances(torch, out):
    """Metrics of fixed features by torch-fidelity, prdc and the evaluator of ADM."""
    a, b = features("a", 400, 24), features("b", 300, 24)
    fid = importlib.import_module("torch_fidelity.metric_fid")
    moments = [
        {"mu": v.astype(np.float64).mean(0), "sigma": np.cov(v.astype(np.float64).T)}
        for v in (a, b)
    ]
    out["distance/fid"] = fid.fid_statistics_to_metric(*moments, False)[
        "frechet_inception_distance"
    ]
    kid = importlib.import_module("torch_fidelity.metric_kid").kid_features_to_metric(
        torch.from_numpy(a.astype(np.float64)), torch.from_numpy(b.astype(np.float64)),
        kid_subsets=20, kid_subset_size=100, verbose=False,
    )  # fmt: skip
    out["distance/kid"] = list(kid.values())
    logits = 4 * torch.from_numpy(features("logits", 403, 12))
    score = importlib.import_module("torch_fidelity.metric_isc").isc_features_to_metric(logits)
    out["distance/inception_score"] = list(score.values())
    # Features whose balls cover a part of the other set only.
    near, far = features("a", 400, 3), features("b", 300, 3)
    prc = importlib.import_module("torch_fidelity.metric_prc").prc_features_to_metric(
        torch.from_numpy(far), torch.from_numpy(near), verbose=False
    )
    out["distance/precision_recall"] = [prc["precision"], prc["recall"]]
    prdc = importlib.import_module("prdc.prdc").compute_prdc(near, far, 5)
    out["distance/density_coverage"] = [prdc["density"], prdc["coverage"]]
    adm(out, a, b, logits.double().numpy(), near, far)


def adm(out, a, b, logits, near, far):
    """ADM's evaluator with NumPy in the place of its TensorFlow session."""
    for name in ("tensorflow", "tensorflow.compat", "tensorflow.compat.v1", "requests"):
        sys.modules[name] = types.ModuleType(name)
    module = importlib.import_module("evaluator")
    sqrtm = module.linalg.sqrtm
    module.linalg = types.SimpleNamespace(sqrtm=lambda x, disp: (sqrtm(x), 0))
    evaluator = module.Evaluator.__new__(module.Evaluator)
    statistics = [evaluator.compute_statistics(v.astype(np.float64)) for v in (a, b)]
    out["adm/fid"] = statistics[0].frechet_distance(statistics[1])

    def softmax(x, feed_dict):
        (x,) = feed_dict.values()
        p = np.exp(x - x.max(1, keepdims=True))
        return p / p.sum(1, keepdims=True)

    evaluator.sess = types.SimpleNamespace(run=softmax)
    evaluator.softmax = evaluator.softmax_input = "softmax"
    evaluator.softmax_batch_size = 64
    out["adm/inception_score"] = evaluator.compute_inception_score(logits, split_size=100)

    def pairs(u, v):
        return np.maximum((u**2).sum(1)[:, None] - 2 * u @ v.T + (v**2).sum(1)[None], 0)

    def less_thans(u, radii_u, v, radii_v):
        d = pairs(u, v)[..., None]
        return (d <= radii_v).any(1), (d <= radii_u[:, None]).any(0)

    module.DistanceBlock = lambda session: types.SimpleNamespace(
        pairwise_distances=pairs, less_thans=less_thans
    )
    evaluator.manifold_estimator = module.ManifoldEstimator(None, 128, 128)
    out["adm/precision_recall"] = evaluator.compute_prec_recall(near, far)


if __name__ == "__main__":
    import torch

    checkouts, target = Path(sys.argv[1]), sys.argv[2]
    for name in ("mseitzer+pytorch-fid/src", "toshas+torch-fidelity", "GaParmar+clean-fid",
                 "facebookresearch+dinov2", "openai+guided-diffusion/evaluations",
                 "clovaai+generative-evaluation-prdc"):  # fmt: skip
        sys.path.insert(0, str(checkouts / name))
    made = {"versions": json.dumps({"torch": torch.__version__, "numpy": np.__version__})}
    for part in (inception, resizings, dinov2, distances):
        part(torch, made)
    np.savez_compressed(target, **made)
