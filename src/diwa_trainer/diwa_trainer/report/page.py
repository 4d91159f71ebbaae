"""The page as a whole: which sections, in which order, inside which frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.resources import files
from string import Template

from diwa_trainer.report import eyes_section, model_sections, result_sections, task_sections
from diwa_trainer.report.gather import Runs
from diwa_trainer.report.html import Html, join, section, text

MARK = '<p class="kicker">DiWA</p>'
"""What every page of ours has near its top."""

Draw = Callable[[Runs], Html]

SECTIONS: tuple[tuple[str, str, Draw], ...] = (
    ("results", "Before and after", result_sections.results),
    ("videos", "Same starts, side by side", result_sections.videos),
    ("data", "Data", model_sections.data),
    ("eyes", "Eyes", eyes_section.eyes),
    ("world-model", "World model", model_sections.world_model),
    ("pretraining", "Pre-training", task_sections.pretraining),
    ("reward", "Reward", task_sections.reward),
    ("finetuning", "Fine-tuning in imagination", task_sections.finetuning),
    ("provenance", "Provenance and settings", result_sections.provenance),
)


def render(runs: Runs) -> str:
    """Return the page as one HTML document that needs nothing from outside; a section without content is left out."""
    drawn = [(identifier, title, draw(runs)) for identifier, title, draw in SECTIONS]
    sections = [one for one in drawn if one[2]]
    return frame(result_sections.title(runs), result_sections.lead(runs), sections)


def frame(title: str, lead: Html, sections: Sequence[tuple[str, str, Html]]) -> str:
    """Put sections (identifier, title, content) into the document that every page shares."""
    package = files("diwa_trainer.report")
    template = Template(package.joinpath("page.html").read_text(encoding="utf-8"))
    links = (Html(f'<a href="#{identifier}">{text(heading)}</a>') for identifier, heading, _ in sections)
    return template.substitute(
        title=text(title),
        style=package.joinpath("style.css").read_text(encoding="utf-8"),
        lead=lead,
        contents=join(links),
        body=join(section(*one) for one in sections),
    )
