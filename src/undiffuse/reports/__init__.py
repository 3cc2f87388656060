"""Reports: a self-contained HTML page of one run, or a comparison of several runs.

Matplotlib and jinja2 are imported when a page is rendered.
"""

from undiffuse.reports.compare import render_comparison, write_comparison
from undiffuse.reports.material import ReportMaterial
from undiffuse.reports.page import render, write_report
from undiffuse.reports.studies import Study, read_study

__all__ = ["ReportMaterial", "Study", "read_study", "render", "render_comparison", "write_comparison", "write_report"]
