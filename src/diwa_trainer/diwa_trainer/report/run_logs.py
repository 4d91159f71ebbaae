"""Reading the policy node's run logs: a start, a step for each control tick, an end; one file a run.

A file that a kill cut off is read up to the cut. The keys stand in `docs/report.md`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, cast

from diwa_runtime.actions import ACTION_SIZE
from diwa_runtime.errors import InputError
from diwa_runtime.kinds import NUMBER, WHOLE, shown
from diwa_runtime.logs.divergence import DivergenceSum
from diwa_runtime.logs.run_log import FORMAT_VERSION, SUFFIX
from diwa_runtime.logs.seams import Seams, Steps
from diwa_runtime.reading import parse_json, read_bytes, reason_of
from diwa_runtime.robot import Outcome
from diwa_runtime.spec import RATES_HZ

NO_END = "log ends without an end: the process was killed"
DROPPED = ("held", "missing", "faulty")
"""What the assembler counts and the page shows; `repeated` does no harm."""
_T = TypeVar("_T")


@dataclass(frozen=True)
class Step:
    """A control tick that led to a decision.

    Attributes:
        action: 7 in the Spec's units, 1 = full scale: translation 3, rotation 3, gripper.
        position: of the TCP, m.
        apart_m, apart_rad: shadow mode's divergence; None where nothing was compared.
    """

    stamp_ns: int
    step: int
    skill: str
    action: tuple[float, ...]
    begins_chunk: bool
    probability: float
    observation_age_s: float
    inference_s: float
    latent_change: float
    position: tuple[float, ...]
    apart_m: float | None
    apart_rad: float | None


@dataclass(frozen=True)
class End:
    """How a run ended; `divergence` is shadow mode's means, None where nothing was compared."""

    outcome: Outcome
    reason: str
    steps: int
    dropped: Mapping[str, int]
    seams: Seams
    divergence: DivergenceSum | None


@dataclass(frozen=True)
class Run:
    """One run: what it was asked, what it decided, and how it ended if its log says so.

    Attributes:
        name: of the file.
        started: UTC.
        bundles: SHA-256 by skill.
        thresholds: of success, by skill.
        limits: the policy node's settings of the run.
    """

    name: str
    started: datetime
    skills: tuple[str, ...]
    seed: int
    bundles: Mapping[str, str]
    thresholds: Mapping[str, float]
    rate_hz: float
    hold_after_s: float
    shadow: bool
    overlapped: bool
    limits: Mapping[str, Any]
    steps: tuple[Step, ...] = ()
    end: End | None = None

    @property
    def outcome(self) -> Outcome | None:
        """How it ended; None = its log has no end."""
        return None if self.end is None else self.end.outcome

    @property
    def reason(self) -> str:
        """Why it ended, in one line."""
        return NO_END if self.end is None else self.end.reason

    @property
    def ticks(self) -> int:
        """Control ticks, those included that led to no decision: the one that saw success, and rows made up."""
        if self.end is not None:
            return self.end.steps
        return self.steps[-1].step if self.steps else 0

    @property
    def robot_s(self) -> float:
        """How long it took in the observations' time."""
        return self.ticks / self.rate_hz

    @property
    def late(self) -> int:
        """Answers too late to be sent, counted from the steps: a log that was cut has no end line."""
        return sum(step.observation_age_s > self.hold_after_s for step in self.steps)

    @cached_property
    def times_s(self) -> list[float]:
        """Time of each step's observation since the first's."""
        return [(step.stamp_ns - self.steps[0].stamp_ns) / 1e9 for step in self.steps]


def log_paths(folder: Path) -> list[Path]:
    """The run logs that lie in a folder."""
    return sorted(path for path in Path(folder).glob(f"*{SUFFIX}") if path.is_file())


def read_runs(folder: Path) -> list[Run]:
    """Read all run logs of a folder, the oldest first.

    Raises:
        InputError: a file is empty, of another format, or damaged other than by a cut at its end.
    """
    runs = [read_run(path) for path in log_paths(folder)]
    return sorted(runs, key=lambda run: (run.started, run.steps[0].stamp_ns if run.steps else 0, run.name))


def read_run(path: Path) -> Run:
    """Read one run log.

    Raises:
        InputError: as `read_runs` says.
    """
    lines = _lines(path)
    if not lines:
        raise InputError(f"{path}: line 1 is missing, the file is empty; delete it")
    end, steps = None, []
    with _naming(path, 1):
        start = _start(path.name, _record(lines[0]))
    for number, line in enumerate(lines[1:], 2):
        with _naming(path, number):
            if end is not None:
                raise ValueError("it comes after the end")
            record = _record(line)
            if record.get("kind") == "end":
                end = _end(record)
            else:
                steps.append(_step(record, start.skills))
    return replace(start, steps=tuple(steps), end=end)


def _lines(path: Path) -> list[bytes]:
    """The lines of a file; a last one without its line break is left out if it is not whole, and not all there is."""
    try:
        *lines, rest = read_bytes(path).split(b"\n")
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({reason_of(error)}); take it out of the folder") from None
    if rest and (not lines or _is_whole(rest)):
        lines.append(rest)
    return lines


def _is_whole(line: bytes) -> bool:
    try:
        _record(line)
    except ValueError:
        return False
    return True


