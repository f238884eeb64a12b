"""Use cases of the door: load, decide, write. None of them commits: the boundary does (servicekit.db.Database.run)."""
