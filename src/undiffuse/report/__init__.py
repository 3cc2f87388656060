"""The report of a run: one HTML page that needs no network. Matplotlib and jinja2 come in when it is made."""

from undiffuse.report.material import ReportMaterial
from undiffuse.report.page import render, write_report

__all__ = ["ReportMaterial", "render", "write_report"]
