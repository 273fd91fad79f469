"""Refusals by strict mode are recognized, and name their setting."""

import pytest
from qdrant_client import models

from quernstone_qdrant.targets.strict_mode import RULES, refused_by


def test_every_setting_of_strict_mode_is_known():
    known = {rule.setting for rule in RULES} | {"enabled", "unindexed_filtering_update"}
    assert known == set(models.StrictModeConfig.model_fields)


@pytest.mark.parametrize(
    ("message", "refused", "setting"),
    [
        ('Limit exceeded 6 > 5 for "timeout". Help: Reduce', "size", "max_timeout"),
        ('Limit exceeded 6 > 5 for \\"update limit\\"', "size", "upsert_max_batchsize"),
        ("Condition size limit reached (9 > 3)", "size", "condition_max_size"),
        ("Filter condition limit reached (9 > 3)", "request", "filter_max_conditions"),
        ("Max vector storage size limit of 0.5MB reached!", "request", "max_collection_vector_s"),
        ("Sparse vector 'b' has a limit of 3 indices, but 4", "content", "sparse_config"),
        ("Multivector 'b' has a limit of 3 vectors, but 4", "content", "multivector_config"),
        ("Bad request: Something new. Help: Do this.", "request", "a limit of"),
    ],
)
def test_a_refusal_names_its_setting(message, refused, setting):
    found = refused_by(message)
    assert found is not None
    assert (found[0], setting in found[1]) == (refused, True)


def test_other_errors_are_not_those_of_strict_mode():
    assert refused_by("Wrong input: Vector dimension error: expected dim: 64, got 2") is None
