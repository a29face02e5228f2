"""HTTP: what arrives and what leaves, in three dialects; no decisions about jobs."""
