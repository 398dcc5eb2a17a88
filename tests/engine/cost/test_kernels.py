"""Kernels and bytes of a program, counted in a text as XLA prints one."""

import pytest

from jaxfuse.engine.cost.gpus import GPUS, LAUNCH_S
from jaxfuse.engine.cost.kernels import CompiledKernels

PROGRAM = """\
HloModule jit_step, is_scheduled=true

%add (a: bf16[], b: bf16[]) -> bf16[] {
  %a = bf16[] parameter(0)
  %b = bf16[] parameter(1)
  ROOT %sum = bf16[] add(%a, %b)
}

%fused_transpose.2 (p: f32[8,16]) -> f32[16,8] {
  %p = f32[8,16]{1,0} parameter(0)
  ROOT %t = f32[16,8]{1,0} transpose(%p), dimensions={1,0}
}

%fused_reduce (p: bf16[64,128,4]) -> bf16[4] {
  %p.1 = bf16[64,128,4]{2,1,0} parameter(0)
  %zero = bf16[] constant(0)
  ROOT %r = bf16[4]{0} reduce(%p.1, %zero), dimensions={0,1}, to_apply=%add
}

%body (s: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %s = (s32[], f32[8,16]{1,0}) parameter(0)
  %x = f32[8,16]{1,0} get-tuple-element(%s), index=1
  %i = s32[] get-tuple-element(%s), index=0
  %double = f32[8,16]{1,0} fusion(%x), kind=kLoop, calls=%fused_double
  ROOT %next = (s32[], f32[8,16]{1,0}) tuple(%i, %double)
}

%small (p: f32[2]) -> f32[2] {
  %p.2 = f32[2]{0} parameter(0)
  ROOT %n = f32[2]{0} negate(%p.2)
}

%large (p: f32[2]) -> f32[2] {
  %p.3 = f32[2]{0} parameter(0)
  %e = f32[2]{0} exponential(%p.3)
  ROOT %m = f32[2]{0} negate(%e)
}

ENTRY %main (x: f32[8,16], y: bf16[64,128,4], c: pred[]) -> f32[8,16] {
  %x.1 = f32[8,16]{1,0} parameter(0)
  %y.1 = bf16[64,128,4]{2,1,0} parameter(1)
  %c.1 = pred[] parameter(2)
  %turned = f32[16,8]{1,0} fusion(%x.1), kind=kInput, calls=%fused_transpose.2, metadata={op_name="a(b)"}
  %narrow = bf16[4]{0} fusion(%y.1), kind=kInput, calls=%fused_reduce
  %conv = (f32[1,8,8,4]{3,2,1,0}, /*index=1*/u8[32]{0}) custom-call(%turned, %x.1), window={size=3x17 pad=1_1x8_8}, \
custom_call_target="__cudnn$convForward"
  %start = (s32[], f32[8,16]{1,0}) tuple(%i0, %x.1)
  %loop = (s32[], f32[8,16]{1,0}) while(%start), condition=%cond, body=%body, \
backend_config={"known_trip_count":{"n":"5"}}
  %v = f32[2]{0} constant({1, 2})
  %either = f32[2]{0} conditional(%c.1, %v, %v), branch_computations={%small, %large}
  ROOT %end = f32[8,16]{1,0} get-tuple-element(%loop), index=1
}
"""


@pytest.fixture(scope="module")
def found():
    return CompiledKernels(PROGRAM, temporary_bytes=7, argument_bytes=9)


def test_each_kernel_moves_its_operands_and_results(found):
    moved = [(one.kind, one.moved_bytes, one.launches) for one in found.kernels]
    matrix = 8 * 16 * 4
    assert moved == [
        ("transpose", 2 * matrix, 1),
        ("fusion", 64 * 128 * 4 * 2 + 4 * 2, 1),
        ("__cudnn$convForward", 2 * matrix + 8 * 8 * 4 * 4 + 32, 1),
        # The loop's body, five times; of two branches the one that moves more.
        ("fusion", 2 * matrix, 5),
        ("exponential", 16, 1),
        ("negate", 16, 1),
    ]
    assert found.launches == 10
    assert found.transposed_bytes == 2 * matrix
    assert found.moved_bytes == sum(size * launches for _, size, launches in moved)


