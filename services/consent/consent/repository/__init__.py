"""Every table and all SQL of the door. Functions take the caller's session and never commit.

What a batch does is one statement a table: arrays in, rows out. Rows that belong to a client are only written by who
holds the client's row lock (`clients.lock`), so queue ids of one client rise in the order of commits.
"""
