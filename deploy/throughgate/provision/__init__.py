"""Makes topics, users, access rules and databases, on any Kafka and PostgreSQL, as often as one likes."""
