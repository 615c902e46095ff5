"""What `inspect` prints of a LoRA, a relative, or an embedding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..adapters.inspection import EmbeddingReport
    from ..adapters.report import AdapterReport


def adapter_lines(report: AdapterReport | EmbeddingReport) -> Iterator[str]:
    """The lines of a report."""
    from ..adapters.inspection import EmbeddingReport
    from ..weights.keymap import summarize

    yield f"{report.path}: {report.kind}"
    if isinstance(report, EmbeddingReport):
        widths = ", ".join(f"{key} {width}" for key, width in report.widths.items())
        yield f"  word {report.word!r}, {report.vectors} vectors ({widths})"
        return
    yield f"  layout {report.layout}; {_counts(report.kinds)}"
    yield f"  modules {_counts(report.modules)}"
    if report.ranks:
        yield f"  rank {_counts(report.ranks, ' in ')}; alpha {_counts(report.alphas, ' in ') or 'not stated'}"
    if report.distilled is not None:
        yield f"  preset {report.distilled}"
    if report.trigger_words:
        yield f"  trained with {', '.join(report.trigger_words)}"
    if report.embeddings:
        yield f"  embeddings {', '.join(report.embeddings)}"
    for label, keys in (("unknown", report.unknown), ("ignored", report.ignored)):
        if keys:
            yield f"  {label} {len(keys)}: {summarize(keys)}"


def _counts(counts: Mapping[Any, int], between: str = " ") -> str:
    """Names with their numbers; a single one without."""
    if len(counts) == 1 and between != " ":
        return str(next(iter(counts)))
    return ", ".join(f"{name}{between}{count}" for name, count in counts.items())
