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
    found = scale.bounds(case, Program(LOOP), clusters.CHIPS["h100"])
    assert found.gflop * 1e9 == pytest.approx(flops)
    assert said in str(found)


@pytest.mark.parametrize(("asked", "times"), [("", 1), ("high", 3), ("highest", 6)])
def test_float32_takes_passes_in_bfloat16(asked, times):
    """XLA counts a product once at each precision; a TPU multiplies up to six times for it."""
    said = f", operand_precision={{{asked},{asked}}}" if asked else ""
    text = LOOP.replace("rhs_contracting_dims={0}", f"rhs_contracting_dims={{0}}{said}")
    case = scale.Case(SimpleNamespace(cost_analysis=lambda: None), None, None, 4, 1, (0.0, 0.0))
    found = scale.bounds(case, Program(text), clusters.CHIPS["v5e"])
    assert found.passes == times
    assert found.arithmetic == pytest.approx(times * found.gflop / 197)
    halves = scale.bounds(case, Program(text.replace("f32", "bf16")), clusters.CHIPS["v5e"])
    assert halves.passes == 1


EXCHANGES = """HloModule jit_step, is_scheduled=true
%all-reduce-scatter.1 (a: bf16[8,8]) -> bf16[8,2] {
  %a = bf16[8,8]{1,0} parameter(0)
  %r = bf16[8,8]{1,0} all-reduce(%a), channel_id=1, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  %i = s32[] constant(0)
  ROOT %s = bf16[8,2]{1,0} dynamic-slice(%r, %i, %i), dynamic_slice_sizes={8,2}
}

ENTRY %main (x: bf16[8,8], y: f32[16]) -> f32[16] {
  %x = bf16[8,8]{1,0} parameter(0)
  %y = f32[16]{0} parameter(1)
  %part = bf16[8,2]{1,0} fusion(%x), kind=kCustom, calls=%all-reduce-scatter.1
  %more = bf16[8,2]{1,0} all-reduce(%part), channel_id=2, replica_groups=[4,2]<=[8], to_apply=%add
  %whole = bf16[8,8]{1,0} all-gather(%more), channel_id=3, replica_groups=[2,4]<=[8], dimensions={1}
  %b = f32[8]{0} reduce-scatter(%y), channel_id=4, replica_groups=[4,2]<=[8], dimensions={0}, to_apply=%add
  %c = f32[2]{0} reduce-scatter(%y), channel_id=5, replica_groups=mesh['d'=1,'e'=8] {'d','e'}, dimensions={0}, to_apply=%add
  ROOT %z = f32[16]{0} all-reduce(%y), channel_id=6, replica_groups={}, to_apply=%add
}
"""  # noqa: E501


def test_a_scatter_sends_the_whole_array_once_and_an_all_reduce_twice():
    """A TPU's scatter is written as a fusion of an all-reduce and a slice."""
    program = Program(EXCHANGES)
    assert program.collectives() == {
        ("reduce-scatter", "bf16", False): 32, ("all-reduce", "bf16", False): 32,
        ("all-gather", "bf16", False): 128, ("reduce-scatter", "f32", False): 32 + 8,
        ("all-reduce", "f32", False): 64,
    }  # fmt: skip
    assert program.on_links() == 128 + 2 * 32 + 128 + 64 + 64 + 2 * 64


@pytest.mark.parametrize("name", ["h100:4x8", "h100", "v9:2x2", "v5e:", "v5e:4x4x4", "v5p:0x2x2"])
def test_unknown_topologies_are_answered_with_known_ones(name):
    with pytest.raises(ValueError, match=r"v5e:4x4.*h100:1x2x8"):
        clusters.chip_of(name)


def test_topologies_for_which_the_compiler_ends_the_process_are_refused():
    with pytest.raises(ValueError, match=r"at most 16 .* got 'v5e:64x64'"):
        clusters.chip_of("v5e:64x64")


def test_without_the_libraries_of_cuda_gpus_are_skipped(monkeypatch, tmp_path):
    monkeypatch.setattr(clusters, "CUDA", tmp_path)
    with pytest.raises(clusters.NotInstalled, match="make cuda"):
        clusters.devices("h100:1x1x4")
