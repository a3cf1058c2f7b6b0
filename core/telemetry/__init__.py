"""Metrics of sessions and trainings on their way to dashboards, and the alarms of a session."""
