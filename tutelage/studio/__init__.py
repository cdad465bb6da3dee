"""The studio: where people give the feedback. A web application over one database; it never loads torch."""
