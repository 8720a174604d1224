"""Everything that knows SQL: the schema, the questions and the changes, and an embedded server."""
