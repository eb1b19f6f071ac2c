"""Label rules of the Challenges: classes as scored officially, AdaGrad-Fusion's lists, Chapman's rhythms."""

import csv
from pathlib import Path

import numpy as np
import pytest

from data.kinds.challenge2021 import COUNT_COLUMNS, SourceSet
from data.snomed import (
    CHAPMAN_RHYTHMS,
    TABLES,
    adagrad_fusion_rule,
    all_rule,
    chapman_rhythm_rule,
    scored_diagnoses,
    scored_rule,
    scoring_weights,
)

# Published with the method: the label lists for counts above 200.
ADAGRAD_FUSION = {
    "g12ec": "AF IAVB IRBBB LAD LBBB LQRSV NSIVCB NSR PAC LQT QAb RBBB SA SB STach TAb TInv VPB",
    "ptbxl": "AF CRBBB IAVB IRBBB LAD LAnFB LBBB NSIVCB NSR PAC PR LPR QAb RAD SA SB STach TAb TInv",
    "ningbo": (
        "AFL BBB CLBBB CRBBB IAVB IRBBB LAD LAnFB LQRSV NSIVCB NSR PAC PR PRWP PVC LQT QAb RAD SA SB STach TAb TInv"
    ),
    "chapman": "AF AFL IAVB LAD LBBB LQRSV NSIVCB NSR PAC QAb RAD RBBB SB STach TAb VPB",
}


def test_30_scored_codes_are_26_classes_in_the_order_of_the_weights() -> None:
    rule = scored_rule()
    assert (len(rule.labels), len(rule.names)) == (30, 26)
    assert [name for name in rule.names if "|" in name] == ["CLBBB|LBBB", "CRBBB|RBBB", "PAC|SVPB", "PVC|VPB"]
    assert {rule.labels["713427006"], rule.labels["59118001"]} == {"CRBBB|RBBB"}
    assert (rule.names[0], rule.names[-1]) == ("AF", "TInv")


def test_scored_classes_are_those_of_the_official_abbreviations(recordings: Path) -> None:
    official = recordings / "tables/evaluation-2021/weights_abbreviations.csv"
    with official.open(encoding="utf-8", newline="") as file:
        assert tuple(next(csv.reader(file))[1:]) == scored_rule().names


def test_a_record_with_both_codes_of_a_class_has_the_class_once() -> None:
    rule = scored_rule()
    labels_NK = rule.binarise([{"713427006", "59118001"}, {"59118001"}, {"55827005"}, set()])
    assert labels_NK.sum(axis=1).tolist() == [1, 1, 0, 0]
    assert labels_NK[:, rule.names.index("CRBBB|RBBB")].tolist() == [1, 1, 0, 0]


@pytest.mark.parametrize(("source_set", "names"), ADAGRAD_FUSION.items())
def test_adagrad_fusions_rule_gives_its_published_lists(source_set: SourceSet, names: str) -> None:
    rule = adagrad_fusion_rule([COUNT_COLUMNS[source_set]], 200)
    assert rule.names == tuple(names.split())
    assert len(rule.names) == {"g12ec": 18, "ptbxl": 19, "ningbo": 23, "chapman": 16}[source_set]


def test_adagrad_fusions_counts_are_strictly_above_and_added_over_source_sets() -> None:
    counts = {row["Abbreviation"]: (int(row["Georgia"]), int(row["PTB_XL"])) for row in scored_diagnoses()}
    assert "LBBB" in adagrad_fusion_rule(["Georgia"], 230).names
    assert "LBBB" not in adagrad_fusion_rule(["Georgia"], counts["LBBB"][0]).names
    both = adagrad_fusion_rule(["Georgia", "PTB_XL"], 500).names
    assert both == tuple(name for name, count in counts.items() if sum(count) > 500)
    assert len(adagrad_fusion_rule(["Total"], 0).names) == 30


def test_equivalent_codes_stay_apart_in_adagrad_fusions_rule() -> None:
    rule = adagrad_fusion_rule(["Ningbo"], 200)
    assert rule.binarise([{"284470004", "63593006"}]).sum() == 1  # PAC is kept, SVPB (9 records) is not


@pytest.mark.parametrize(
    ("codes", "rhythms"),
    [
        ({"164889003"}, {"AFIB"}),
        ({"164890007"}, {"AF"}),
        ({"251166008"}, {"AVNRT"}),
        ({"233896004"}, {"AVNRT"}),
        ({"17366009"}, {"SAAWR"}),
        ({"195101003"}, {"SAAWR"}),
        ({"195101003", "426177001"}, {"SB"}),  # WAVN, a condition
        ({"164934002"}, set()),
    ],
)
def test_a_rhythm_is_told_from_a_condition_with_the_same_code(codes: set[str], rhythms: set[str]) -> None:
    rule = chapman_rhythm_rule()
    (labels_K,) = rule.binarise([codes])
    assert {rule.names[k] for k in np.flatnonzero(labels_K)} == rhythms


def test_chapmans_eleven_rhythms_each_have_a_code() -> None:
    rule = chapman_rhythm_rule()
    assert rule.names == CHAPMAN_RHYTHMS
    assert {*rule.labels.values(), *rule.last_resort.values()} == set(CHAPMAN_RHYTHMS)
    assert rule.last_resort == {"195101003": "SAAWR"}


def test_all_codes_are_named_by_abbreviation_where_a_table_has_one() -> None:
    rule = all_rule({"164889003", "425856008", "28189009", "233896004", "999"})
    assert rule.names == ("233896004", "2AVB2", "999", "AF", "PVT")
    assert rule.labels["164889003"] == "AF"


def test_no_two_codes_share_an_abbreviation() -> None:
    codes = {row["SNOMEDCTCode"] for name in ("scored", "unscored") for row in table(f"dx_mapping_{name}.csv")}
    assert len(codes) == 133
    assert len(set(all_rule(codes).names)) == 133


def table(name: str) -> list[dict[str, str]]:
    with (TABLES / "challenge2021" / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_scoring_weights_are_symmetric_with_full_credit_on_the_diagonal() -> None:
    weights = scoring_weights()
    assert weights.weights_CC.shape == (26, 26)
    np.testing.assert_array_equal(weights.weights_CC, weights.weights_CC.T)
    assert (np.diag(weights.weights_CC) == 1).all()
    assert weights.names[weights.normal] == "NSR"


@pytest.mark.parametrize("data_set", ADAGRAD_FUSION)
def test_every_label_of_adagrad_fusion_is_a_class_of_the_scoring(data_set: str) -> None:
    weights, labels = scoring_weights(), ADAGRAD_FUSION[data_set].split()
    columns = weights.columns(labels)
    assert columns is not None
    assert all(label in weights.names[column].split("|") for label, column in zip(labels, columns, strict=True))
    assert weights.columns(weights.names) == list(range(26))
    assert weights.columns(["AF", "sinus"]) is None
