"""What a search leaves: a table of all heads that were tried, and a picture of it."""

from __future__ import annotations

from pathlib import Path

from flower_classifier.report.tables import Table, write_table


def write_tuning(folder: Path, rows: Table) -> None:
    """Write tuning.csv (`rows`: header first) and tuning.png. Raises RunError where that fails."""
    from flower_classifier.report.charts import draw_tuning
    from flower_classifier.report.figures import save_figure

    write_table(folder / "tuning.csv", rows)
    header, *heads = rows
    save_figure(draw_tuning([dict(zip(map(str, header), head, strict=True)) for head in heads]), folder / "tuning.png")