def test_windows_and_narrow_sums_are_found(found):
    assert found.largest_window == 17
    assert found.longest_narrow_sum() == 64 * 128


def test_small_kernels_take_a_launch(found):
    assert found.floor_s(GPUS["h200"]) == pytest.approx(10 * LAUNCH_S)
    large = CompiledKernels(PROGRAM.replace("[64,128,4]", "[64000,128000,4]"), 0, 0)
    assert large.floor_s(GPUS["h200"]) == pytest.approx(9 * LAUNCH_S + (64e3 * 128e3 * 8 + 8) / 4.8e12)


POOL = """\
HloModule jit_step, is_scheduled=true

%fused_exchange (pool: bf16[50,64], new: f32[1,64], at: s32[]) -> (bf16[50,64], bf16[64]) {
  %pool = bf16[50,64]{1,0} parameter(0)
  %at = s32[] parameter(2)
  %zero = s32[] constant(0)
  %new = f32[1,64]{1,0} parameter(1)
  %flat = bf16[50,64]{1,0} bitcast(%pool)
  %old = bf16[1,64]{1,0} dynamic-slice(%flat, %at, %zero), dynamic_slice_sizes={1,64}
  %shown = bf16[64]{0} bitcast(%old)
  %narrow = bf16[1,64]{1,0} convert(%new)
  %kept = bf16[50,64]{1,0} dynamic-update-slice(%pool, %narrow, %at, %zero)
  ROOT %both = (bf16[50,64]{1,0}, bf16[64]{0}) tuple(%kept, %shown)
}

ENTRY %main (pool: bf16[50,64], new: f32[1,64], at: s32[]) -> bf16[4,64] {
  %pool.1 = bf16[50,64]{1,0} parameter(0)
  %new.1 = f32[1,64]{1,0} parameter(1)
  %at.1 = s32[] parameter(2)
  %swap = (bf16[50,64]{1,0}, bf16[64]{0}) fusion(%pool.1, %new.1, %at.1), kind=kLoop, calls=%fused_exchange
  %changed = bf16[50,64]{1,0} get-tuple-element(%swap), index=0
  ROOT %some = bf16[4,64]{1,0} slice(%changed), slice={[0:4], [0:64]}
}
"""


SLICED = """\
HloModule jit_step, is_scheduled=true

%fused_part (whole: bf16[50,64]) -> bf16[10,64] {
  %whole = bf16[50,64]{1,0} parameter(0)
  %double = bf16[50,64]{1,0} add(%whole, %whole)
  ROOT %part = bf16[10,64]{1,0} slice(%double), slice={[0:10], [0:64]}
}

ENTRY %main (whole: bf16[50,64]) -> bf16[10,64] {
  %whole.1 = bf16[50,64]{1,0} parameter(0)
  ROOT %some = bf16[10,64]{1,0} fusion(%whole.1), kind=kLoop, calls=%fused_part
}
"""


def test_of_what_is_cut_within_a_kernel_the_part_counts():
    (part,) = CompiledKernels(SLICED.replace("add(%whole, %whole)", "negate(%whole)"), 0, 0).kernels
    assert part.moved_bytes == 2 * 10 * 64 * 2


def test_of_a_pool_that_is_changed_in_place_what_moves_is_one_image():
    exchange, part = CompiledKernels(POOL, 0, 0).kernels
    # The old image is read and handed out, the new one read and put in; then four are copied.
    assert exchange.moved_bytes == 2 * 64 + 2 * 64 + 4 * 64 + 2 * 64 + 4
    assert part.moved_bytes == 2 * 4 * 64 * 2
