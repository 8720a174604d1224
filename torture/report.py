"""The table that is printed: a row for each check, with its threshold and its result."""

from dataclasses import dataclass, field


@dataclass
class Report:
    """Prints each row at once, and collects the numbers of the missed rows."""

    missed: list[str] = field(default_factory=list)
    number: str = ""

    def begin(self) -> None:
        print("| # | what | must hold | result | |\n| --- | --- | --- | --- | --- |", flush=True)

    def row(self, what: str, threshold: str, result: object, held: bool) -> None:
        """Prints one check of the current number, and records a miss."""
        if not held:
            self.missed.append(self.number)
        print(f"| {self.number} | {what} | {threshold} | {result} | {'held' if held else '**MISSED**'} |", flush=True)

    def at_most(self, what: str, result: float, most: float, unit: str) -> None:
        digits = 0 if most >= 1000 else 2
        self.row(what, f"≤ {most:g} {unit}", f"{result:,.{digits}f} {unit}", result <= most)

    def at_least(self, what: str, result: float, least: float, unit: str) -> None:
        digits = 2 if least < 10 else 0
        self.row(what, f"≥ {least:,g} {unit}", f"{result:,.{digits}f} {unit}", result >= least)

    def exactly(self, what: str, result: object, wanted: object) -> None:
        self.row(what, str(wanted), result, result == wanted)
