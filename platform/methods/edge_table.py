"""A model's files for small devices as lines to read: sizes, and what each answers on the validation fold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from trainables.edge_files import EdgeFile, smallest


def edge_lines(files: Sequence[EdgeFile]) -> Iterator[str]:
    """Yield a line a file, a table of its validation metrics, and the name of the smallest file."""
    width = max(len(file.path.name) for file in files)
    for file in files:
        yield (
            f"  {file.path.name:<{width}} {file.size_bytes:>9,} bytes; probabilities (or values) on validation differ "
            f"from PyTorch's by {file.difference:.1e} at most"
        )
    yield "validation: " + ", ".join(file.path.stem.removeprefix("model_") for file in files)
    names = list(files[0].scores)
    for name in names:
        yield f"  {name:<{max(map(len, names))}} " + " ".join(f"{file.scores[name]:>9.4f}" for file in files)
    least = smallest(files)
    yield f"smallest: {least.path.name}, {least.size_bytes / 1024:.2f} KiB"
