"""Callers of API v1: the same verbs for blocking and for asynchronous programs. Knows neither torch nor Ray."""
