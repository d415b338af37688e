"""Measuring samples by features: drawing them or reading them, the reference, and the result."""

import hashlib
import json
import pathlib
from typing import Any, Protocol

import jax

from score_jax import training
from score_jax._hosts import agreed

from .. import runs
from ..config import SampleConfig
from ..parts import drawing, feature_networks, folders, images, sampling, summaries
from ..parts.feature_networks import FRECHET, Network, NetworkConfig
from ..parts.images import Images
from ..parts.results import FAULTS, Results, lines_of_missing, number
from ..runs import Run
from . import sample_metrics, tables
from .sample_metrics import MetricConfig

PROTOCOL_NUM = 50_000  # samples of the published FIDs


class Options(Protocol):
    """The flags of `experiments.evaluate` that are used here."""

    workdir: str
    num: int | None
    seed: int
    chunk: int
    samples: str | None
    reference: str | None
    result: pathlib.Path
    network: NetworkConfig
    metric: MetricConfig

    def sample_config(self, run: Run) -> SampleConfig:
        """The sampler."""
        ...


class Splits:
    """The splits of a run as images and statistics for one network, computed when first used."""

    def __init__(self, run: Run | None, network: Network, batch: int) -> None:
        self._run, self._network, self._batch = run, network, batch
        self._found: dict[str, tuple[Images, summaries.Statistics]] = {}

    def get(self, split: str, keep: int | None) -> tuple[Images, summaries.Statistics]:
        """Images and statistics of a split with `keep` features, None for all of them."""
        assert self._run is not None
        if split not in self._found:
            data = images.of_split(self._run.source, split)
            n = data.n if keep is None else min(keep, data.n)
            what = f"{split} images"
            found = summaries.statistics(self._network, data, keep=n, batch=self._batch, what=what)
            self._found[split] = (data, found)
        return self._found[split]


def measure(args: Options) -> Results:
    """Measure samples by the features of the networks; the result is written part by part."""
    networks = feature_networks.make(args.network, args.metric.outputs)
    load = lambda: runs.load(pathlib.Path(args.workdir)) if args.workdir else None
    loaded = agreed(load)
    if args.samples is not None:
        found = images.of_path(args.samples, args.num)
        record = {"source": args.samples, "settings": images.record(args.samples)}
    else:
        assert loaded is not None  # Args.check
        found, record = _drawn(args, *loaded)
    if args.metric.jackknife > found.n // 2:
        raise ValueError(
            f"--jackknife must be at most half of the {found.n} samples, got {args.metric.jackknife}"
        )
    out = args.result
    if training.is_first():
        out.parent.mkdir(parents=True, exist_ok=True)
    results = Results(
        out, {"samples": {"n": found.n, "sha256_of_pixels": found.sha256(), **record}}
    )
    run = None if loaded is None else loaded[0]
    for network in networks:
        _by_network(results, network, found, args, run)
    results.write()
    return results


def _by_network(
    results: Results, network: Network, found: Images, args: Options, run: Run | None
) -> None:
    c, batch = args.metric, args.network.feature_chunk
    splits = Splits(run, network, batch)
    kept = c.reference_num if c.needs_features else 0
    try:
        keep, parts = found.n if c.needs_features else 0, max(1, c.jackknife)
        samples = summaries.statistics(
            network, found, keep=keep, batch=batch, parts=parts, what="samples"
        )
        if args.reference is not None:
            reference = summaries.read_reference(network, args.reference, keep=kept, batch=batch)
        else:
            data, own = splits.get("train", None if c.memorization else kept)
            about = {"source": "training split of the run", "n": data.n}
            reference = summaries.Reference(own, about)
    except FAULTS as error:
        results.missing[network.kind] = " ".join(str(error).split())
        return
    sample_metrics.measure(results, network, samples, reference, c)
    if c.memorization:
        picture = None
        if training.is_first() and results.path is not None:
            picture = results.path.with_name(sample_metrics.PICTURE)
        copies = lambda: sample_metrics.copies(
            network,
            (found, samples),
            splits.get("train", None),
            splits.get("test", None)[1],
            picture,
        )
        results.part(f"{network.kind}.memorization", "copies of training images", copies)


def _drawn(args: Options, run: Run, params: Any, step: int) -> tuple[Images, dict[str, Any]]:
    """Draw samples into a folder of the run; those of the same settings are continued or reused."""
    num, config = args.num or PROTOCOL_NUM, args.sample_config(run)
    y = sampling.classes(run, num)
    plan = drawing.Plan(run, params, jax.random.key(args.seed), num, config, y, None, args.chunk)
    facts = drawing.settings(step, args.seed, config) | {"weights": drawing.fingerprint(params)}
    text = json.dumps([facts, num, args.chunk], sort_keys=True)
    name = f"evaluate-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    path = pathlib.Path(args.workdir) / "samples" / name
    drawing.fill(drawing.folder_of(plan, path, "npy", facts), plan)
    found = folders.read_record(path) or {}
    cost = {k: found.get(k) for k in ("nfe", "seconds")}
    return images.of_path(str(path)), {"source": str(path), "settings": found["settings"]} | cost


def report(result: dict[str, Any]) -> str:
    """Set the result of `measure` as tables, one for each network."""
    lines = []
    for kind in FRECHET:
        if kind not in result:
            continue
        found = result[kind]
        frechet = next((name for name in FRECHET.values() if name in found), "frechet")
        protocol = ", ".join(f"{k} {v}" for k, v in found["protocol"].items())
        reference = found["reference"]
        lines += [
            f"{kind} ({protocol})",
            f"reference: {reference['source']}"
            + (f", n = {reference['n']:,}" if reference.get("n") else ""),
        ]
        rows = [["metric", "value", "standard error"]]
        for name in (frechet, "sfid", "inception_score", "kid"):
            if found.get(name) is not None:
                value, stderr = found[name]["value"], found[name].get("stderr")
                rows.append([name.replace("_", " "), number(value), number(stderr, ".2g")])
        for name in ("precision_recall", "density_coverage", "memorization"):
            for key, value in (found.get(name) or {}).items():
                if isinstance(value, float):
                    label = "distance ratio to training images" if key == "ratio" else key
                    rows.append([label, number(value), "-"])
        lines += [tables.table(rows)]
        note = (found.get(frechet) or {}).get("note")
        lines += [f"note: {note}"] if note else []
    samples = result["samples"]
    head = f"{samples['n']:,} samples of {samples['source']}"
    return "\n".join([head, *lines, *lines_of_missing(result)])
