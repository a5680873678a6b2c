"""A predicted class, and the ways in which predictions can be asked for."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_TOP_K = 5
FORMATS = ("text", "json", "jsonl", "csv")  # in which predictions are written; formats.py says how


@dataclass(frozen=True)
class Prediction:
    """A class, what people call it, and how likely it is."""

    class_name: str  # the folder at training
    name: str
    probability: float  # 0 to 1

    def plain(self) -> dict[str, object]:
        """Return it under the keys that programs read."""
        return {"class": self.class_name, "name": self.name, "probability": self.probability}
