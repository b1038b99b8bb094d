"""Pages that a person looks at: what alignment changed, in numbers, curves and pictures.

    from mmalign.reports import Answer, Example, Report, write

    said = Answer("A red circle and a dog.", marks=((2, 12, "true"), (19, 22, "hallucinated")))
    example = Example(Path("a.png"), "What is here?", truth=("red circle",), answers={"base": said, ...})
    report = Report("Before and after", scores={"base": {"chair_i": 0.5}, ...}, examples=[example])
    write(report, Path("report.html"))

`write` makes one HTML file that asks for nothing else: no script, no font, no picture from anywhere, and a
content policy inside the page holds it to that. It needs the extra ``mmalign[report]``; `markdown`, the same
numbers as a table for a document, needs nothing.
"""

from mmalign.reports.comparison import markdown
from mmalign.reports.page import require, write
from mmalign.reports.report import KINDS, Answer, Example, Mark, Report

__all__ = ["KINDS", "Answer", "Example", "Mark", "Report", "markdown", "require", "write"]
