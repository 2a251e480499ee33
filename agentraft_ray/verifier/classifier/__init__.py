"""What a classifying verifier is made of, whoever trains or serves it: labels, the text that it reads, its directory. No heavy imports."""

from __future__ import annotations

from agentraft_ray.verifier.classifier.labels import LABELS, PASS, label_of
from agentraft_ray.verifier.classifier.marks import marks_of
from agentraft_ray.verifier.classifier.rendering import RENDERING_VERSION, classifier_text, classifier_texts, request_text

__all__ = ["LABELS", "PASS", "RENDERING_VERSION", "classifier_text", "classifier_texts", "label_of", "marks_of", "request_text"]
