"""The report of a run: one HTML page that needs no network. Imports neither matplotlib nor jinja2 before it is written."""

from undiffuse.report.material import ReportMaterial
from undiffuse.report.page import render, write_report

__all__ = ["ReportMaterial", "render", "write_report"]
