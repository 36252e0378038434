"""What is checked every 15 seconds: lost messages, lost events and dead readers."""
