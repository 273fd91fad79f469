import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from quernstone.batching import Queue, pack, take_batch
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


def of_lengths(*lengths, prefix=None):
    return [encoded(*[n] * length, prefix=prefix) for n, length in enumerate(lengths)]


def order_of(sequences):
    return Queue(sequences).take(len(sequences))


def test_a_queue_is_longest_first_and_keeps_the_order_of_equals():
    assert order_of(of_lengths(2, 5, 2, 9)) == [3, 1, 0, 2]


def test_a_queue_keeps_sequences_of_one_prefix_together():
    one, two = (Prefix(np.array([n], dtype=np.int32)) for n in (1, 2))
    sequences = [*of_lengths(3, prefix=one), *of_lengths(9, prefix=two), *of_lengths(7, prefix=one)]
    assert order_of(sequences) == [2, 0, 1]


def test_equal_sequences_are_queued_once():
    one, again, other = (Prefix(np.array(ids, dtype=np.int32)) for ids in ([7], [7], [8]))
    queue = Queue([encoded(1, prefix=p) for p in (one, None, again, other, None)])
    assert queue.firsts == [0, 1, 0, 3, 1]
    assert queue.take(len(queue)) == [1, 0, 3]


PREFIXES = [None, *(Prefix(np.full(n, n, dtype=np.int32)) for n in (3, 20))]
SEQUENCE = st.builds(
    lambda length, first, prefix: encoded(first, *[0] * (length - 1), prefix=prefix),
    st.integers(1, 50),
    st.integers(0, 9),
    st.sampled_from(PREFIXES),
)


@given(st.lists(st.lists(SEQUENCE, max_size=12), max_size=4))
def test_an_extended_queue_has_the_sequences_of_all_parts(parts):
    queue = Queue([])
    new = sum(queue.extend(part) for part in parts)
    sequences = [sequence for part in parts for sequence in part]
    assert queue.firsts == (Queue(sequences).firsts if sequences else [])
    assert new == len(queue) == len(set(queue.firsts))
    rows = np.arange(len(sequences), dtype=np.float32)[:, None]
    assert queue.repeat(rows)[:, 0].tolist() == queue.firsts
    assert sorted(queue.take(new)) == sorted(set(queue.firsts))


def take_all(jobs, budget):
    queues = [Queue(job) for job in jobs]
    batches = []
    while any(map(len, queues)):
        batches.append(take_batch(queues, max_batch_tokens=budget))
    return batches


@given(st.lists(st.lists(SEQUENCE, max_size=20), max_size=5), st.integers(1, 60))
def test_every_sequence_is_taken_once_and_the_budget_holds(jobs, budget):
    batches = take_all(jobs, budget)
    taken = [item for batch in batches for item in batch]
    firsts = [sorted(set(Queue(job).firsts)) for job in jobs]
    assert sorted(taken) == [(j, place) for j, places in enumerate(firsts) for place in places]
    for batch in batches:
        sequences = [jobs[job][place] for job, place in batch]
        prefixes = {sequence.prefix for sequence in sequences} - {None}
        tokens = sum(map(len, sequences)) + sum(map(len, prefixes))
        assert tokens <= budget or len(batch) == 1


def test_a_single_query_shares_the_next_batch_with_a_large_job():
    jobs = [of_lengths(*[10] * 100), of_lengths(3)]
    batch = take_batch([Queue(job) for job in jobs], max_batch_tokens=40)
    assert (1, 0) in batch
    assert [job for job, _ in batch].count(0) == 3


def test_what_small_jobs_leave_goes_to_one_large_job():
    jobs = [of_lengths(*[10] * 10), of_lengths(10), of_lengths(*[10] * 10)]
    batch = take_batch([Queue(job) for job in jobs], max_batch_tokens=90)
    assert [[job for job, _ in batch].count(n) for n in range(3)] == [8, 1, 0]


def test_many_small_jobs_leave_half_to_a_large_one():
    jobs = [of_lengths(*[10] * 10), *[of_lengths(4)] * 20]
    batch = take_batch([Queue(job) for job in jobs], max_batch_tokens=80)
    counts = [[job for job, _ in batch].count(n) for n in range(21)]
    assert counts == [4, *[1] * 10, *[0] * 10]


def test_a_prefix_counts_once_when_a_job_is_finished():
    prefix = Prefix(np.arange(20, dtype=np.int32))
    jobs = [of_lengths(*[10] * 10), of_lengths(5, 5, prefix=prefix)]
    batch = take_batch([Queue(job) for job in jobs], max_batch_tokens=60)
    assert [[job for job, _ in batch].count(n) for n in range(2)] == [3, 2]
