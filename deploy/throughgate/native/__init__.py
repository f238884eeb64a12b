"""Real PostgreSQL and Kafka without containers and without anything installed on the machine but Python."""
