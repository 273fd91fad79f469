import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from quernstone.batching import longest_first, pack, take_batch
from quernstone.types import Encoded, Prefix


def encoded(*ids, prefix=None):
    return Encoded(np.array(ids, dtype=np.int32), prefix)


def test_pack_lays_sequences_end_to_end_longest_first():
    batch = pack([encoded(1), encoded(2, 3, 4), encoded(5, 6)])
    assert batch.order == [1, 2, 0]
    assert batch.input_ids.tolist() == [2, 3, 4, 5, 6, 1]
    assert batch.position_ids.tolist() == [0, 1, 2, 0, 1, 0]
    assert batch.cu_seqlens == [0, 3, 5, 6]
    assert batch.max_seqlen == 3
    assert batch.groups == []


def test_pack_groups_equal_prefixes_behind_sequences_without():
    one, again, other = (Prefix(np.array(ids, dtype=np.int32)) for ids in ([7, 8], [7, 8], [9]))
    batch = pack(
        [encoded(1, prefix=one), encoded(2, prefix=other), encoded(3), encoded(4, 5, prefix=again)]
    )
    assert batch.order == [2, 3, 0, 1]
    assert batch.position_ids.tolist() == [0, 2, 3, 2, 1]
    assert batch.groups == [(one, 1, 3), (other, 3, 4)]


def test_longest_first_keeps_the_order_of_equals():
    assert list(longest_first([2, 5, 2, 9])) == [3, 1, 0, 2]


def take_all(lengths, budget):
    queues = [longest_first(job) for job in lengths]
    batches = []
    while any(queues):
        batches.append(take_batch(lengths, queues, max_batch_tokens=budget))
    return batches


@given(
    st.lists(st.lists(st.integers(1, 50), max_size=20), max_size=5),
    st.integers(1, 60),
)
def test_every_sequence_is_taken_once_and_the_budget_holds(lengths, budget):
    batches = take_all(lengths, budget)
    taken = [item for batch in batches for item in batch]
    assert sorted(taken) == [(j, p) for j, job in enumerate(lengths) for p in range(len(job))]
    for batch in batches:
        tokens = sum(lengths[job][place] for job, place in batch)
        assert tokens <= budget or len(batch) == 1


def test_a_single_query_shares_the_next_batch_with_a_large_job():
    lengths = [[10] * 100, [3]]
    queues = [longest_first(job) for job in lengths]
    batch = take_batch(lengths, queues, max_batch_tokens=40)
    assert (1, 0) in batch
    assert batch.count((1, 0)) == 1
    assert sum(lengths[job][place] for job, place in batch) == 33


def test_what_a_small_job_leaves_goes_to_the_oldest():
    lengths = [[10] * 10, [10], [10] * 10]
    queues = [longest_first(job) for job in lengths]
    batch = take_batch(lengths, queues, max_batch_tokens=90)
    assert [job for job, _ in batch].count(0) == 5
    assert [job for job, _ in batch].count(1) == 1
    assert [job for job, _ in batch].count(2) == 3
