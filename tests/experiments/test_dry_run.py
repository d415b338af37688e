"""`experiments.train --dry-run`: what a run would cost is said, and nothing is written or loaded."""

import re

import pytest

from experiments import cli, train
from experiments.parts import datasets
from experiments.reports.dry_run import human


def test_a_run_is_described_and_not_started(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(datasets, "open_splits", lambda c: pytest.fail("data were loaded"))
    # The compiler's options stay as they are.
    monkeypatch.setattr(cli, "start", lambda *workdirs, **needs: None)
    work = tmp_path / "run"
    given = ["--config", "two_moons_vp", "--workdir", str(work), "--train.batch-size", "100"]
    train.main([*given, "--net.width", "64", "--net.num-blocks", "1", "--dry-run"])
    out = capsys.readouterr().out
    count = int(re.search(r"MLP: ([\d,]+) parameters", out)[1].replace(",", ""))
    # float32, four times: parameters, their average and Adam's two moments.
    size = float(re.search(r"state .*: ([\d.]+) kB", out)[1])
    assert size == pytest.approx(16 * count / 1000, rel=0.02)
    # Forward, and backward to weights and to inputs: a product and a sum for every weight each.
    flops = float(re.search(r"one step of 100 examples of shape \(2,\): ([\d.]+) MFLOP", out)[1])
    assert 0.5 * 6 * count * 100 < flops * 1e6 < 2 * 6 * count * 100
    assert re.search(r"memory of one step on one cpu: [\d.]+ [kM]B, of it", out)
    assert not work.exists()


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0 B"), (999, "999 B"), (61_804_419, "61.8 MB"), (1.5e12, "1.5 TB")]
)
def test_numbers_are_read_by_people(value, text):
    assert human(value, "B") == text
