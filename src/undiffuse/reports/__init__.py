"""Reports: one HTML page of a run, or of several side by side, that needs no network.

Matplotlib and jinja2 come in when a page is made.
"""

from undiffuse.reports.compare import render_comparison, write_comparison
from undiffuse.reports.material import ReportMaterial
from undiffuse.reports.page import render, write_report
from undiffuse.reports.studies import Study, read_study

__all__ = ["ReportMaterial", "Study", "read_study", "render", "render_comparison", "write_comparison", "write_report"]
