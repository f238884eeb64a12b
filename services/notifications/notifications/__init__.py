"""Notifications: a release plan from custody events, and its steps told through the door when they are due."""
