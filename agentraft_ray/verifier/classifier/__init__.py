"""What a classifying verifier is made of, whoever trains or serves it: labels, the text that it reads, its directory. No heavy imports."""

from __future__ import annotations

from agentraft_ray.verifier.classifier.labels import LABELS, PASS, label_of
from agentraft_ray.verifier.classifier.marks import marks_of
from agentraft_ray.verifier.classifier.model_directory import ModelDirectory
from agentraft_ray.verifier.classifier.rendering import RENDERING_VERSION, classifier_text, classifier_texts, request_text
from agentraft_ray.verifier.classifier.scoring import Judged, Scoring

__all__ = [
    "LABELS",
    "PASS",
    "RENDERING_VERSION",
    "Judged",
    "ModelDirectory",
    "Scoring",
    "classifier_text",
    "classifier_texts",
    "label_of",
    "marks_of",
    "request_text",
]
