"""Export of runs to files for use without the dashboard."""
