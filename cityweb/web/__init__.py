"""All HTTP: routes, views, responses, middleware."""
