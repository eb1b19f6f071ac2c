"""HuBERT-ECG's published sizes, in parameters and tokens, and the running of its network against `transformers`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainables.backbones.architecture import build_network, network_config
from trainables.hubert_ecg_encoder import HubertEcgSize, hubert_ecg_architecture
from trainables.token_encoder import (
    conv_features,
    count_tokens,
    encode,
    hidden_states,
    lay_out,
    run_layer,
    set_dropout,
    valid_tokens,
)


@pytest.mark.parametrize(
    ("size", "n_parameters"), [("small", 30_209_664), ("base", 92_798_848), ("large", 187_644_736)]
)
def test_the_published_sizes_have_their_parameters(size: HubertEcgSize, n_parameters: int) -> None:
    with torch.device("meta"):
        network = build_network(hubert_ecg_architecture(size, 100.0))
    assert sum(parameter.numel() for parameter in network.parameters()) == n_parameters


@pytest.mark.parametrize("fs_hz", [50.0, 100.0, 500.0])
def test_five_seconds_are_93_tokens_as_counted_and_as_run(fs_hz: float) -> None:
    architecture = hubert_ecg_architecture("tiny", fs_hz)
    assert count_tokens(architecture, 12, int(5 * fs_hz)) == 93
    network = build_network(architecture)
    feature_BEC = conv_features(network, lay_out(torch.randn(1, 12, int(5 * fs_hz)), architecture))
    assert feature_BEC.shape[1] == 93


def test_it_runs_as_transformers_does_with_masks() -> None:
    torch.manual_seed(0)
    architecture = hubert_ecg_architecture("tiny", 100.0)
    network = build_network(architecture).eval()
    ecg_BLT, mask_BE = torch.randn(2, 12, 500), torch.rand(2, 93) < 0.3
    with torch.no_grad():
        ours = encode(network, conv_features(network, lay_out(ecg_BLT, architecture)), mask_BE)
        theirs = network(ecg_BLT.flatten(1), mask_time_indices=mask_BE).last_hidden_state
        states = list(hidden_states(network, conv_features(network, lay_out(ecg_BLT, architecture))))
        unmasked = network(ecg_BLT.flatten(1)).last_hidden_state
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(states[-1], unmasked)
    assert len(states) == 1 + network_config(architecture).num_hidden_layers


def test_padding_changes_no_answer_at_the_signals_tokens() -> None:
    """But for the token that the padding's edge touches, and what it tells the others."""
    torch.manual_seed(0)
    architecture = hubert_ecg_architecture("tiny", 100.0)
    network = build_network(architecture).eval()
    feature_BEC = torch.randn(1, 20, 32)
    valid_BE = torch.arange(20)[None] < 15
    other_BEC = torch.where(valid_BE[:, :, None], feature_BEC, torch.randn(1, 20, 32))
    with torch.no_grad():
        one, other = (encode(network, each, None, valid_BE) for each in (feature_BEC, other_BEC))
    torch.testing.assert_close(one[:, :15], other[:, :15])


def test_tokens_of_padding_are_found_in_the_signal() -> None:
    architecture = hubert_ecg_architecture("tiny", 100.0)
    ecg_BLT = torch.randn(2, 1, 1000)
    ecg_BLT[1, :, 500:] = 0
    valid_BE = valid_tokens(ecg_BLT, architecture, count_tokens(architecture, 1, 1000))
    assert valid_BE[0].all()
    assert valid_BE[1].sum() == round(500 / 64)


def test_a_dropout_that_is_set_reaches_attention_too() -> None:
    """In `transformers` attention dropout is a number; walking over dropout modules misses it."""
    network = build_network(hubert_ecg_architecture("tiny", 100.0), 0.1)
    set_dropout(network, 0.25)
    rates = {module.p for module in network.encoder.modules() if isinstance(module, nn.Dropout)}
    rates |= {layer.attention.dropout for layer in network.encoder.layers}
    assert rates == {0.25}


def test_layers_are_skipped_by_chance_in_training_and_never_in_evaluation() -> None:
    torch.manual_seed(0)
    layer = build_network(hubert_ecg_architecture("tiny", 100.0)).encoder.layers[0]
    hidden_BEH = torch.randn(2, 10, 96)
    skipped = [torch.equal(run_layer(layer.train(), hidden_BEH, None, 0.3), hidden_BEH) for _ in range(200)]
    assert sum(skipped) == pytest.approx(60, abs=20)
    ran_BEH = run_layer(layer.eval(), hidden_BEH, None, 0.9)
    torch.testing.assert_close(ran_BEH, layer(hidden_BEH))
    assert not torch.equal(ran_BEH, hidden_BEH)


def test_another_rate_or_number_of_leads_is_refused() -> None:
    with pytest.raises(ValueError, match="50, 100, 500 Hz"):
        hubert_ecg_architecture("tiny", 250.0)
    with pytest.raises(ValueError, match="make 1 tokens, and 2 are the least"):
        count_tokens(hubert_ecg_architecture("tiny", 100.0), 1, 100)
