"""The job on Ray: planning, restoring, finishing and publishing, and what the driver keeps in mind."""
