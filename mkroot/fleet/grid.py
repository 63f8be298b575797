"""How jobs stand in a grid: recipes down, suites and architectures across."""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

import msgspec

from mkroot.fleet.model import Job


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the grid: a recipe with the values that the columns do not tell.

    cells: for each column the jobs there, by their place; more than one where a recipe is named twice. rest: jobs that
    have no suite or architecture, as those of a recipe that cannot be read.
    """

    label: str
    recipe: str
    cells: tuple[tuple[int, ...], ...]
    rest: tuple[int, ...] = ()


class Grid(msgspec.Struct, frozen=True, kw_only=True):
    """Jobs in a grid. columns: suite and architecture of each, those of one suite side by side."""

    columns: tuple[tuple[str, str], ...]
    lines: tuple[Line, ...]

    @property
    def labels(self) -> dict[int, str]:
        """The label of each job's line, by the job's place."""
        return {i: line.label for line in self.lines for cell in (*line.cells, line.rest) for i in cell}

    @property
    def filled(self) -> float:
        """The share of cells that hold a job."""
        cells = [cell for line in self.lines for cell in line.cells]
        return sum(map(bool, cells)) / len(cells) if cells else 0.0

    @property
    def suites(self) -> list[tuple[str, int]]:
        """Each suite, with the number of its columns."""
        found: dict[str, int] = {}
        for suite, _ in self.columns:
            found[suite] = found.get(suite, 0) + 1
        return list(found.items())


def grid(jobs: Sequence[Job]) -> Grid:
    """Return the grid of some jobs; lines, suites and architectures come in the order in which the jobs name them."""
    placed = [job for job in jobs if job.suite and job.architecture]
    suites = {job.suite: None for job in placed}
    architectures = {job.architecture: None for job in placed}
    there = {(job.suite, job.architecture) for job in placed}
    columns = [(s, a) for s in suites for a in architectures if (s, a) in there]
    at = {column: n for n, column in enumerate(columns)}
    labels = names([job.recipe for job in jobs])
    lines: dict[tuple[str, tuple[str, ...]], tuple[list[list[int]], list[int]]] = {}
    for index, job in enumerate(jobs):
        cells, rest = lines.setdefault((job.recipe, values(job)), ([[] for _ in columns], []))
        column = at.get((job.suite, job.architecture))
        (rest if column is None else cells[column]).append(index)
    return Grid(
        columns=tuple(columns),
        lines=tuple(
            Line(
                label=" ".join([labels[recipe], *varied]),
                recipe=recipe,
                cells=tuple(map(tuple, cells)),
                rest=tuple(rest),
            )
            for (recipe, varied), (cells, rest) in lines.items()
        ),
    )


def values(job: Job) -> tuple[str, ...]:
    """Return the values that make the job one of several of its recipe, `name=value`, without what its suite tells."""
    return tuple(
        f"{name}={job.defines[name]}"
        for name in sorted(job.varied)
        if name in job.defines and job.defines[name] != job.suite
    )


def names(paths: Sequence[str]) -> dict[str, str]:
    """Return a short name for each path of a recipe: that of the file alone, as far as it is one path's only."""
    short: dict[str, set[str]] = {}
    for path in paths:
        short.setdefault(_stem(path), set()).add(path)
    return {path: name if len(found) == 1 else path for name, found in short.items() for path in found}


def _stem(path: str) -> str:
    name = posixpath.basename(path)
    return (name.removesuffix(".yaml").removesuffix(".yml") or path) if name else path
