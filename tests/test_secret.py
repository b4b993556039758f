"""A secret shows itself to nobody by accident."""

from __future__ import annotations

import copy
import json
import pickle

import pytest

from metalbox.secret import HIDDEN, Secret


def test_it_is_hidden_wherever_it_is_printed() -> None:
    secret = Secret("hunter2")
    shown = [repr(secret), str(secret), f"{secret}", f"{secret:>30}", f"{secret!r}", repr([{1: secret}])]
    assert all("hunter2" not in text and HIDDEN in text for text in shown)
    assert secret.reveal() == "hunter2"


def test_it_leaves_no_copy_of_itself() -> None:
    secret = Secret("hunter2")
    for leave in (json.dumps, pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError) as caught:
            leave(secret)
        assert "hunter2" not in str(caught.value)


def test_equality_and_truth() -> None:
    assert Secret("a") == Secret("a")
    assert Secret("a") != Secret("b")
    assert Secret("a") != "a"
    assert Secret("\ud800") == Secret("\ud800")
    assert {Secret("a"), Secret("a")} == {Secret("a")}
    assert Secret("a") and not Secret("")
