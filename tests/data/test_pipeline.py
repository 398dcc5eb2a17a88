"""The stream of batches is a function of seed and step alone."""

import grain
import numpy as np
import pytest

from jaxfuse.data.pipeline import Interleaved, Loader, PatchSampler, Share, batches
from jaxfuse.data.sampling import brain, tumor
from jaxfuse.data.streams import Stream, Streams
from tests.refusals import refused

PATCH = (4, 4, 4)
STOP = 7


def _sampler(cases, **changes):
    options = {"patch": PATCH, "center": tumor, "flip": 0.0, "unpaired": False} | changes
    return PatchSampler(cases, **options)


def _stream(sampler, *, start=0, stop=STOP, seed=0, batch=2, **loader):
    iterator = batches(sampler, batch=batch, seed=seed, start=start, stop=stop, loader=Loader(**loader))
    return [dict(one) for one in iterator]


def _equal(a, b):
    return len(a) == len(b) and all(
        x.keys() == y.keys() and all(map(np.array_equal, x.values(), y.values())) for x, y in zip(a, b, strict=True)
    )


@pytest.fixture(scope="module")
def augmented(random_cases):
    return _sampler(random_cases.train, flip=0.5)


@pytest.fixture(scope="module")
def whole(augmented):
    return _stream(augmented)


def test_batches_are_stacked_patches(whole):
    assert len(whole) == STOP
    for batch in whole:
        assert {name: (leaf.shape, leaf.dtype) for name, leaf in batch.items()} == {
            "image": ((2, *PATCH, 2), np.float32),
            "label": ((2, *PATCH), np.uint8),
        }


@pytest.mark.parametrize("start", [1, 4, STOP])
def test_a_stream_from_step_k_is_the_tail(augmented, whole, start):
    assert _equal(_stream(augmented, start=start), whole[start:])


def test_neither_threads_nor_workers_nor_prefetch_nor_the_end_change_a_batch(augmented, whole):
    assert _equal(_stream(augmented, threads=1, prefetch=1), whole)
    assert _equal(_stream(augmented, workers=2, start=2), whole[2:])
    assert _equal(_stream(augmented, stop=3), whole[:3])


@pytest.mark.parametrize(("count", "workers"), [(2, 0), (4, 0), pytest.param(2, 1, marks=pytest.mark.slow)])
def test_processes_make_the_rows_of_the_batches_of_one_bit_by_bit(augmented, halved, count, workers):
    for sampler, start in ((augmented, 0), (augmented, 3), (halved, 2)):
        whole = _stream(sampler, batch=4, start=start)
        shares = [
            list(batches(sampler, batch=4, seed=0, start=start, stop=STOP, loader=Loader(workers), share=share))
            for share in (Share(number, count) for number in range(count))
        ]
        for rows in shares:
            assert {len(one["image"]) for one in rows} == {4 // count}
        joined = [
            {name: np.concatenate([one[name] for one in rows]) for name in rows[0]}
            for rows in zip(*shares, strict=True)
        ]
        assert _equal(joined, whole)
        if workers:
            return


def test_another_seed_gives_other_batches(augmented, whole):
    other = _stream(augmented, seed=1)
    assert not any(np.array_equal(a["image"], b["image"]) for a, b in zip(whole, other, strict=True))


def test_each_pass_takes_every_case_once_in_a_new_order(random_cases):
    cases = random_cases.train
    passes = [[], [], []]
    for i, batch in enumerate(_stream(_sampler(cases), batch=1, stop=12)):
        example = {name: leaf[0] for name, leaf in batch.items()}
        passes[i // 4] += [c.id for c in cases if random_cases.places(c, example)]
    assert all(sorted(order) == ["case0", "case1", "case2", "case3"] for order in passes)
    assert len({tuple(order) for order in passes}) > 1


def test_a_case_seen_again_is_cut_elsewhere(random_cases):
    stream = _stream(_sampler(random_cases.train[:1], center=brain), batch=1, stop=6)
    starts = {tuple(random_cases.places(random_cases.train[0], {"image": b["image"][0]})[0]) for b in stream}
    assert len(starts) > 3


def test_unpaired_streams_never_come_from_one_case(random_cases):
    cases = random_cases.train
    pairs = []
    for batch in _stream(_sampler(cases, unpaired=True), batch=1, stop=24):
        origin = {}
        for side in ("a", "b"):
            example = {name: leaf[0] for name, leaf in batch[side].items()}
            (origin[side],) = [c.id for c in cases if random_cases.places(c, example)]
        pairs.append((origin["a"], origin["b"]))
    assert all(a != b for a, b in pairs)
    # Every other case is drawn as a partner.
    assert len(set(pairs)) > 6


def test_without_labels_an_example_is_its_image(random_cases):
    mixed = (*random_cases.train[:1], random_cases.bare)
    for batch in _stream(_sampler(mixed, center=brain, labels=False), stop=2):
        assert set(batch) == {"image"}


@pytest.fixture(scope="module")
def halved(random_cases):
    """A sampler with cases 0 and 2 in the lower stream, cases 1 and 3 in the upper one."""
    streams = Streams(Stream(("case0", "case2"), (0, 2)), Stream(("case1", "case3"), (1, 3)))
    return _sampler(random_cases.train, streams=streams)


@pytest.mark.parametrize("batch", [2, 3, 4])
def test_the_lower_part_of_a_batch_is_of_the_lower_stream_and_each_stream_takes_its_cases_in_turn(
    random_cases, halved, batch
):
    drawn = {True: [], False: []}
    for made in _stream(halved, batch=batch, stop=6):
        for place in range(batch):
            example = {name: leaf[place] for name, leaf in made.items()}
            drawn[place % 2 == 1] += [c.id for c in random_cases.train if random_cases.places(c, example)]
    for of_lower, own in ((True, {"case0", "case2"}), (False, {"case1", "case3"})):
        assert set(drawn[of_lower]) == own
        assert all(set(drawn[of_lower][i : i + 2]) == own for i in range(0, len(drawn[of_lower]), 2))


def test_halves_take_turns_and_keep_their_draws():
    turns = Interleaved(grain.MapDataset.range(10), batch=5)
    assert [turns[place] for place in range(10)] == [2, 0, 3, 1, 4, 7, 5, 8, 6, 9]


def test_a_stream_with_held_out_halves_resumes_and_does_not_depend_on_workers(halved):
    whole = _stream(halved, batch=4)
    assert _equal(_stream(halved, batch=4, start=3), whole[3:])
    assert _equal(_stream(halved, batch=4, start=3, workers=2), whole[3:])
    assert _equal(_stream(halved, batch=4, threads=1, prefetch=1), whole)
    other = _stream(halved, batch=4, seed=1)
    assert not any(np.array_equal(a["image"], b["image"]) for a, b in zip(whole, other, strict=True))


def test_a_batch_of_one_has_no_halves(halved):
    refused("holds out half of each batch, and batch is 1", lambda: _stream(halved, batch=1))


def test_unpaired_needs_two_cases(random_cases):
    message = "unpaired training needs at least two training cases, and there is one"
    refused(message, lambda: _stream(_sampler(random_cases.train[:1], unpaired=True)))
