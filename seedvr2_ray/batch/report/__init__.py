"""How a job ended: outcomes on disk, figures, the report."""
