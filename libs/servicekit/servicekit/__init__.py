"""What every service shares and nothing of the domain: one file a concern, no file imports a service."""
