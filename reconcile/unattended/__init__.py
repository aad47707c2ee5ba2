"""What stands in for a person at night: the schedule, alerts, metrics."""
