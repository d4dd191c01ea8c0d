"""The benchmark of models keeps other programs' figures only beside its own of one machine and version."""

import sys

import pytest
from conftest import ROOT

from hipqct.io.files import read_json

sys.path.insert(0, str(ROOT / "benchmarks"))
import fe_peers

BONEMAT, CICLOPE = fe_peers.PEERS


def figures(peer: str, **measured) -> dict:
    of_peer = dict.fromkeys(fe_peers.PEERS[peer], 2.0)
    return of_peer | {fe_peers.mark_of(peer): fe_peers.measured_with() | {"peer": "1"} | measured}


def test_figures_of_a_peer_that_is_not_there_stay():
    before = {"hex_s": 1.0} | figures(BONEMAT) | figures(CICLOPE)
    result = {"hex_s": 0.5}
    fe_peers.keep_peers(result, before)
    assert result == before | {"hex_s": 0.5}
    assert fe_peers.without_peers(before) == {"hex_s": 1.0}


def test_what_was_measured_again_is_not_replaced():
    before, result = figures(CICLOPE), figures(CICLOPE) | {"hex_speedup_vs_ciclope": 3.0}
    fe_peers.keep_peers(result, before)
    assert result["hex_speedup_vs_ciclope"] == 3.0


@pytest.mark.parametrize("other", [{"machine": "another"}, {"hipqct": "0.0.1"}])
def test_figures_of_another_machine_or_version_are_dropped_and_named(capsys, other):
    result = {}
    fe_peers.keep_peers(result, figures(CICLOPE, **other))
    assert result == {}
    assert "dropped, being of another machine or version: ciclope (hex_speedup" in capsys.readouterr().out


def test_figures_that_do_not_say_where_they_are_of_are_dropped():
    result = {}
    fe_peers.keep_peers(result, {"hex_speedup_vs_ciclope": 2.0})
    assert result == {}


def test_missing_peers_are_named_with_the_way_to_install_them():
    assert fe_peers.missing_peers(figures(BONEMAT) | figures(CICLOPE)) is None
    sentence = fe_peers.missing_peers(figures(BONEMAT))
    assert sentence.startswith("ciclope cannot be used")
    assert "requirements/peers.txt" in sentence and (ROOT / "requirements/peers.txt").is_file()


def test_committed_figures_tell_what_they_were_measured_with():
    committed = read_json(ROOT / "benchmarks/results/fe.json")
    for peer, keys in fe_peers.PEERS.items():
        assert set(keys) <= committed.keys()
        assert committed[fe_peers.mark_of(peer)]["machine"] == committed["machine"]
