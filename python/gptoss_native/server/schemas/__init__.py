"""What requests may hold: OpenAI's shapes, as far as this server follows them."""
