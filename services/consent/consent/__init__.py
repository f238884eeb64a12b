"""The consent service: the only door. What comes in is kept here, what leaves is decided here."""
