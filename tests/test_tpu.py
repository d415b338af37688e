"""Training steps compiled for TPUs that are not there: what they communicate, hold and multiply.

`make libtpu` installs the compiler, which `make test` does too.
"""

import json
import os
import subprocess
import sys
from collections import Counter

import pytest

from benchmarks.clusters import FOLDER
from tests.helpers import ROOT

# The mapping "jit" with a whole state has the averages of shard_map.
CASES = ["v5e:2x2/shard_map", "v5e:2x2/fsdp", "v5e:4x4/fsdp", "v5e:4x4/space", "v5e:4x4/both"]
# The last convolution computes in float32; all others were asked for in bfloat16.
IN_FLOAT32 = "/last/"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER.is_dir(), reason="libtpu is not installed: make libtpu"),
]


@pytest.fixture(scope="module")
def compiled():
    """{case: facts}, from one process, which has libtpu and its flags."""
    out = subprocess.run(
        [sys.executable, "-m", "tests.helpers.tpu_script", *CASES],
        cwd=ROOT, env={**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "0", "XLA_FLAGS": ""},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert out.returncode == 0, out.stderr[-3000:]
    lines = [line for line in out.stdout.splitlines() if line.startswith("{")]
    return dict(zip(CASES, map(json.loads, lines), strict=True))


def sizes(facts):
    """{(kind, type): bytes}; nothing communicates in a loop."""
    assert not any(inside for _, _, inside, _ in facts["collectives"])
    return {(kind, dtype): size for kind, dtype, _, size in facts["collectives"]}


@pytest.mark.parametrize("case", CASES)
def test_everything_donated_is_aliased_and_nothing_is_wider_than_asked_for(compiled, case):
    facts = compiled[case]
    assert facts["aliased"] == facts["leaves"]
    assert "f64" not in facts["types"]
    assert all(IN_FLOAT32 in name for name in facts["products"]["f32"])
    assert len(facts["products"]["bf16"]) >= 5


def test_a_replicated_state_communicates_gradients_alone_in_float32(compiled):
    found = sizes(compiled["v5e:2x2/shard_map"])
    assert set(found) == {("all-reduce", "f32")}
    gradient = 4 * sum(compiled["v5e:2x2/shard_map"]["parameters"])
    assert found["all-reduce", "f32"] == pytest.approx(gradient, rel=0.01)


@pytest.mark.parametrize("case", [case for case in CASES if case.endswith("fsdp")])
def test_a_divided_state_is_gathered_in_bfloat16_and_its_gradients_scattered_in_float32(
    compiled, case
):
    facts, found = compiled[case], sizes(compiled[case])
    found.pop(("all-reduce", "s32"), None)
    assert facts["ratio"] <= 1.5  # half of this little state is in leaves that are not divided
    # XLA casts before it gathers.
    assert found.pop(("all-gather", "bf16")) == 2 * sum(facts["divided"])
    assert set(found) <= {("all-reduce", "f32"), ("reduce-scatter", "f32")}


@pytest.mark.parametrize("case", [case for case in CASES if case.endswith("fsdp")])
def test_every_gradient_is_reduced_once_and_scattered_where_the_state_is_divided(compiled, case):
    """The compiler is asked to scatter them, and writes some as all-reduces, of which a chip keeps its
    part: on 16 chips all, on 4 chips not all."""
    facts, chips = compiled[case], 4 if "2x2" in case else 16
    divided = Counter(facts["divided"])
    assert facts["asked"] == dict.fromkeys(("all_gather", "reduce_scatter"), divided.total())
    scattered = Counter(chips * size for kind, size in facts["reduced"] if kind == "reduce-scatter")
    whole = Counter(size for kind, size in facts["reduced"] if kind == "all-reduce")
    assert scattered <= divided
    assert scattered or chips == 16
    # What else is reduced are scalars: the loss and the norm of the gradients.
    assert set(whole + scattered - Counter(facts["parameters"])) <= {1}
    assert not Counter(facts["parameters"]) - whole - scattered


def test_devices_that_share_images_each_add_up_a_part_of_the_gradient(compiled):
    """Large kernels are scattered over the four chips of an image, and a quarter is added up over the
    four groups of chips, then gathered."""
    facts = compiled["v5e:4x4/space"]
    large = [size for size in facts["parameters"] if size >= 2**12]
    assert large and ["reduce-scatter", large[0] // 4] in facts["reduced"]
    for size in set(large):
        found = [kind for kind, n in facts["reduced"] if n == size // 4]
        assert found.count("all-reduce") == found.count("reduce-scatter") == large.count(size)
        assert ["all-reduce", size] not in facts["reduced"]


def test_devices_that_share_images_add_up_what_each_keeps_of_a_divided_gradient(compiled):
    """The compiler scatters the gradient over the four groups of chips first."""
    facts = compiled["v5e:4x4/both"]
    for size in set(facts["divided"]):
        found = [kind for kind, n in facts["reduced"] if n == size // 4]
        assert found.count("all-reduce") == found.count("reduce-scatter")
        assert found.count("reduce-scatter") == facts["divided"].count(size)
        assert size not in [n for _, n in facts["reduced"]]
