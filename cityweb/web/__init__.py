"""Everything that knows HTTP: routes, views, responses and what wraps them."""
