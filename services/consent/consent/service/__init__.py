"""Use cases of the door: load, decide, write. None of them commits: whoever calls does."""
