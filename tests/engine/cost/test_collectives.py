"""Exchanges between devices, counted in a text as XLA prints one."""

import pytest

from jaxfuse.engine.cost.collectives import BEGIN_BETWEEN_S, BEGIN_S, Exchange, collectives_of, exchange_s
from jaxfuse.engine.cost.gpus import GPUS
from jaxfuse.engine.cost.kernels import CompiledKernels

PROGRAM = """\
HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%body (s: (s32[], f32[8])) -> (s32[], f32[8]) {
  %s = (s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %x = f32[8]{0} get-tuple-element(%s), index=1
  %r = f32[8]{0} all-reduce(%x), replica_groups={{0,1}}, to_apply=%add
  ROOT %next = (s32[], f32[8]{0}) tuple(%i, %r)
}

ENTRY %main (p: bf16[4,16], q: f32[8]) -> f32[8] {
  %p = bf16[4,16]{1,0} parameter(0)
  %q = f32[8]{0} parameter(1)
  %whole = (bf16[4,16]{1,0:T(8,128)}, bf16[8,16]{1,0}) all-gather-start(%p), replica_groups={{0,1}}, dimensions={0}
  %there = bf16[8,16]{1,0} all-gather-done(%whole)
  %moved = (bf16[4,16]{1,0}, bf16[4,16]{1,0}, u32[], u32[]) collective-permute-start(%p), source_target_pairs={{0,1}}
  %done = bf16[4,16]{1,0} collective-permute-done(%moved)
  %both = (f32[8]{0}, f32[100]{0}) all-reduce-start(%q, %q), replica_groups={{0,1}}, to_apply=%add
  %parted = ((f32[8]{0}, f32[6]{0}), (f32[4]{0}, f32[3]{0})) reduce-scatter-start(%q, %q), replica_groups={{0,1}}
  %begun = (s32[], f32[8]{0}) tuple(%q)
  ROOT %loop = f32[8]{0} while(%begun), condition=%more, body=%body, backend_config={"known_trip_count":{"n":"3"}}
}
"""


def test_exchanges_are_counted_by_what_a_device_receives():
    found = collectives_of(CompiledKernels(PROGRAM, 0, 0).kernels)
    assert found == {
        "all-gather": Exchange(1, 2 * 8 * 16, 2 * 8 * 16),
        "collective-permute": Exchange(1, 2 * 4 * 16, 2 * 4 * 16),
        "all-reduce": Exchange(1 + 3, 4 * 108 + 3 * 4 * 8, 4 * 108),
        "reduce-scatter": Exchange(1, 4 * 7, 4 * 7),
    }


@pytest.mark.parametrize("kind", ["fusion", "custom-call", "all-reduce-done"])
def test_other_kernels_are_none(kind):
    line = f"ENTRY %main (p: f32[2]) -> f32[2] {{\n  ROOT %p.1 = f32[2]{{0}} {kind}(%p), calls=%x\n}}\n"
    assert collectives_of(CompiledKernels(line, 0, 0).kernels) == {}


def test_the_simulated_time_is_that_of_a_ring_over_the_slowest_link():
    h200, megabyte = GPUS["h200"], 10**6
    summed = {"all-reduce": Exchange(2, 45 * megabyte, 1)}
    assert exchange_s(summed, h200, devices=8, space=1) == pytest.approx(2 * BEGIN_S + 2 * 7 / 8 * 1e-4)
    assert exchange_s(summed, h200, devices=64, space=1) == pytest.approx(2 * BEGIN_BETWEEN_S + 2 * 63 / 64 * 9e-4)
    borders = {"collective-permute": Exchange(1, 45 * megabyte, 1)}
    within, between = (exchange_s(borders, h200, devices=64, space=space) for space in (8, 16))
    assert within == pytest.approx(BEGIN_S + 1e-4)
    assert between == pytest.approx(BEGIN_BETWEEN_S + 9e-4)
    assert exchange_s({"reduce-scatter": Exchange(1, megabyte, 1)}, h200, devices=8, space=1) == pytest.approx(
        BEGIN_S + 7 * megabyte / h200.link
    )
