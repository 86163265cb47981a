"""Studies: several runs that answer one question, and what they show."""
