"""All SQL: the schema, the queries and the changes, and the embedded server."""
