"""The report of a sweep of `method: peft`: backbones, methods, results and what follows from them, in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from platform.methods.finished_sweep import FinishedSweep
from platform.methods.peft.analysis import Leak, ablation_rows, findings
from platform.methods.peft.cells import Cell, best_by_method
from platform.pages.markdown import table
from platform.pages.units import format_bytes
from platform.sweeps.leaderboard import best_epoch
from trainables.peft_method import PeftConfig

CURVES, TRADE_OFF = "curves.svg", "trade_off.svg"
_SHOWN_PARAMS = (
    "lr", "head_lr", "batch_size", "warmup_epochs", "weight_decay", "rank", "alpha", "dropout", "bottleneck",
    "target_modules", "pooling",
)  # fmt: skip


@dataclass(frozen=True)
class PeftReport:
    """What the report is written from.

    Attributes:
        cells: the best cell first.
    """

    sweep: FinishedSweep
    cells: Sequence[Cell]
    leak: Leak

    def text(self) -> str:
        """Return the report."""
        return "\n\n".join(part for part in self._parts() if part) + "\n"

    def _parts(self) -> Iterator[str]:
        spec = self.sweep.spec
        yield f"# Parameter-efficient fine-tuning on ECG: {self.sweep.folder.name}"
        yield f"```\n{self.sweep.record.opened[-1].body['command']}\n```"
        yield "## Data"
        yield from self._data()
        yield "## Backbones"
        yield self._backbones()
        yield "## Methods and where they are placed"
        yield "Read off the built models; pooling and head are trained with every method."
        yield self._placement()
        yield "## Hyperparameters"
        n_trials = len(self.sweep.record.trials)
        objective = spec.search.objectives[0]
        yield (
            f"{n_trials} trials of at most {spec.budget.epochs} epochs, sampler {spec.search.sampler}, scheduler "
            f"{spec.search.scheduler}, seed {spec.seed}; selected by the best epoch's {objective.metric} on validation."
        )
        yield self._space()
        yield "Of each cell's best trial:"
        yield self._chosen()
        yield "## Results"
        yield self._tested()
        yield self.results()
        yield self.weights
        yield f"![F1 against trainable parameters]({TRADE_OFF})"
        yield "### Training and validation"
        yield self.weights
        yield f"![curves]({CURVES})"
        yield "### Segment against global normalisation"
        yield self._ablation()
        yield "## Analysis"
        yield "\n".join(f"- {sentence}" for sentence in findings(self.sweep, self.cells))

    def _table(self, columns: Sequence[str], rows: Sequence[Sequence[str]], n_text: int = 1) -> str:
        """Return a table under the line that says what the backbones started from, which no reader may miss."""
        return f"{self.weights}\n\n{table(columns, rows, n_text)}"

    # -------------------------------------------------------------- sections

    @property
    def weights(self) -> str:
        """The line over every table: what the backbones started from."""
        return f"> {weights_line(self.cells)}"

    def _data(self) -> Iterator[str]:
        sweep = self.sweep
        manifest, signal = sweep.description.manifest, sweep.dataset.signal
        assert manifest is not None
        yield (
            f"{sweep.spec.data.store} ({manifest.source}), fingerprint {manifest.fingerprint[:12]}: "
            f"leads {', '.join(signal.lead_names)}, {signal.n_timesteps} timesteps at "
            f"{signal.fs_hz:g} Hz. Labels: {sweep.dataset.label_set.name} ({sweep.dataset.label_set.task})."
        )
        names = sweep.dataset.label_set.names
        rows = [
            [role, f"{counts.n_records:,}", *(f"{count:,}" for count in counts.labels)]
            for role, counts in sweep.description.counts.items()
        ]
        yield self._table(["split", "records", *names], rows)
        steps = ", ".join(str(step.model_dump(mode="json")) for step in sweep.spec.data.preprocess) or "none"
        yield (
            f"Preprocessing before the model: {steps}. Inside the model, as part of the search: z-score of each lead "
            "of each window (`segment`), or with mean and deviation of the training records alone (`global`)."
        )
        yield "\n>\n".join(f"> {sentence}" for sentence in self.leak.sentences())

    def _backbones(self) -> str:
        rows = []
        for name, cell in {cell.backbone: cell for cell in self.cells}.items():
            config = cell.config
            placement = f"{config.lead_placement}, x{config.resample_factor:g}"
            n_parameters = min(c.n_parameters for c in self.cells if c.backbone == name)
            rows.append([name, config.weights, f"{n_parameters:,}", placement, str(cell.n_tokens)])
        columns = ["backbone", "weights", "parameters", "lead placement, resampling", "tokens"]
        return self._table(columns, rows, n_text=2)

    def _placement(self) -> str:
        rows = [
            [cell.backbone, cell.tuning, "; ".join(f"`{part.place}` {part.n_parameters:,}" for part in cell.trained)]
            for cell in best_by_method(self.cells)
        ]
        return self._table(["backbone", "method", "trained parameters"], rows, n_text=3)

    def _space(self) -> str:
        space = self.sweep.spec.space
        rows = [
            [
                f"`{parameter.name}`",
                f"{parameter.domain.verb} {parameter.domain.to_yaml()}",
                " and ".join(f"{each.parent}: {', '.join(map(str, each.values))}" for each in parameter.when),
            ]
            for parameter in space.parameters
        ]
        rows += [[f"`{name}`", str(value), ""] for name, value in space.fixed.items()]
        return self._table(["parameter", "values", "where"], rows, n_text=3)

    def _chosen(self) -> str:
        metric = self.sweep.spec.search.objectives[0]
        rows = []
        for cell in self.cells:
            values = [_shown(cell.config, name) for name in _SHOWN_PARAMS]
            epoch = best_epoch(cell.trial, metric.metric, metric.mode)
            rows.append([cell.name, cell.trial.trial, *values, str(epoch)])
        return self._table(["cell", "trial", *_SHOWN_PARAMS, "best epoch"], rows, n_text=2)

    def _tested(self) -> str:
        if self.sweep.held_out is None:
            return "There is no test fold: the numbers are of the validation folds, on which the trials were selected."
        looks = len(self.sweep.record.tested)
        return (
            f"On the test folds, with 95 % bootstrap intervals (resampled by patient where patients are known). "
            f"Thresholds are fitted on validation. Looks at the test folds so far: {looks}."
        )

    def results(self) -> str:
        """Return the table backbone x method, the better normalisation of each."""
        columns, rows = result_rows(self.cells)
        return self._table(columns, rows, n_text=3)

    def _ablation(self) -> str:
        rows = ablation_rows(self.sweep, self.cells)
        if not rows:
            return "No backbone and method has completed trials with both normalisations."
        return self._table(["backbone", "method", "segment", "global", "global - segment, paired"], rows, n_text=2)


def weights_line(cells: Sequence[Cell]) -> str:
    """Return what the backbones started from, in words."""
    weights = dict.fromkeys(cell.config.weights for cell in cells)
    note = (
        "; nothing is pretrained, so the numbers say what the methods cost, not what pretraining brings"
        if list(weights) == ["random"]
        else ""
    )
    return f"backbone weights: {', '.join(weights)}{note}"


def result_rows(cells: Sequence[Cell]) -> tuple[list[str], list[list[str]]]:
    """Return columns and rows of the table backbone x method."""
    shown = best_by_method(cells)
    metrics = list(dict.fromkeys(name for cell in shown for name in cell.numbers))
    columns = ["backbone", "method", "normalisation", *metrics]
    columns += ["trainable", "of all", "saved", "batch", "peak memory", "s an epoch"]
    rows = [
        [
            cell.backbone,
            cell.tuning,
            cell.config.normalisation,
            *(str(cell.numbers[name]) if name in cell.numbers else "" for name in metrics),
            f"{cell.n_trainable:,}",
            f"{cell.n_trainable / cell.n_parameters:.2%}",
            format_bytes(cell.saved_bytes),
            str(cell.config.batch_size),
            format_bytes(cell.peak_memory_bytes),
            f"{cell.epoch_s:.2f}",
        ]
        for cell in shown
    ]
    return columns, rows


def _shown(config: PeftConfig, name: str) -> str:
    """Return a parameter as text, empty where the method does not use it."""
    governor: Mapping[str, tuple[str, frozenset[str]]] = config.governed
    if name in governor and getattr(config, governor[name][0]) not in governor[name][1]:
        return ""
    value = getattr(config, name)
    return f"{value:.2g}" if isinstance(value, float) else str(value)
