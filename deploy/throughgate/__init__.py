"""Runs the whole of Throughgate on one machine, and provisions it on any."""
