"""The architectures that a search of tiny networks chooses from: one class and one line here adds another."""

from __future__ import annotations

from typing import Final

from trainables.candidates.afnet import AFNet, ContestAFNet, OptimizedAFNet, OptimizedAFNet5
from trainables.candidates.candidate import Candidate
from trainables.candidates.mobilenet import SimplifiedEfficientNet, SimplifiedMobileNet
from trainables.candidates.plain import LinearBinaryClassifier, SimpleCNN
from trainables.candidates.resnet import BoardResNet, ResNet18, ResNet384, SimpleResNet
from trainables.candidates.shufflenet import ShuffleNetV2, TinyShuffleNet, TorchShuffleNetV2

_TABLE: Final[tuple[type[Candidate], ...]] = (
    AFNet,
    OptimizedAFNet,
    ShuffleNetV2,
    ContestAFNet,
    OptimizedAFNet5,
    TinyShuffleNet,
    SimpleCNN,
    SimpleResNet,
    SimplifiedMobileNet,
    SimplifiedEfficientNet,
    LinearBinaryClassifier,
    BoardResNet,
    ResNet384,
    ResNet18,
    TorchShuffleNetV2,
)

CANDIDATES: Final = {candidate.__name__: candidate for candidate in _TABLE}
