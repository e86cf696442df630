"""Phrases of lists, as sentences of reports and errors use them."""

import doctest

from compress.base import words
from compress.reporting.page import _between


def test_examples_hold() -> None:
    found = doctest.testmod(words)
    assert found.attempted
    assert not found.failed


def test_before_the_first_training_there_is_nothing() -> None:
    stages = [
        {"stage": "00-train", "kind": "training", "step": "train"},
        {"stage": "01-prune", "kind": "compressing", "step": "prune"},
        {"stage": "02-sparsify", "kind": "compressing", "step": "sparsify"},
        {"stage": "03-retrain", "kind": "training", "step": "retrain"},
    ]
    assert _between(stages) == {"00-train": "", "03-retrain": "prune and sparsify"}
