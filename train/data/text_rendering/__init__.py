"""Text rendered on photographs."""
