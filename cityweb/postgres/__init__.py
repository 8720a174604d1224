"""All SQL: the schema, the questions, the changes, and an embedded server."""
