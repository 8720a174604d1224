"""The HTTP layer: routes, views, responses, middleware."""
