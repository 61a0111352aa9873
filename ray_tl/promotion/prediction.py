"""What a version says of an image; apart from the bundle, so that whoever passes it on needs no torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Prediction:
    """The answer for one image.

    Attributes:
        label: The most probable class.
        confidence: Its probability.
        probabilities: Of every class, in the order of the network.
        version: Of the model that answered.
    """

    label: str
    confidence: float
    probabilities: dict[str, float]
    version: str