@contextmanager
def _naming(path: Path, number: int) -> Iterator[None]:
    """Name file and line of what cannot be read."""
    try:
        yield
    except ValueError as error:
        raise InputError(f"{path}: line {number} cannot be read: {error}; take the file out of the folder") from None


def _record(line: bytes) -> dict[str, Any]:
    try:
        record = parse_json(line)
    except ValueError as error:
        raise ValueError(f"it is not JSON ({reason_of(error)})") from None
    if not isinstance(record, dict):
        raise ValueError("it is no JSON object")
    return record


def _start(name: str, record: Mapping[str, Any]) -> Run:
    if record.get("kind") != "start":
        raise ValueError("it does not start a run of the policy node")
    if record.get("format_version") != FORMAT_VERSION:
        raise ValueError(f"format_version is {record.get('format_version')}, and {FORMAT_VERSION} is known here")
    limits = _take(record, "limits", dict)
    skills = tuple(_take(record, "skills", list))
    bundles, thresholds = _take(record, "bundles", dict), _take(record, "thresholds", dict)
    if not skills:
        raise ValueError("'skills' is empty")
    if not all(isinstance(skill, str) for skill in skills):
        raise ValueError(f"'skills' is {shown(list(skills))}, not a list of names")
    return Run(
        name=name,
        started=datetime.strptime(_take(record, "started", str), "%Y%m%dT%H%M%S.%fZ").replace(tzinfo=UTC),
        skills=skills,
        seed=_whole(record, "seed"),
        bundles={skill: _take(bundles, skill, str) for skill in skills},
        thresholds={skill: _number(thresholds, skill) for skill in skills},
        rate_hz=_rate(record, "rate_hz"),
        hold_after_s=_number(limits, "hold_after_s"),
        shadow=_take(limits, "shadow", bool),
        overlapped=_take(limits, "overlapped", bool),
        limits=limits,
    )


def _step(record: Mapping[str, Any], skills: Sequence[str]) -> Step:
    if record.get("kind") != "step":
        raise ValueError(f"it is neither step nor end, but {record.get('kind')!r}")
    if (skill := _take(record, "skill", str)) not in skills:
        raise ValueError(f"skill {skill!r} is none of the run's")
    return Step(
        stamp_ns=_whole(record, "stamp_ns"),
        step=_whole(record, "step"),
        skill=skill,
        action=_numbers(record, "action", ACTION_SIZE),
        begins_chunk=_take(record, "begins_chunk", bool),
        probability=_number(record, "probability"),
        observation_age_s=_number(record, "observation_age_s"),
        inference_s=_number(record, "inference_s"),
        latent_change=_number(record, "latent_change"),
        position=_numbers(record, "position", 3),
        apart_m=_number(record, "apart_m") if "apart_m" in record else None,
        apart_rad=_number(record, "apart_rad") if "apart_rad" in record else None,
    )


def _end(record: Mapping[str, Any]) -> End:
    seams, dropped = _take(record, "seams", dict), _take(record, "dropped", dict)
    outcome = _take(record, "outcome", str)
    if outcome not in Outcome.__members__:
        raise ValueError(f"outcome {outcome!r} is not known")
    return End(
        outcome=Outcome[outcome],
        reason=_take(record, "reason", str),
        steps=_whole(record, "steps"),
        dropped={name: _whole(dropped, name) for name in DROPPED},
        seams=Seams(
            count=_whole(seams, "count"),
            at_seams=_filled(Steps, _take(seams, "at_seams", dict)),
            within=_filled(Steps, _take(seams, "within", dict)),
        ),
        divergence=None if record.get("divergence") is None else _filled(DivergenceSum, record["divergence"]),
    )


def _filled(kind: type[_T], record: Mapping[str, Any]) -> _T:
    """Make a dataclass of numbers from the keys of its fields' names."""
    return kind(**{field.name: _number(record, field.name) for field in fields(kind)})  # type: ignore[arg-type]


def _take(record: Mapping[str, Any], name: str, kind: type[_T]) -> _T:
    """Return a value of the expected type."""
    if not isinstance(record, Mapping) or name not in record:
        raise ValueError(f"{name!r} is missing")
    value = record[name]
    if not isinstance(value, kind):
        raise ValueError(f"{name!r} is {value!r:.40}")
    return value


def _number(record: Mapping[str, Any], name: str) -> float:
    value: Any = _take(record, name, object)
    if not NUMBER.fits(value):
        raise ValueError(f"{name!r} is {value!r:.40}, not a finite number")
    return cast(float, value)


def _whole(record: Mapping[str, Any], name: str) -> int:
    value: Any = _take(record, name, object)
    if not WHOLE.fits(value):
        raise ValueError(f"{name!r} is {value!r:.40}, not a whole number")
    return cast(int, value)


def _rate(record: Mapping[str, Any], name: str) -> float:
    value = _number(record, name)
    if not RATES_HZ[0] <= value <= RATES_HZ[1]:
        raise ValueError(f"{name!r} is {value}, not from {RATES_HZ[0]:g} to {RATES_HZ[1]:g}")
    return value


def _numbers(record: Mapping[str, Any], name: str, count: int) -> tuple[float, ...]:
    values = _take(record, name, list)
    if len(values) != count:
        raise ValueError(f"{name!r} has {len(values)} values, not {count}")
    return tuple(_number({name: value}, name) for value in values)
