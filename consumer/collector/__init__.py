"""What only the database and the broker know, read now and then, for metrics and pages."""
