"""The pictures of a searched step: the elbow, and the quality of its clusters."""

from __future__ import annotations

from platform.chains.step_figures import StepPoint, measure_pictures


def point(feature_type: str, num_clusters: int) -> StepPoint:
    measures = {"inertia": 1 / num_clusters, "davies_bouldin": 1.2}
    return StepPoint({"feature_type": feature_type, "num_clusters": num_clusters}, measures)


def test_each_measure_is_a_picture_with_a_line_for_every_kind_of_features() -> None:
    pictures = measure_pictures([point(kind, number) for kind in ("mfcc", "mixed") for number in (100, 50, 200)])
    assert [each.title for each in pictures] == ["davies_bouldin over num_clusters", "inertia over num_clusters"]
    assert pictures[1].caption == "a line for each feature_type"
    html = str(pictures[1].figure)
    assert '"x":[50,100,200],"y":[0.02,0.01,0.005]' in html
    assert "feature_type mfcc" in html and "feature_type mixed" in html


def test_there_is_none_where_no_number_was_searched() -> None:
    assert measure_pictures([point("mfcc", 100), point("mixed", 100)]) == []
    assert measure_pictures([]) == []
