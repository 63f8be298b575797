"""A small search with learning (CDCL): it knows clauses and tags, nothing of packages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

Literal = int  # +n: variable n is true, -n: it is false; n from 1
Tag = int


class Unsatisfiable(Exception):
    """No assignment satisfies the clauses with these tags."""

    def __init__(self, tags: frozenset[Tag]) -> None:
        self.tags = tags
        super().__init__(f"{len(tags)} clauses collide")


class OutOfSteps(Exception):
    """The search was given up."""


class Solver:
    """Clauses over numbered variables. What to try next is the caller's choice, so that its preferences hold."""

    def __init__(self, limit: int = 200_000) -> None:
        """Give up (OutOfSteps) after `limit` conflicts."""
        self._limit = limit
        self._clauses: list[list[Literal]] = []
        self._tags: list[frozenset[Tag]] = []
        self._watch: dict[Literal, list[int]] = {}
        self.value: dict[int, bool] = {}
        self._level: dict[int, int] = {}
        self._reason: dict[int, int | None] = {}
        self._trail: list[Literal] = []
        self._starts: list[int] = []
        self._head = 0
        self._units: list[int] = []

    def add(self, literals: Iterable[Literal], tag: Tag) -> None:
        """Add a clause before the search; a tag names it in a failure."""
        self._append(list(dict.fromkeys(literals)), frozenset((tag,)))

    def _append(self, literals: list[Literal], tags: frozenset[Tag]) -> int:
        number = len(self._clauses)
        self._clauses.append(literals)
        self._tags.append(tags)
        if len(literals) < 2:
            self._units.append(number)
        else:
            for literal in literals[:2]:
                self._watch.setdefault(literal, []).append(number)
        return number

    def true(self, literal: Literal) -> bool | None:
        """Return whether a literal holds so far, None where its variable is open."""
        value = self.value.get(abs(literal))
        return None if value is None else value is (literal > 0)

    def solve(self, decide: Callable[[Solver], Literal | None]) -> set[int]:
        """Return the true variables of an assignment; `decide` returns None when all it cares for is fulfilled.

        Raises Unsatisfiable with the tags of clauses that collide, OutOfSteps.
        """
        for number in self._units:
            clause = self._clauses[number]
            if not clause:
                raise Unsatisfiable(self._tags[number])
            held = self.true(clause[0])
            if held is False:
                raise Unsatisfiable(self._blame(number))
            if held is None:
                self._assign(clause[0], number)
        conflicts = 0
        while True:
            broken = self._propagate()
            if broken is None:
                literal = decide(self)
                if literal is None:
                    return {v for v, value in self.value.items() if value}
                self._starts.append(len(self._trail))
                self._assign(literal, None)
                continue
            conflicts += 1
            if not self._starts:
                raise Unsatisfiable(self._blame(broken))
            if conflicts > self._limit:
                raise OutOfSteps
            self._learn(broken)

    def _assign(self, literal: Literal, reason: int | None) -> None:
        variable = abs(literal)
        self.value[variable] = literal > 0
        self._level[variable] = len(self._starts)
        self._reason[variable] = reason
        self._trail.append(literal)

    def _propagate(self) -> int | None:
        """Draw all conclusions; return the number of a clause that fails."""
        while self._head < len(self._trail):
            false = -self._trail[self._head]
            self._head += 1
            watchers = self._watch.get(false)
            if not watchers:
                continue
            kept: list[int] = []
            for position, number in enumerate(watchers):
                if not self._rewatch(number, false, kept):
                    self._watch[false] = kept + watchers[position + 1 :]
                    return number
            self._watch[false] = kept
        return None

    def _rewatch(self, number: int, false: Literal, kept: list[int]) -> bool:
        clause = self._clauses[number]
        if clause[0] == false:
            clause[0], clause[1] = clause[1], clause[0]
        first = self.true(clause[0])
        if first is not True:
            for i in range(2, len(clause)):
                if self.true(clause[i]) is not False:
                    clause[1], clause[i] = clause[i], clause[1]
                    self._watch.setdefault(clause[1], []).append(number)
                    return True
        kept.append(number)
        if first is False:
            return False
        if first is None:
            self._assign(clause[0], number)
        return True

    def _learn(self, broken: int) -> None:
        """Learn the first unique implication point's clause and go back to where it speaks."""
        level = len(self._starts)
        seen: set[int] = set()
        learned: list[Literal] = []
        tags = set(self._tags[broken])
        literals: Sequence[Literal] = self._clauses[broken]
        open_here, position = 0, len(self._trail) - 1
        while True:
            for literal in literals:
                variable = abs(literal)
                if variable in seen:
                    continue
                seen.add(variable)
                if self._level[variable] == level:
                    open_here += 1
                elif self._level[variable] > 0:
                    learned.append(literal)
                else:
                    tags |= self._blame_variable(variable)
            while abs(self._trail[position]) not in seen or self._level[abs(self._trail[position])] != level:
                position -= 1
            pivot = self._trail[position]
            position -= 1
            open_here -= 1
            if open_here == 0:
                break
            reason = self._reason[abs(pivot)]
            assert reason is not None
            tags |= self._tags[reason]
            literals = [x for x in self._clauses[reason] if x != pivot]
        learned.sort(key=lambda x: -self._level[abs(x)])
        back = self._level[abs(learned[0])] if learned else 0
        self._undo(back)
        number = self._append([-pivot, *learned], frozenset(tags))
        self._assign(-pivot, number)

    def _undo(self, level: int) -> None:
        start = self._starts[level]
        for literal in self._trail[start:]:
            variable = abs(literal)
            del self.value[variable], self._level[variable], self._reason[variable]
        del self._trail[start:], self._starts[level:]
        self._head = min(self._head, start)

    def _blame(self, number: int) -> frozenset[Tag]:
        tags = set(self._tags[number])
        for literal in self._clauses[number]:
            tags |= self._blame_variable(abs(literal))
        return frozenset(tags)

    def _blame_variable(self, variable: int) -> frozenset[Tag]:
        """Return the tags behind a conclusion drawn without any decision."""
        tags: set[Tag] = set()
        stack, seen = [variable], {variable}
        while stack:
            reason = self._reason.get(stack.pop())
            if reason is None:
                continue
            tags |= self._tags[reason]
            fresh = {abs(x) for x in self._clauses[reason]} - seen
            seen |= fresh
            stack += sorted(fresh)
        return frozenset(tags)
