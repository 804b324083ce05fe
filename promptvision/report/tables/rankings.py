"""Tables of published against embedded rankings: a row per method, and the correlations."""

from __future__ import annotations

from collections.abc import Sequence

from promptvision.errors import counted
from promptvision.report.literature.correlation import RESAMPLES
from promptvision.report.literature.rankings import SHOTS, Ranking, literature
from promptvision.report.tables.table import Column, Entry, Table, number_entry, score_entry

METHODS = (
    Column("method", number=False, head=True),
    Column("looked at", number=False),
    Column("published"),
    Column("embedded", score=True),
    Column("rank, published"),
    Column("rank, embedded"),
    Column("paper", number=False),
    Column("confidence", number=False),
)
CORRELATIONS = (
    Column("ranking", number=False, head=True),
    Column("methods", number=False, head=True),
    Column("n"),
    Column("rank correlation"),
    Column("95 %, from"),
    Column("to"),
)


def ranking_tables(rankings: Sequence[Ranking]) -> list[Table]:
    """Return a table of methods for each ranking, and one of all correlations."""
    return [*map(methods_table, rankings), correlations_table(rankings)]


def methods_table(ranking: Ranking) -> Table:
    """Return a row for each method with both numbers, the highest published one first."""
    facts, points = literature()[ranking.kind], ranking.points
    published = ranks([point.published.value for point in points])
    embedded = ranks([point.embedded.mean or 0.0 for point in points])
    rows: list[Sequence[Entry]] = [
        [
            Entry(point.published.name),
            Entry("yes" if point.looked_at else "no"),
            number_entry(point.published.value, "{:.2f}"),
            score_entry(point.embedded),
            *(number_entry(rank, "{:g}") for rank in (published[number], embedded[number])),
            *(Entry(text) for text in (point.published.paper, point.published.confidence)),
        ]
        for number, point in enumerate(points)
    ]
    about = (
        f"Published: {facts['published']} over 11 datasets, CLIP ViT-B/16, {SHOTS} images per class. Embedded: the "
        f"same over {counted(len(ranking.tasks), 'dataset')} ({', '.join(ranking.tasks)}), mean ± sample deviation "
        "over seeds. Looked at: the embedded world was designed with this method."
    )
    return Table(f"{facts['title']}: published and embedded", METHODS, rows, about)


def correlations_table(rankings: Sequence[Ranking]) -> Table:
    """Return Spearman's correlation for each ranking, over all methods and over those not looked at."""
    rows: list[Sequence[Entry]] = []
    for ranking in rankings:
        for tested, methods in ((False, "all"), (True, "not looked at")):
            found = ranking.correlation(tested)
            numbers = [number_entry(value, "{:.2f}") for value in (found.rho, found.low, found.high)]
            title = literature()[ranking.kind]["title"]
            rows.append([Entry(title), Entry(methods), number_entry(found.n, "{}"), *numbers])
    about = f"Spearman's rank correlation; interval: percentile bootstrap over methods, {RESAMPLES:,} draws."
    return Table("Rank correlation of published and embedded numbers", CORRELATIONS, rows, about)


def ranks(values: Sequence[float]) -> list[float]:
    """Return the rank of each value, 1 for the highest; equal values share the mean of their ranks."""
    return [sum(other > value for other in values) + (values.count(value) + 1) / 2 for value in values]
