"""Channels are found by name, whatever a source calls them and in whatever order it has them."""

import numpy as np
import pytest

from latentcast.errors import LatentcastError
from latentcast.signals.leads import (
    CANONICAL_LEADS,
    canonical_name,
    canonical_names,
    in_canonical_order,
    nearest_lead,
)
from latentcast.signals.readers.file_format import ReadOptions, choose
from latentcast.source import BadRecord


@pytest.mark.parametrize(
    ("spelled", "lead"),
    [
        ("AVR", "aVR"),
        ("avf", "aVF"),
        (" aVL ", "aVL"),
        ("MLII", "II"),
        ("ii", "II"),
        ("DIII", "III"),
        ("v6", "V6"),
        ("C3", "V3"),
        ("Lead II", "II"),
        ("ECG_V1", "V1"),
        ("MDC_ECG_LEAD_AVL", "aVL"),
        ("V4R", "V4R"),
        ("vx", "VX"),
    ],
)
def test_spellings_of_one_lead_are_one_lead(spelled: str, lead: str) -> None:
    assert canonical_name(spelled) == lead


@pytest.mark.parametrize("name", ["aVQ", "V10", "", "ABP", "-aVR", "col 1", "IV"])
def test_an_unknown_name_is_refused_and_not_mapped_to_a_neighbour(name: str) -> None:
    with pytest.raises(LatentcastError, match="no known lead name"):
        canonical_name(name)


def test_the_error_names_the_nearest_lead() -> None:
    with pytest.raises(LatentcastError, match=r"'aVRR'.*did you mean 'aVR'"):
        canonical_name("aVRR")


@pytest.mark.parametrize("name", ["-aVR", "aVR-", "aVR (inverted)", "minus II", "V1*-1"])
def test_a_lead_with_its_sign_turned_is_offered_as_that_lead(name: str) -> None:
    assert nearest_lead(name) is None
    with pytest.raises(BadRecord) as refused:
        choose([(name, "mV")], ReadOptions())
    assert "sign of a lead turned" in str(refused.value) and "--rename" not in str(refused.value)


def test_one_lead_under_two_names_is_refused() -> None:
    with pytest.raises(LatentcastError, match="'MLII': is the same lead as 'II'"):
        canonical_names(["II", "MLII"])


def test_canonical_order_does_not_depend_on_the_order_given() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert in_canonical_order(tuple(rng.permutation(CANONICAL_LEADS))) == CANONICAL_LEADS
