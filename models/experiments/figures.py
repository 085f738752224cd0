"""How the figures of an experiment are written."""

from collections.abc import Mapping
from typing import Any

UNDEFINED = "-"


def shown(value: float | None, form: str = ".4g") -> str:
    """A number, or that it is undefined."""
    return UNDEFINED if value is None else f"{value:{form}}"


def with_interval(figure: Mapping[str, float | None], sign: str = "") -> str:
    """A value and its interval."""
    form = f"{sign}.4g"
    return f"{shown(figure['value'], form)} [{shown(figure['low'], form)}, {shown(figure['high'], form)}]"


def lift(figure: Mapping[str, float | None]) -> str:
    """A relative difference and its interval, in percent."""
    if figure["value"] is None:
        return UNDEFINED
    return f"{shown(figure['value'], '+.2%')} [{shown(figure['low'], '+.2%')}, {shown(figure['high'], '+.2%')}]"


def legend(report: Mapping[str, Any]) -> list[str]:
    """What the figures of a report are, a line each."""
    users = ", ".join(f"{name} {arm['users']:,}" for name, arm in report["arms"].items())
    lines = [
        f"{report['users']:,} users ({users}) from {report['start'][:10]} on, who are the units; brackets are "
        f"{report['level']:.0%} intervals of one comparison, by the delta method."
    ]
    if report["adjusted_for"]:
        lines.append(
            f"Adjusted for {', '.join(report['adjusted_for'])} of the {report['before_days']} days before (CUPED: how "
            "much of the variance that takes off)."
        )
    if sequential := report.get("sequential"):
        lines.append(
            f"Day {sequential['days']} of {sequential['planned_days']}: a verdict is that of the bounds over all looks "
            f"and comparisons ({report['level']:.0%}), not of p."
        )
    else:
        lines.append("A verdict is that of Holm's p below 5 %; it holds for one look, at a time chosen before.")
    for name, same in report.get("aa", {}).items():
        says = "as it should be" if same["passed"] else "NOT as it should be: intervals of this metric are wrong"
        lines.append(
            f"A/A, {name}: {same['rejected']} of {same['splits']} random splits have p < 5 % "
            f"({same['low']} to {same['high']} expected): {says}"
        )
    return lines
