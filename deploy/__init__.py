"""What brings the platform into containers; nothing here is imported by a service."""
