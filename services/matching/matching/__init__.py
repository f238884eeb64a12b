"""Matching: volunteers, and the best assignment of mentors to all who wait for one."""
