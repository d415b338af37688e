"""What `benchmarks.compiled` reads in the text of a compiled program."""

from types import SimpleNamespace

import pytest

from benchmarks import clusters, scale
from benchmarks.compiled import Program

TEXT = """HloModule jit_step, is_scheduled=true
%gemm (a: f32[4,5], b: f32[5,6]) -> f32[4,6] {
  %a = f32[4,5]{1,0} parameter(0)
  %b = f32[5,6]{1,0} parameter(1)
  ROOT %dot = f32[4,6]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

ENTRY %main (x: bf16[2,8,8,3], w: bf16[7,3,3,3], p: f32[4,5], q: f32[5,6]) -> f32[4,6] {
  %x = bf16[2,8,8,3]{3,2,1,0} parameter(0)
  %w = bf16[7,3,3,3]{3,2,1,0} parameter(1)
  %p = f32[4,5]{1,0} parameter(2)
  %q = f32[5,6]{1,0} parameter(3)
  %y = (bf16[2,8,8,7]{3,2,1,0}, u8[64]{0}) custom-call(%x, %w), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward"
  %g = bf16[2,8,8,7]{3,2,1,0} get-tuple-element(%y), index=0
  %dx = (bf16[2,8,8,3]{3,2,1,0}, u8[64]{0}) custom-call(%g, %w), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardInput"
  %dw = (bf16[7,3,3,3]{3,2,1,0}, u8[64]{0}) custom-call(%x, %g), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardFilter"
  %c = (f32[4,6]{1,0}, s8[64]{0}) custom-call(%p, %q), custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_batch_dimensions":[]}}}
  ROOT %z = f32[4,6]{1,0} fusion(%p, %q), kind=kCustom, calls=%gemm
}
"""  # noqa: E501


def test_products_of_nvidias_libraries_are_counted():
    """One convolution and its two gradients take the same multiplications, and two products."""
    convolution, product = 2 * (2 * 8 * 8) * 7 * 3 * 9, 2 * 4 * 5 * 6
    program = Program(TEXT)
    assert program.flops() == pytest.approx(3 * convolution + 2 * product)
    found = {dtype: sum(names.values()) for dtype, names in program.products().items()}
    assert found == {"bf16": 3, "f32": 2}


LOOP = """HloModule jit_scan, is_scheduled=true
%body (t: (s32[], f32[4,5], f32[5,5])) -> (s32[], f32[4,5], f32[5,5]) {
  %t = (s32[], f32[4,5]{1,0}, f32[5,5]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %a = f32[4,5]{1,0} get-tuple-element(%t), index=1
  %b = f32[5,5]{1,0} get-tuple-element(%t), index=2
  %dot = f32[4,5]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  ROOT %next = (s32[], f32[4,5]{1,0}, f32[5,5]{1,0}) tuple(%i, %dot, %b)
}

%goes (t: (s32[], f32[4,5], f32[5,5])) -> pred[] {
  %t = (s32[], f32[4,5]{1,0}, f32[5,5]{1,0}) parameter(0)
  ROOT %true = pred[] constant(true)
}

ENTRY %main (t: (s32[], f32[4,5], f32[5,5])) -> (s32[], f32[4,5], f32[5,5]) {
  %t = (s32[], f32[4,5]{1,0}, f32[5,5]{1,0}) parameter(0)
  ROOT %w = (s32[], f32[4,5]{1,0}, f32[5,5]{1,0}) while(%t), condition=%goes, body=%body, backend_config={"known_trip_count":{"n":"7"}}
}
"""  # noqa: E501


@pytest.mark.parametrize(("cost", "flops", "said"), [
    ({"flops": 200.0}, 200, "loops once"), ({}, 7 * 200, "loops as often as they run"),
    (None, 7 * 200, "loops as often as they run"),
])  # fmt: skip
def test_what_xla_does_not_count_is_counted_with_loops_as_often_as_they_run(cost, flops, said):
    """XLA counts the body of a loop once on TPUs, and nothing on GPUs."""
    compiled = SimpleNamespace(cost_analysis=lambda: cost)
    case = scale.Case(compiled, None, None, 4, 1, (0.0, 0.0))
    found = scale.bounds(case, Program(LOOP), clusters.CHIPS["h100"], 4)
    assert found.gflop * 1e9 == pytest.approx(flops)
    assert said in str(found)


@pytest.mark.parametrize("name", ["h100:4x8", "h100", "v9:2x2", "v5e:"])
def test_unknown_topologies_are_answered_with_known_ones(name):
    with pytest.raises(ValueError, match=r"v5e:4x4.*h100:1x2x8"):
        clusters.chip_of(name)


def test_without_the_libraries_of_cuda_gpus_are_skipped(monkeypatch, tmp_path):
    monkeypatch.setattr(clusters, "CUDA", tmp_path)
    with pytest.raises(clusters.NotInstalled, match="make cuda"):
        clusters.devices("h100:1x1x4")
