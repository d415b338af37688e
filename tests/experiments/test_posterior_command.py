"""The posterior card by command: the exact score beside PiGDM and a method of the user's."""

import json

import pytest

from tests.experiments.test_experiments import call
from tests.helpers import ROOT

MINE = """
from score_jax import inverse
mine = inverse.projection
number = 3
blur = inverse.Blur(inverse.gaussian_kernel(3, 0.7))


class Wrong(inverse.LinearOperator):
    def forward(self, x):
        return 2 * x

    def adjoint(self, v):
        return v


wrong = Wrong()


def dying(sde, score, measurement):
    raise FloatingPointError("all particles died")
"""
SMALL = ["--problems", "two_modes", "--num", 16, "--repeats", 3, "--nfe", 10]


@pytest.mark.slow
def test_methods_of_ours_and_of_the_users_stand_in_one_card(tmp_path, monkeypatch):
    (tmp_path / "my_methods.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    out = tmp_path / "card"
    given = ["--methods", "exact", "pigdm", "--method", "my_methods:mine", "--out", out]
    done = call("posterior", *SMALL, *given, check=0)
    assert "two_modes, noise 0.1" in done.stdout
    rows = json.loads((out / "posterior.json").read_text())["rows"]
    assert [row["method"] for row in rows] == ["exact draws", "exact", "pigdm", "my_methods:mine"]
    assert all(row["nfe"] == 10 for row in rows[1:])
    assert rows[0]["figures"]["std_ratio"]["value"] == pytest.approx(1, abs=0.4)
    assert "| my_methods:mine | 10 |" in (out / "posterior.md").read_text()
    assert (out / "posterior.png").stat().st_size > 1000
    again = tmp_path / "again"
    call("posterior", "--problems", "--join", out / "posterior.json", "--out", again, check=0)
    text = (again / "posterior.md").read_text()
    assert text == (out / "posterior.md").read_text() and "3 measurements, 16 draws each" in text
    table = ROOT / "docs" / "posterior-table.json"
    short = ("--join", table, "--brief", "--card-noise", 0.1, "--out", tmp_path / "short")
    call("posterior", "--problems", *short, check=0)
    page = (ROOT / "docs" / "posterior-table.md").read_text()
    assert page.endswith((tmp_path / "short" / "posterior.md").read_text())
    rows = json.loads((tmp_path / "short" / "posterior.json").read_text())["rows"]
    assert rows == json.loads(table.read_text())["rows"] and "ranks" not in rows[0]
    assert "holds no results" in call("posterior", "--join", out / "posterior.md", check=2).stderr
    checked = ("posterior", "--shape", 8, 8, 1, "--check-adjoint")
    assert "its adjoint is one" in call(*checked, "my_methods:blur", check=0).stdout
    assert "adjoint of Wrong is not one" in call(*checked, "my_methods:wrong", check=2).stderr
    assert "must be a LinearOperator" in call(*checked, "my_methods:number", check=2).stderr
    tiny = (
        "--problems",
        "two_modes",
        "--num",
        4,
        "--repeats",
        2,
        "--nfe",
        4,
        "--out",
        tmp_path / "x",
    )
    none = call("posterior", *tiny, "--methods", "smc", "--noise", 0, check=2).stderr
    assert "no method is for these problems: two_modes, noise 0: smc with 4 evaluations" in none
    assert "noise_std must be > 0" in none and not (tmp_path / "x").exists()
    dying = call("posterior", *tiny, "--methods", "exact", "--method", "my_methods:dying", check=0)
    assert "my_methods:dying with 4 evaluations is left out: all particles died" in dying.stderr
    wrong = {
        "my_methods": "package.module:function",
        "my_methods:none": "cannot be imported",
        "no.such:mine": "cannot be imported",
        "my_methods:number": "is no function",
    }
    for name, said in wrong.items():
        assert said in call("posterior", "--method", name, check=2).stderr


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--problems", "two_mode"], "did you mean 'two_modes'"),
        (["--methods", "ddp"], "unknown method 'ddp'"),
        (["--problems"], "--problems must name"),
        (["--check-adjoint", "a:b"], "--check-adjoint needs --shape"),
        (["--check-adjoint", "a:b", "--shape", 0], "--shape must be"),
        (["--num", 1], "--num must be at least 2"),
        (["--noise", -1], "--noise must be"),
        (["--nfe", 1], "--nfe must be"),
        (["--card-noise", 0.3], "--card-noise must be some of [0.1]"),
    ],
    ids=["problem", "method", "none", "no_shape", "shape", "num", "noise", "nfe", "card"],
)
def test_wrong_flags_end_in_one_line(flags, said):
    assert said in call("posterior", *flags, check=2).stderr
