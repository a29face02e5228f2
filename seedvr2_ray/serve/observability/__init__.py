"""Logs, traces, gauges and error tracking."""
