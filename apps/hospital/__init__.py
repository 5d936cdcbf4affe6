"""A hospital on Basalt: tumours told apart from measurements, from the first record to rollback."""
