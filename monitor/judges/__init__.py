"""From risk to incidents: one judge per family of rules. Each measures, asks `Incidents`, and has the story told."""
